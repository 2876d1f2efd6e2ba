"""Images a second of a generator in each runtime that export.py writes for.

    python benchmarks/export.py --ckpt model/dcgan_celeba
    python benchmarks/export.py --rounds 5 --batch 1

Alternating: the checkpoint's own session, then what export.py writes for each. Loading and a first
batch are not counted.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from dcgan import cli  # noqa: E402  found by the line above

WAYS = [('savedmodel', 'float32'), ('onnx', 'float32'), ('onnx', 'float16'),
        ('tflite', 'float32'), ('tflite', 'float16')]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ckpt', type=cli.path, default=os.path.join(ROOT, 'model'))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--batches', type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = {way: os.path.join(folder, '-'.join(way)) for way in WAYS}
        for (kind, weights), path in paths.items():
            subprocess.check_call([sys.executable, os.path.join(ROOT, 'export.py'), '--ckpt',
                                   args.ckpt, '--format', kind, '--weights', weights, '--out',
                                   path], stdout=subprocess.DEVNULL)
        measure(args, paths)


def measure(args, paths):
    import export
    import sampler
    from dcgan import checkpoint, session
    session.set_up()
    with sampler.Sampler(checkpoint.find(args.ckpt)) as original:
        def draw_original(path, feeds):
            return [original.run(**feed) for feed in feeds]

        feed = {'noise': next(original.latents(0, args.batch, args.batch)).astype(np.float32)}
        if original.attributes:
            feed['labels'] = original.labels(0, args.batch).astype(np.float32)
        ways = {('generate.py', ''): (draw_original, None)}
        ways.update({way: (export.FORMATS[way[0]][1], path) for way, path in paths.items()})
        rates = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, (draw, path) in ways.items():
                rates[way].append(rate(draw, path, feed, args.batches))
    for way, seen in rates.items():
        print(f'{" ".join(way):20} {statistics.median(seen):7.0f} images/s '
              f'({min(seen):.0f} to {max(seen):.0f})')


def rate(draw, path, feed, batches):
    from dcgan import session
    seconds = []
    for count in (1, 1 + batches):
        began = time.perf_counter()
        with session.hidden_stderr():
            draw(path, [feed] * count)
        seconds.append(time.perf_counter() - began)
    return batches * len(feed['noise']) / (seconds[1] - seconds[0])


if __name__ == '__main__':
    main()
