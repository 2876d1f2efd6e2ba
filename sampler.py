"""A trained generator, ready to draw: what the programs that draw have in common."""
import zlib

import numpy as np

from dcgan import checkpoint, metadata, pictures, session


class Sampler:
    """The generator of a checkpoint in a session of its own; to be used in a `with`.

    Where the checkpoint holds a moving average of the weights, that draws, unless raw. The same
    noise draws the same images whatever the batch. plain: by TensorFlow's own kernels throughout,
    which other runtimes know. Raises CheckpointError where the checkpoint can't be used, also where
    it was made of the average alone and is to be raw. To be made after session.set_up.

    prefix, image_size, z_dim, averaged and attributes (the names of what labels ask for, often
    none) say what draws; sess, saver, inputs (placeholders by name) and g are for those who save
    it: its variables under the plain names.
    """

    def __init__(self, prefix, raw=False, plain=False):
        import tensorflow.compat.v1 as tf

        import models
        from dcgan import convolutions
        self.prefix = prefix
        self.image_size, self.z_dim, width, averaged = checkpoint.read_generator(prefix)
        self.attributes, self.known_labels = metadata.read_labels(prefix)
        passed_on = metadata.read(prefix).get('averaged') is True
        if passed_on and raw:
            raise checkpoint.CheckpointError(f'{prefix}: holds averaged weights alone, --raw has '
                                             'none to draw with')
        averaged = averaged and not raw
        self.averaged = averaged or passed_on
        with tf.Graph().as_default() as graph:
            convolutions.tune('float32' if session.has_onednn() and not plain else None)
            sizes = {'noise': self.z_dim}
            if self.attributes:
                sizes['labels'] = len(self.attributes)
            self.inputs = {name: tf.placeholder(tf.float32, [None, size], name=name)
                           for name, size in sizes.items()}
            self.g = models.generator(self.inputs['noise'], is_training=False,
                                      image_size=self.image_size, width=width,
                                      labels=self.inputs.get('labels'))
            variables = checkpoint.variables_by_name(tf.global_variables(), averaged)
            loader, self.saver = tf.train.Saver(variables), tf.train.Saver()
        self.sess = session.open_session(graph)
        checkpoint.restore(self.sess, loader, prefix, variables)

    def draw(self, noise, labels):
        """uint8 images [n, h, w, 3] of noise [n, z_dim] and labels [n, l] in one run."""
        return pictures.to_uint8(self.run(noise, labels))

    def run(self, noise, labels=None):
        """As draw, but float32 in [-1, 1], as the network has them."""
        given = {'noise': noise, 'labels': labels}
        return self.sess.run(self.g, {self.inputs[name]: given[name] for name in self.inputs})

    def draw_many(self, seed, count, batch_size=64):
        """Yields the images 0 to count - 1 of a seed in batches, as draw does."""
        labels = self.labels(seed, count)
        for number, noise in enumerate(self.latents(seed, count, batch_size)):
            start = number * batch_size
            yield self.draw(noise, labels[start:start + len(noise)])

    def labels(self, seed, count, asked=None):
        """Labels of the images 0 to count - 1 of a seed, int8 [count, l], l often 0.

        asked: {name of an attribute: -1 or 1}. The others are as in the training set: from rows
        that agree with what is asked, if any do, otherwise from all.
        """
        rows = self.known_labels
        if not self.attributes:
            return np.zeros([count, 0], np.int8)
        asked = {self.attributes.index(name): value for name, value in (asked or {}).items()}
        columns, values = list(asked), list(asked.values())
        agreeing = rows[(rows[:, columns] == values).all(axis=1)]
        rows = agreeing if len(agreeing) else rows
        # Not RandomState(seed), from whose numbers the noise is.
        rng = np.random.RandomState([seed, zlib.crc32(b'labels')])
        labels = rows[rng.randint(len(rows), size=count)]
        labels[:, columns] = values
        return labels

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
