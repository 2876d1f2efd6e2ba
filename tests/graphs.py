"""Small training graphs, begun with the golden figures' initial values."""
import numpy as np
import tensorflow.compat.v1 as tf

import formula
import graph
import recording
from dcgan.checkpoint import EMA_SUFFIX
from dcgan.settings import DEFAULTS

SMALL = {'image_size': 32, 'width': 4}
ARGUMENTS = ('width', 'worker', 'conv_precision', 'loss_scale')     # of graph.build


def build(fused_g_steps=0, label_count=0, **options):
    """graph.build with the default settings but for options, which may be build's arguments too.

    fused_g_steps: --g-steps with --fused-step, 0: without. label_count: of --attributes.
    """
    arguments = {name: options.pop(name) for name in ARGUMENTS if name in options}
    settings = dict(DEFAULTS, attributes=[f'attribute {n}' for n in range(label_count)])
    if fused_g_steps:
        settings.update(fused_step=True, g_steps=fused_g_steps)
    return graph.build(dict(settings, **options), **arguments)


def started(model, step=0):
    """(session with the golden figures' initial values, feed of a training step)."""
    sess = tf.Session(graph=model.graph)
    by_name = variables(model)
    # Variables that the golden figures have no rule for begin as in TensorFlow.
    initial = {name: np.full(v.shape.as_list(), float(name.endswith(('/RMSProp', '/gamma'))))
               if '/RMSProp' in name or name.endswith('/gamma') else
               formula.initial_value(name.replace(EMA_SUFFIX, '').replace('/u', '/kernel'),
                                     v.shape.as_list()) for name, v in by_name.items()}
    sess.run([v.initializer for v in by_name.values()],
             {v.initializer.inputs[1]: initial[name] for name, v in by_name.items()})
    feed = recording.feed(model, 1, True, size=32)
    if model.step is not None:
        feed[model.step] = step
    if model.labels is not None:
        shape = len(feed[model.noise]), model.labels.shape.as_list()[1]
        feed[model.labels] = np.random.RandomState(0).choice([-1, 1], shape)
    return sess, feed


def variables(model):
    """{name: variable} of a graph."""
    with model.graph.as_default():
        return {v.op.name: v for v in tf.global_variables()}


def values(model, sess):
    """{name: value} of all variables."""
    by_name = variables(model)
    return dict(zip(by_name, sess.run(list(by_name.values()))))


def recalibrated(model, sess, batches):
    """{name: batch-norm statistic of the EMA weights}, recalibrated by batches of noise."""
    sess.run(model.start_recalibration)
    for number, noise in enumerate(batches):
        sess.run(model.recalibrate, {model.noise: noise, model.recalibration_batch: number + 1})
    return sess.run({name: v for name, v in variables(model).items()
                     if 'moving' in name and name.endswith(EMA_SUFFIX)})
