"""Images a second of one training step, this project against PyTorch and Keras, side by side.

    pip install -r benchmarks/requirements.txt
    python benchmarks/speed.py                               table, and plot in docs/speed.png
    python benchmarks/speed.py --only dcgan --rounds 3 --plot /tmp/speed.png

Same network (64x64, 5x5 kernels, 64 to 512 filters), same batch of 64 from memory, same machine.
Every configuration lives in a process of its own; they take turns, a few steps each, for several
rounds, so that what else the machine does falls on all alike. Figures are medians over the rounds.

The limit is the fastest matrix product seen in the same rounds over the multiplications that a
step can't do without: G's forward pass once, D's on photographs and on drawings, both gradients of
all of it, then D's forward pass and its input gradient on the drawings and G's gradients.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BATCH, SIZE, Z_DIM = 64, 64, 100

# Multiplications and additions of one forward pass of the four convolutions of D without the last
# dense layer, an image; G's are the same but for the dense layer at its start.
LAYERS = [(32, 3, 64), (16, 64, 128), (8, 128, 256), (4, 256, 512)]    # side out, channels
PASS = sum(2 * side ** 2 * 25 * c_in * c_out for side, c_in, c_out in LAYERS)
FIRST = 2 * LAYERS[0][0] ** 2 * 25 * LAYERS[0][1] * LAYERS[0][2]
DENSE = 2 * Z_DIM * 4 * 4 * 512
FLOP = ((PASS + DENSE) * 3 - DENSE                  # G: forward, both gradients (no input's of z)
        + 2 * (3 * PASS - FIRST)                    # D on both, no gradient of the images
        + 2 * PASS)                                 # the updated D: forward, input gradient


# this project

def dcgan(precision, fused, fast):
    sys.path.insert(0, ROOT)
    import numpy as np

    import session
    tf = session.set_up()
    import graph
    p = graph.build(fused_g_steps=int(fused), fast_for=precision if fast else None)
    with p.graph.as_default():
        initializer = tf.global_variables_initializer()
    sess = session.open_session(p.graph, precision)
    sess.run(initializer)
    rng = np.random.RandomState(0)
    feed = {p.X: rng.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)), p.is_training: True,
            p.noise: rng.uniform(-1, 1, (BATCH, Z_DIM))}

    def step():
        if fused:
            sess.run([p.optimizer_g, p.loss_d, p.loss_g, p.d_real, p.d_fake], feed)
        else:
            sess.run([p.optimizer_d, p.loss_d, p.d_real, p.d_fake], feed)
            sess.run([p.optimizer_g, p.loss_g], feed)
    return step


# PyTorch: the loop of pytorch/examples, written anew, and one that does only what is needed

def pytorch(precision, tuned, channels_last, compiled):
    import torch
    from torch import nn
    torch.set_num_threads(os.cpu_count())
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16')

    def norm(channels):
        layer = nn.BatchNorm2d(channels, eps=0.001, momentum=0.1)
        layer.weight.requires_grad_(False)          # no gamma
        return layer

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(Z_DIM, 4 * 4 * 512)
            layers = [norm(512), nn.ReLU(True)]
            for c_in, c_out in ((512, 256), (256, 128), (128, 64)):
                layers += [nn.ConvTranspose2d(c_in, c_out, 5, 2, 2, 1), norm(c_out), nn.ReLU(True)]
            self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 5, 2, 2, 1), nn.Tanh())

        def forward(self, z):
            return self.layers(self.dense(z).view(-1, 512, 4, 4))

    layers = [nn.Conv2d(3, 64, 5, 2, 2), nn.LeakyReLU(0.2, True)]
    for c_in, c_out in ((64, 128), (128, 256), (256, 512)):
        layers += [nn.Conv2d(c_in, c_out, 5, 2, 2), norm(c_out), nn.LeakyReLU(0.2, True)]
    d = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 4 * 512, 1))
    g = Generator()
    images = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
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

def keras(precision):
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    import tensorflow as tf
    layers = tf.keras.layers
    if precision == 'bfloat16':
        tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')

    def norm():
        return layers.BatchNormalization(momentum=0.9, epsilon=0.001, scale=False)
    g = [layers.Dense(4 * 4 * 512), layers.Reshape((4, 4, 512)), norm(), layers.ReLU()]
    for filters in (256, 128, 64):
        g += [layers.Conv2DTranspose(filters, 5, 2, 'same'), norm(), layers.ReLU()]
    g = tf.keras.Sequential(g + [layers.Conv2DTranspose(3, 5, 2, 'same', activation='tanh')])
    d = [layers.Conv2D(64, 5, 2, 'same'), layers.LeakyReLU(0.2)]
    for filters in (128, 256, 512):
        d += [layers.Conv2D(filters, 5, 2, 'same'), norm(), layers.LeakyReLU(0.2)]
    d = tf.keras.Sequential(d + [layers.Flatten(), layers.Dense(1, dtype='float32')])
    cross_entropy = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    optimizer_g, optimizer_d = (tf.keras.optimizers.Adam(2e-4, 0.5) for _ in range(2))
    images = tf.random.uniform((BATCH, SIZE, SIZE, 3), -1, 1)

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
CONFIGURATIONS = {}
for _precision in PRECISIONS:
    CONFIGURATIONS.update({
        f'product tensorflow {_precision}': (product, _precision, 'tensorflow'),
        f'product pytorch {_precision}': (product, _precision, 'pytorch'),
        f'dcgan two runs, plain convolutions {_precision}': (dcgan, _precision, False, False),
        f'dcgan two runs {_precision}': (dcgan, _precision, False, True),
        f'dcgan fused, plain convolutions {_precision}': (dcgan, _precision, True, False),
        f'dcgan fused {_precision}': (dcgan, _precision, True, True),
        f'pytorch as in its examples {_precision}': (pytorch, _precision, False, False, False),
        f'pytorch tuned {_precision}': (pytorch, _precision, True, False, False),
        f'pytorch tuned, channels last {_precision}': (pytorch, _precision, True, True, False),
        f'pytorch compiled {_precision}': (pytorch, _precision, True, False, True),
        f'pytorch compiled, channels last {_precision}': (pytorch, _precision, True, True, True),
        f'keras {_precision}': (keras, _precision),
    })


def serve(name):
    """Runs as many steps as each line of standard input says, and answers with the seconds."""
    function, *arguments = CONFIGURATIONS[name]
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                               # whatever the libraries print goes elsewhere
    step = function(*arguments)
    for _ in range(3):
        step()
    for line in _requests():
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - began, file=answers, flush=True)


def _requests():
    yield '0'                                   # ready
    yield from iter(sys.stdin.readline, '')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--only', default='', help='configurations whose name holds this')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=4, help='a turn')
    parser.add_argument('--plot', default=os.path.join(ROOT, 'docs', 'speed.png'))
    parser.add_argument('--serve', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)

    names = [name for name in CONFIGURATIONS if args.only in name or 'product' in name]
    seconds, peaks = {}, {}
    for precision in PRECISIONS:            # one after the other: all at once take 20 GB
        of_precision = [name for name in names if name.endswith(precision)]
        seconds.update(take_turns(of_precision, args.rounds, args.steps))
        peaks[precision] = 2 * PRODUCT ** 3 / 1e9 / min(
            min(seconds[name]) for name in of_precision if 'product' in name)
    rates = {name: BATCH / statistics.median(seconds[name]) for name in names}
    print(f'{FLOP / 1e9:.2f} GFLOP an image, batch {BATCH}, medians of {args.rounds} rounds')
    print(f'{"":40} images/s  GFLOP/s  of the peak')
    for precision, peak in peaks.items():
        print(f'{"limit " + precision:40} {peak * 1e9 / FLOP:8.1f} {peak:8.0f}  100 %')
        for name in names:
            if name.endswith(precision) and 'product' not in name:
                print(f'{name:40} {rates[name]:8.1f} {rates[name] * FLOP / 1e9:8.0f} '
                      f'{rates[name] * FLOP / peak / 1e7:4.0f} %')
    plot(args.plot, {name: rate for name, rate in rates.items() if 'product' not in name})


def take_turns(names, rounds, steps):
    """{name: seconds a step in each round} of the configurations, a process each."""
    workers = {}
    for name in names:
        print(f'starting {name}', file=sys.stderr)
        workers[name] = subprocess.Popen(
            [sys.executable, __file__, '--serve', name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
        workers[name].stdout.readline()
    seconds = {name: [] for name in names}
    for number in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write(f'{steps}\n')
            worker.stdin.flush()
            seconds[name].append(float(worker.stdout.readline()) / steps)
        print(f'round {number + 1} of {rounds}', file=sys.stderr)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return seconds


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
