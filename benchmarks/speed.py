"""Images a second of one training step, this project against PyTorch and Keras, side by side.

    pip install -r benchmarks/requirements.txt
    python benchmarks/speed.py --plot docs/speed.png
    python benchmarks/speed.py --only 'dcgan fused' --rounds 3
    python benchmarks/speed.py --image-size 128 --only bfloat16

Same network (5x5 kernels, 64 to 512 filters), same batch of 64 from memory, same machine. Every
configuration lives in a process of its own; they take turns, a few steps each, for several rounds,
so that what else the machine does falls on all alike. Figures are medians over the rounds; MB is
the most that a process ever held, its libraries included.

The limit is the fastest matrix product seen in the same rounds over the multiplications that a
step can't do without: G's forward pass once, D's on photographs and on drawings, both gradients of
all of it, then D's forward pass and its input gradient on the drawings and G's gradients.
"""
import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from dcgan import cli  # noqa: E402  found by the line above

BATCH, Z_DIM = 64, 100


def flop_of(size):
    """Multiplications and additions of a step, an image, without what could be saved."""
    # One forward pass of D's four convolutions; G's has the same sizes.
    layers = [(size // 2, 3, 64), (size // 4, 64, 128), (size // 8, 128, 256),
              (size // 16, 256, 512)]                           # side out, channels
    forward = [2 * side ** 2 * 25 * c_in * c_out for side, c_in, c_out in layers]
    dense = 2 * Z_DIM * (size // 16) ** 2 * 512
    return ((sum(forward) + dense) * 3 - dense          # G: forward, both gradients, none of z
            + 2 * (3 * sum(forward) - forward[0])       # D on both, no gradient of the images
            + 2 * sum(forward))                         # updated D: forward, input gradient


# this project

def dcgan(precision, size, fused, fast):
    import numpy as np

    from dcgan import session
    from dcgan.settings import DEFAULTS
    tf = session.set_up()
    import graph
    p = graph.build(dict(DEFAULTS, image_size=size, fused_step=fused),
                    conv_precision=precision if fast else None)
    with p.graph.as_default():
        initializer = tf.global_variables_initializer()
    sess = session.open_session(p.graph, precision)
    sess.run(initializer)
    rng = np.random.RandomState(0)
    feed = {p.X: rng.uniform(-1, 1, (BATCH, size, size, 3)), p.is_training: True,
            p.noise: rng.uniform(-1, 1, (BATCH, Z_DIM))}

    def step():
        if fused:
            sess.run([p.optimizer_g, p.loss_d, p.loss_g, p.d_real, p.d_fake], feed)
        else:
            sess.run([p.optimizer_d, p.loss_d, p.d_real, p.d_fake], feed)
            sess.run([p.optimizer_g, p.loss_g], feed)
    return step


# PyTorch: the loop of pytorch/examples, written anew, and one that does only what is needed

def pytorch(precision, size, tuned, channels_last, compiled):
    import torch
    from torch import nn
    torch.set_num_threads(os.cpu_count())
    start = size // 16
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16')

    def norm(channels):
        layer = nn.BatchNorm2d(channels, eps=0.001, momentum=0.1)
        layer.weight.requires_grad_(False)          # no gamma
        return layer

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(Z_DIM, start * start * 512)
            layers = [norm(512), nn.ReLU(True)]
            for c_in, c_out in ((512, 256), (256, 128), (128, 64)):
                layers += [nn.ConvTranspose2d(c_in, c_out, 5, 2, 2, 1), norm(c_out), nn.ReLU(True)]
            self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 5, 2, 2, 1), nn.Tanh())

        def forward(self, z):
            return self.layers(self.dense(z).view(-1, 512, start, start))

    layers = [nn.Conv2d(3, 64, 5, 2, 2), nn.LeakyReLU(0.2, True)]
    for c_in, c_out in ((64, 128), (128, 256), (256, 512)):
        layers += [nn.Conv2d(c_in, c_out, 5, 2, 2), norm(c_out), nn.LeakyReLU(0.2, True)]
    d = nn.Sequential(*layers, nn.Flatten(), nn.Linear(start * start * 512, 1))
    g = Generator()
    images = torch.rand(BATCH, 3, size, size) * 2 - 1
    if channels_last:
        g, d = (net.to(memory_format=torch.channels_last) for net in (g, d))
        images = images.to(memory_format=torch.channels_last)
    trained = {net: [p for p in net.parameters() if p.requires_grad] for net in (g, d)}
    optimizer_g, optimizer_d = (torch.optim.Adam(trained[net], 2e-4, betas=(0.5, 0.999))
                                for net in (g, d))
    run_g, run_d = (torch.compile(net) if compiled else net for net in (g, d))
    cross_entropy = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    def step():
        noise = torch.rand(BATCH, Z_DIM) * 2 - 1
        optimizer_d.zero_grad()
        with autocast:
            loss_real = cross_entropy(run_d(images), ones)
        if not tuned:
            loss_real.backward()
        with autocast:
            fake = run_g(noise)
            loss_fake = cross_entropy(run_d(fake.detach()), zeros)
        if tuned:
            (loss_real + loss_fake).backward()
        else:
            loss_fake.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        if tuned:
            for parameter in trained[d]:
                parameter.requires_grad_(False)
        with autocast:
            loss_g = cross_entropy(run_d(fake), ones)
        loss_g.backward()
        optimizer_g.step()
        for parameter in trained[d]:
            parameter.requires_grad_(True)
        return loss_real.item() + loss_fake.item(), loss_g.item()
    return step


# Keras and tf.function, as TensorFlow 2's own tutorial writes it

def keras(precision, size):
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    import tensorflow as tf
    layers = tf.keras.layers
    start = size // 16
    if precision == 'bfloat16':
        tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')

    def norm():
        return layers.BatchNormalization(momentum=0.9, epsilon=0.001, scale=False)
    g = [layers.Dense(start * start * 512), layers.Reshape((start, start, 512)), norm(),
         layers.ReLU()]
    for filters in (256, 128, 64):
        g += [layers.Conv2DTranspose(filters, 5, 2, 'same'), norm(), layers.ReLU()]
    g = tf.keras.Sequential(g + [layers.Conv2DTranspose(3, 5, 2, 'same', activation='tanh')])
    d = [layers.Conv2D(64, 5, 2, 'same'), layers.LeakyReLU(0.2)]
    for filters in (128, 256, 512):
        d += [layers.Conv2D(filters, 5, 2, 'same'), norm(), layers.LeakyReLU(0.2)]
    d = tf.keras.Sequential(d + [layers.Flatten(), layers.Dense(1, dtype='float32')])
    cross_entropy = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    optimizer_g, optimizer_d = (tf.keras.optimizers.Adam(2e-4, 0.5) for _ in range(2))
    images = tf.random.uniform((BATCH, size, size, 3), -1, 1)

    @tf.function
    def run():
        noise = tf.random.uniform((BATCH, Z_DIM), -1, 1)
        with tf.GradientTape() as tape_g, tf.GradientTape() as tape_d:
            fake = g(noise, training=True)
            real_logits, fake_logits = d(images, training=True), d(fake, training=True)
            loss_g = cross_entropy(tf.ones_like(fake_logits), fake_logits)
            loss_d = (cross_entropy(tf.ones_like(real_logits), real_logits)
                      + cross_entropy(tf.zeros_like(fake_logits), fake_logits))
        for tape, loss, net, optimizer in ((tape_g, loss_g, g, optimizer_g),
                                           (tape_d, loss_d, d, optimizer_d)):
            variables = net.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss_d, loss_g
    return lambda: [loss.numpy() for loss in run()]


# the machine's own limit

PRODUCT = 2048


def product(precision, library):
    if library == 'pytorch':
        import torch
        torch.set_num_threads(os.cpu_count())
        a, b = (torch.rand(PRODUCT, PRODUCT, dtype=getattr(torch, precision)) for _ in range(2))
        return lambda: torch.mm(a, b)
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    import tensorflow as tf
    a, b = (tf.cast(tf.random.uniform((PRODUCT, PRODUCT)), precision) for _ in range(2))
    return lambda: tf.matmul(a, b)


PRECISIONS = ('float32', 'bfloat16')


def configurations(size):
    """{name: function that returns the step to be timed}."""
    of_both = {
        'product tensorflow': (product, 'tensorflow'),
        'product pytorch': (product, 'pytorch'),
        'dcgan two runs, plain convolutions': (dcgan, size, False, False),
        'dcgan two runs': (dcgan, size, False, True),
        'dcgan fused, plain convolutions': (dcgan, size, True, False),
        'dcgan fused': (dcgan, size, True, True),
        'pytorch as in its examples': (pytorch, size, False, False, False),
        'pytorch tuned': (pytorch, size, True, False, False),
        'pytorch tuned, channels last': (pytorch, size, True, True, False),
        'pytorch compiled': (pytorch, size, True, False, True),
        'pytorch compiled, channels last': (pytorch, size, True, True, True),
        'keras': (keras, size)}
    return {f'{name} {precision}': functools.partial(function, precision, *arguments)
            for precision in PRECISIONS for name, (function, *arguments) in of_both.items()}


def serve(name, size):
    """Runs as many steps as each line of standard input says, and answers with the seconds.

    At the end of the input it answers with the most memory that it held, in MB.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                               # whatever the libraries print goes elsewhere
    step = configurations(size)[name]()
    for _ in range(3):
        step()
    for line in _requests():
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - began, file=answers, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=answers, flush=True)


def _requests():
    yield '0'                                   # ready
    yield from iter(sys.stdin.readline, '')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--image-size', type=int, default=64)
    parser.add_argument('--only', nargs='+', default=[''],
                        help='configurations whose name holds one of these')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=4, help='a turn')
    parser.add_argument('--plot', type=cli.path, help='a picture of the figures')
    parser.add_argument('--serve', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.image_size)

    flop = flop_of(args.image_size)
    rates = {}
    print(f'{args.image_size}x{args.image_size}, {flop / 1e9:.2f} GFLOP an image, batch {BATCH}, '
          f'medians of {args.rounds} rounds')
    print(f'{"":43} images/s  GFLOP/s  of the peak     MB')
    for precision in PRECISIONS:            # one after the other: all at once take 20 GB
        names = [name for name in configurations(args.image_size) if name.endswith(precision)]
        products = [name for name in names if 'product' in name]
        chosen = [name for name in names
                  if name not in products and any(part in name for part in args.only)]
        if not chosen:
            continue
        seconds, megabytes = take_turns(products + chosen, args)
        peak = 2 * PRODUCT ** 3 / min(min(seconds[name]) for name in products)
        print(f'{"limit " + precision:43} {peak / flop:8.1f} {peak / 1e9:8.0f}        100 %')
        for name in chosen:
            rate = rates[name] = BATCH / statistics.median(seconds[name])
            print(f'{name:43} {rate:8.1f} {rate * flop / 1e9:8.0f} {rate * flop / peak:12.0%} '
                  f'{megabytes[name]:6,.0f}')
    if args.plot:
        plot(args.plot, rates)


def take_turns(names, args):
    """({name: seconds a step in each round}, {name: MB}) of configurations, a process each."""
    workers = {}
    for name in names:
        print(f'starting {name}', file=sys.stderr)
        workers[name] = subprocess.Popen(
            [sys.executable, __file__, '--serve', name, '--image-size', str(args.image_size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            universal_newlines=True)
        workers[name].stdout.readline()
    seconds = {name: [] for name in names}
    for number in range(args.rounds):
        for name, worker in workers.items():
            worker.stdin.write(f'{args.steps}\n')
            worker.stdin.flush()
            seconds[name].append(float(worker.stdout.readline()) / args.steps)
        print(f'round {number + 1} of {args.rounds}', file=sys.stderr)
    megabytes = {}
    for name, worker in workers.items():
        worker.stdin.close()
        megabytes[name] = float(worker.stdout.readline())
        worker.wait()
    return seconds, megabytes


def plot(path, rates):
    """Bars of images a second, this project's in another colour."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 0.32 * len(rates) + 1), dpi=100)
    axes = figure.add_subplot(111)
    colours = ['tab:orange' if name.startswith('dcgan') else 'tab:blue' for name in rates]
    axes.barh(list(rates)[::-1], list(rates.values())[::-1], color=colours[::-1])
    axes.set_xlabel('images a second')
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    figure.savefig(path, bbox_inches='tight')


if __name__ == '__main__':
    sys.exit(main())
