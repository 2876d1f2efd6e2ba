"""A trained generator, ready to draw: shared by the programs that draw."""
import zlib

import numpy as np

from dcgan import checkpoint, metadata, pictures, session


class Sampler:
    """Draws with a checkpoint's generator in a session of its own; for use in a `with`.

    If the checkpoint holds an EMA of the weights, the EMA draws, unless raw. The same noise gives
    the same images at any batch size. plain: use only TensorFlow's own kernels, which other
    runtimes know. Raises CheckpointError if the checkpoint can't be used, or if it holds only the
    EMA and raw is given. Call session.set_up first.

    prefix, image_size, z_dim, averaged (whether the EMA draws) and attributes (names of the labels,
    often none) describe the generator. sess, saver, inputs (placeholders by name) and g (their
    images) are for programs that save it; saver saves the variables under their plain names.
    """

    def __init__(self, prefix, raw=False, plain=False):
        import tensorflow.compat.v1 as tf

        import models
        from dcgan import convolutions
        self.prefix = prefix
        self.image_size, self.z_dim, width, has_ema = checkpoint.read_generator(prefix)
        self.attributes, self.known_labels = metadata.read_labels(prefix)
        is_ema = metadata.read(prefix).get('averaged') is True      # as save_generator notes it
        if is_ema and raw:
            raise checkpoint.CheckpointError(f'{prefix}: holds averaged weights alone, --raw has '
                                             'none to draw with')
        use_ema = has_ema and not raw
        self.averaged = use_ema or is_ema
        with tf.Graph().as_default() as graph:
            convolutions.tune(session.conv_precision('float32', plain))
            sizes = {'noise': self.z_dim}
            if self.attributes:
                sizes['labels'] = len(self.attributes)
            self.inputs = {name: tf.placeholder(tf.float32, [None, size], name=name)
                           for name, size in sizes.items()}
            self.g = models.generator(self.inputs['noise'], is_training=False,
                                      image_size=self.image_size, width=width,
                                      labels=self.inputs.get('labels'))
            variables = checkpoint.variables_by_name(tf.global_variables(), use_ema)
            loader, self.saver = tf.train.Saver(variables), tf.train.Saver()
        self.sess = session.open_session(graph)
        checkpoint.restore(self.sess, loader, prefix, variables)

    def draw(self, noise, labels):
        """uint8 images [n, h, w, 3] of noise [n, z_dim] and labels [n, l], from one run."""
        return pictures.to_uint8(self.run(noise, labels))

    def run(self, noise, labels=None):
        """The images that draw returns, as float32 in [-1, 1]."""
        values = {'noise': noise, 'labels': labels}
        return self.sess.run(self.g, {self.inputs[name]: values[name] for name in self.inputs})

    def draw_many(self, seed, count, batch_size=64):
        """Yields images 0 to count - 1 of a seed in batches, uint8 [n, h, w, 3]."""
        labels = self.labels(seed, count)
        for number, noise in enumerate(self.latents(seed, count, batch_size)):
            start = number * batch_size
            yield self.draw(noise, labels[start:start + len(noise)])

    def labels(self, seed, count, specified=None):
        """Labels of images 0 to count - 1 of a seed, int8 [count, l]; l is 0 without attributes.

        specified: {name of an attribute: -1 or 1}. Unspecified attributes come from a random
        training row that matches the specified ones, or from any row if none matches.
        """
        rows = self.known_labels
        if not self.attributes:
            return np.zeros([count, 0], np.int8)
        specified = {self.attributes.index(name): value
                     for name, value in (specified or {}).items()}
        columns, values = list(specified), list(specified.values())
        matching = rows[(rows[:, columns] == values).all(axis=1)]
        rows = matching if len(matching) else rows
        # RandomState(seed) would give the numbers that the noise is made of.
        rng = np.random.RandomState([seed, zlib.crc32(b'labels')])
        labels = rows[rng.randint(len(rows), size=count)]
        labels[:, columns] = values
        return labels

    def latents(self, seed, count, batch_size=64):
        """Yields the noise of images 0 to count - 1 of a seed in batches [n, z_dim]."""
        rng = np.random.RandomState(seed)
        for start in range(0, count, batch_size):
            yield rng.uniform(-1, 1, (min(batch_size, count - start), self.z_dim))

    def latent(self, seed):
        """The noise [z_dim] of a seed's image 0."""
        return next(self.latents(seed, 1))[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.sess.close()
