"""Measures the cost of augmentation: a batch alone, and steps in turns with those without it.

    python benchmarks/augment.py
    python benchmarks/augment.py --image-size 128

The steps are those of train.py --fused-step --precision auto, whose next batch is made by another
thread while one runs; the configurations take turns, a few steps each, for several rounds. `made`
is how many photographs a second are augmented and scaled while nothing is trained. `waited`
is the share of the time that the steps waited for it: what is above zero is a bottleneck. Medians.
"""
import argparse
import concurrent.futures
import os
import statistics
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import train  # noqa: E402
from dcgan import augment, batches, session  # noqa: E402
from dcgan.settings import DEFAULTS, DIFFAUGMENT  # noqa: E402

PHOTOGRAPHS = 1000
MADE = 5            # batches of each turn that are made alone
ALL = list(augment.AUGMENTATIONS)
CONFIGURATIONS = {'none': {}, **{name: {'augment': [name]} for name in ALL},
                  ','.join(ALL): {'augment': ALL},
                  'diffaugment': {'diffaugment': list(DIFFAUGMENT)}}


class Run:
    """A training in a session of its own, or in that of another one with the same graph."""

    def __init__(self, tf, images, change, like=None):
        precision, _ = session.choose_precision('auto')
        self.settings = dict(DEFAULTS, image_size=images.shape[1], fused_step=True, **change)
        self.batches = batches.Batches(images, None, self.settings)
        self.step = 0
        if like:
            self.p, self.sess = like.p, like.sess
            return
        import graph
        self.p = graph.build(self.settings,
                             conv_precision=session.conv_precision(precision))
        with self.p.graph.as_default():
            initializer = tf.global_variables_initializer()
        self.sess = session.open_session(self.p.graph, precision)
        self.sess.run(initializer)

    def made(self):
        """Photographs a second of the batches alone."""
        self.batches.feeds(self.step, self.p)           # memory is fetched
        began = time.perf_counter()
        for step in range(MADE):
            self.batches.feeds(step, self.p)
        return MADE * self.batches.batch_size / (time.perf_counter() - began)

    def train(self, steps, ahead):
        """(images a second, share of the time that was waited for batches) of so many steps."""
        waited, began = 0.0, time.perf_counter()
        next_feeds = ahead.submit(self.batches.feeds, self.step, self.p)
        for number in range(steps + 1):
            if number == 1:             # the first batch is nothing to be made during
                waited, began = 0.0, time.perf_counter()
            asked = time.perf_counter()
            feeds = next_feeds.result()
            waited += time.perf_counter() - asked
            self.step += 1
            next_feeds = ahead.submit(self.batches.feeds, self.step, self.p)
            train.run_step(self.sess, self.p, self.settings, feeds, [], None)
        seconds = time.perf_counter() - began
        next_feeds.result()             # or it would be made beside the next configuration's
        return steps * self.batches.batch_size / seconds, waited / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--image-size', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=6, help='a turn')
    args = parser.parse_args()

    tf = session.set_up()
    side = args.image_size
    images = np.random.RandomState(0).randint(0, 256, (PHOTOGRAPHS, side, side, 3), np.uint8)
    runs = {}
    for name, change in CONFIGURATIONS.items():
        runs[name] = Run(tf, images, change, None if 'diffaugment' in change else runs.get('none'))
    figures = {name: [] for name in runs}
    with concurrent.futures.ThreadPoolExecutor(1) as ahead:
        for number in range(args.rounds):
            for name, run in runs.items():
                figures[name].append((run.made(), *run.train(args.steps, ahead)))
            print(f'round {number + 1} of {args.rounds}', file=sys.stderr)

    print(f'{side}x{side}\n{"":24} made a second  trained a second  of none  waited')
    rates = {name: [rate for _, rate, _ in figures[name]] for name in runs}
    for name in runs:
        made, rate, waited = (statistics.median(values) for values in zip(*figures[name]))
        share = statistics.median(one / none for one, none in zip(rates[name], rates['none']))
        print(f'{name:24} {made:13,.0f} {rate:17,.1f} {share:8.3f} {waited:7.2%}')


if __name__ == '__main__':
    main()
