"""A worker that trains networks of width 2 on random pixels, for test_cluster.py.

    python tests/cluster_worker.py NAME STEPS BATCH SETTINGS [TASK HOST:PORT ...]

It writes all variables to NAME-0.npz before the first step and to NAME-<step>.npz after each of
STEPS, two numbers with a comma. SETTINGS: settings as JSON. Without addresses it is the only
worker, and begins with the values in worker0-0.npz, because on TensorFlow 1.15 random numbers
depend on the number of ops in a graph.
"""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import train  # noqa: E402
from dcgan import session  # noqa: E402
from dcgan.batches import Batches  # noqa: E402
from dcgan.settings import DEFAULTS  # noqa: E402
from dcgan.worker import SINGLE  # noqa: E402


def main(name, steps, batch_size, settings, task=0, *addresses):
    tf = session.set_up(deterministic=True)
    import graph
    from dcgan import cluster
    task = int(task)
    settings = dict(DEFAULTS, image_size=32, batch_size=int(batch_size),
                    workers=len(addresses or [0]), **json.loads(settings))
    worker = cluster.Cluster(list(addresses), task) if addresses else SINGLE
    images = np.random.RandomState(0).randint(0, 256, (600, 32, 32, 3), np.uint8)
    model = graph.build(settings, width=2, worker=worker)
    batches = Batches(images, None, settings, task)
    with model.graph.as_default():
        initializer = tf.global_variables_initializer()
        broadcast = worker.broadcast(tf.global_variables())
        variables = {v.op.name: v for v in tf.global_variables()}
    with session.open_session(model.graph, worker=worker) as sess:
        if addresses:
            sess.run([] if task else initializer)
            sess.run(broadcast, options=worker.run_options)
            np.savez(f'{name}-0', **sess.run(variables))
        else:
            with np.load('worker0-0.npz') as values:
                for key, variable in variables.items():
                    variable.load(values[key], sess)
        steps = [int(step) for step in steps.split(',')]
        for step in range(max(steps)):
            feeds = batches.feeds(step, model)
            feeds[-1].update(worker.stop_feed(model, []))
            train.run_step(sess, model, settings, feeds, worker)
            if step + 1 in steps:
                np.savez(f'{name}-{step + 1}', **sess.run(variables))
        worker.barrier()


if __name__ == '__main__':
    main(*sys.argv[1:])
