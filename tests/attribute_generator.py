"""A checkpoint of a small generator with two attributes, to export and to draw from."""
import numpy as np
import tensorflow.compat.v1 as tf

import models
from dcgan import checkpoint
from dcgan.files import write_json

NAMES, SIZE, Z_DIM, WIDTH = ['Red', 'Light'], 48, 20, 3


def write(folder):
    """Writes the checkpoint into a folder; returns its prefix.

    All values are random, and those of the EMA differ from the others: a variable that is missing
    or confused with another one changes the images.
    """
    prefix = str(folder / 'dcgan_celeba-7')
    rng = np.random.RandomState(0)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        models.generator(tf.placeholder(tf.float32, [None, Z_DIM]), False, SIZE, WIDTH,
                         labels=tf.placeholder(tf.float32, [None, len(NAMES)]))
        variables = checkpoint.variables_by_name(tf.global_variables())
        saved = {}
        for ending in ('', checkpoint.EMA_SUFFIX):
            for name, variable in variables.items():
                shape = variable.shape.as_list()
                value = (rng.uniform(0.5, 2, shape) if name.endswith('variance') else
                         rng.normal(0, 0.2, shape))
                saved[name + ending] = tf.get_variable(f'saved{len(saved)}',
                                                       initializer=value.astype(np.float32))
        sess.run(tf.variables_initializer(list(saved.values())))
        tf.train.Saver(saved).save(sess, prefix, write_meta_graph=False)
        assert graph.get_tensor_by_name('generator/g/Tanh:0').shape.as_list()[1:] == [48, 48, 3]
    write_json(prefix + '.json', {
        'settings': {'attributes': NAMES, 'dataset': 'toy', 'crop': 0},
        'data': {'dataset': 'toy', 'photographs': 9, 'crc32': 1},
        'step': 7, 'epoch': 1.0,
        'labels': ['+-', '--', '-+']})
    return prefix
