"""Time and memory of preparing, training and generating as the set grows.

    python benchmarks/growth.py                                  1,000 to 200,000 photographs
    python benchmarks/growth.py --counts 1000 10000

The photographs are 1,000 drawn faces, JPEGs of 250x250, and hard links to them. Every figure comes
from a process of its own, its start included; MB is the most that process ever held, its code and
mapped files included. `prepare` decodes them. `epoch` reads every batch of an epoch as training
does, without the training. `train` is train.py for 60 steps in the fastest way; `outside` is the
share of its loop's time that passed outside of `sess.run`. `generate` draws as many faces of 32x32,
each a PNG.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
DISTINCT = 1000             # photographs
SIZE, CROP, BATCH, STEPS = 64, 150, 64, 60


def draw_photographs(folder):
    from dcgan import toy
    os.makedirs(folder)
    for number in range(DISTINCT):
        face = toy.draw(f'face {number}').resize((250, 250))
        face.save(os.path.join(folder, f'{number:04d}.jpg'), quality=90)


def link(faces, folder, count):
    """A set of count photographs, 1,000 a folder."""
    for number in range(count):
        if number % DISTINCT == 0:
            part = os.path.join(folder, f'{number // DISTINCT:04d}')
            os.makedirs(part)
        name = f'{number % DISTINCT:04d}.jpg'
        os.link(os.path.join(faces, name), os.path.join(part, name))


# what is measured, each in a process of its own

def prepare(photographs, home, count):
    from dcgan import cache, datasets
    cache.load(datasets.find(photographs, home), SIZE, CROP, home)


def epoch(photographs, home, count):
    from dcgan import batches, cache, datasets
    images = cache.load(datasets.find(photographs, home), SIZE, CROP, home).images
    for step in range(len(images) // BATCH):
        batches.scaled(batches.batch(images, BATCH, 0, step))
        batches.noise(0, step, BATCH, 100)


def train(photographs, home, count):
    """Returns the share of the loop's time that passed outside of `sess.run`."""
    from dcgan import session
    tf = session.set_up()
    import train as program
    runs, run = [], tf.Session.run

    def timed(sess, fetches, *feed):
        began = time.perf_counter()
        result = run(sess, fetches, *feed)
        if isinstance(fetches, list):       # a step's, as no other run's
            runs.append((began, time.perf_counter()))
        return result
    tf.Session.run = timed
    program.main(['--dataset', photographs, '--data-dir', home, '--crop', str(CROP),
                  '--fused-step', '--precision', 'auto', '--max-steps', str(STEPS),
                  '--model-dir', os.path.join(home, 'model'),
                  '--samples-dir', os.path.join(home, 'samples')])
    steps = runs[STEPS // 2:]
    return 1 - sum(end - began for began, end in steps) / (steps[-1][1] - steps[0][0])


def generate(photographs, home, count):
    import generate as program
    program.main(['--ckpt', os.path.join(os.path.dirname(photographs), 'model'), '--num',
                  str(count), '--separate', '--out', os.path.join(home, 'out')])


STAGES = {stage.__name__: stage for stage in (prepare, epoch, train, generate)}


def measure(stage, *arguments):
    """(seconds, peak in MB, result) of a stage in a process of its own."""
    answer = subprocess.run([sys.executable, __file__, '--stage', stage, *arguments], check=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(answer.stdout.splitlines()[-1].decode())


def run_stage(stage, photographs, home, count):
    began = time.perf_counter()
    result = STAGES[stage](photographs, home, int(count))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print('\n' + json.dumps([seconds, peak, result]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--counts', type=int, nargs='+', default=[1000, 10000, 100000, 200000])
    parser.add_argument('--stage', nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        return run_stage(*args.stage)

    print(f'{"":11} {"prepare":>17} {"epoch":>17} {"train":>26} {"generate":>17}')
    print(f'{"photographs":11} {"a second":>9} {"MB":>7} {"a second":>9} {"MB":>7} '
          f'{"a second":>9} {"MB":>7} {"outside":>8} {"a second":>9} {"MB":>7}', flush=True)
    with tempfile.TemporaryDirectory() as home:
        faces = os.path.join(home, 'faces')
        draw_photographs(faces)
        subprocess.run([sys.executable, os.path.join(ROOT, 'train.py'), '--dataset', 'toy',
                        '--image-size', '32', '--max-steps', '1'], cwd=home, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for count in args.counts:
            photographs = os.path.join(home, str(count))
            link(faces, photographs, count)
            row = f'{count:11,}'
            for stage in STAGES:
                seconds, peak, outside = measure(stage, photographs, photographs + '-home',
                                                 str(count))
                done = STEPS * BATCH if stage == 'train' else count
                row += f' {done / seconds:9,.0f} {peak:7,.0f}'
                row += f' {outside:8.1%}' if stage == 'train' else ''
            print(row, flush=True)


if __name__ == '__main__':
    main()
