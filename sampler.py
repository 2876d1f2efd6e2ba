"""A trained generator, ready to draw: what generate.py and evaluate.py have in common."""
import numpy as np

import checkpoint
import pictures
import session


class Sampler:
    """The generator of a checkpoint in a session of its own; to be used in a `with`.

    Where the checkpoint holds a moving average of the weights, that draws, unless raw. The same
    noise draws the same images whatever the batch. Raises CheckpointError where the checkpoint
    can't be used. To be made after session.set_up.

    prefix, image_size, z_dim and averaged say what draws; sess and saver are for those who save it:
    its variables under the plain names.
    """

    def __init__(self, prefix, raw=False):
        import tensorflow.compat.v1 as tf

        import models
        import ops
        self.prefix = prefix
        self.image_size, self.z_dim, width, averaged = checkpoint.generator_facts(prefix)
        self.averaged = averaged and not raw
        fast_for = 'float32' if session.has_onednn() else None
        with tf.Graph().as_default() as graph, ops.fast_convolutions(fast_for):
            self.noise = tf.placeholder(tf.float32, [None, self.z_dim], name='noise')
            self.g = models.generator(self.noise, is_training=False, image_size=self.image_size,
                                      width=width)
            variables = checkpoint.by_name(tf.global_variables(), self.averaged)
            loader, self.saver = tf.train.Saver(variables), tf.train.Saver()
        self.sess = session.open_session(graph)
        checkpoint.restore(self.sess, loader, prefix, variables)

    def draw(self, noise):
        """uint8 images [n, h, w, 3] of noise [n, z_dim] in one run."""
        return pictures.to_uint8(self.sess.run(self.g, {self.noise: noise}))

    def draw_many(self, seed, count, batch_size=64):
        """Yields the images 0 to count - 1 of a seed in batches, as draw does."""
        return map(self.draw, self.latents(seed, count, batch_size))

    def latents(self, seed, count, batch_size=64):
        """Yields the noise that the images 0 to count - 1 of a seed are drawn from, in batches."""
        rng = np.random.RandomState(seed)
        for start in range(0, count, batch_size):
            yield rng.uniform(-1, 1, (min(batch_size, count - start), self.z_dim))

    def latent(self, seed):
        """The noise [z_dim] of image 0 of a seed."""
        return next(self.latents(seed, 1))[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.sess.close()
