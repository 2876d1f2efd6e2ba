"""Batches, noise and labels as functions of (seed, step), so that a resumed run is identical."""
import functools
import zlib

import numpy as np

from dcgan import augment


class Batches:
    """The batches, noise and labels of this worker for each step.

    A step takes d_steps batches of batch_size images from each worker. N workers with batches of
    B see the same images as one worker with batches of N·B.
    """

    def __init__(self, images, labels, settings, task=0):
        """images: uint8 [n, h, w, 3]. labels: int8 [n, l], or None. task: number of the worker."""
        self.images, self.labels, self.settings, self.task = images, labels, settings, task
        self.seed, self.batch_size = settings['seed'], settings['batch_size']
        self.all_workers = self.batch_size * settings['workers']
        self.step_size = step_size(settings)
        self.strengths = {key[len('augment_'):]: settings[key]
                          for key in settings if 'augment_' in key}

    def real(self, step):
        """Returns all workers' real images of a step, augmented, uint8 [step_size, h, w, 3]."""
        images = batch(self.images, self.step_size, self.seed, step)
        return augment.apply(self.settings['augment'], images,
                             rng(self.seed, step, 'augment'), self.strengths)

    def feeds(self, step, model):
        """Returns the feeds for D's d_steps runs of a step; G's runs take the last one."""
        values = {model.X: self.real(step),
                  model.noise: noise(self.seed, step, self.step_size, self.settings['z_dim'])}
        if model.labels is not None:
            values[model.labels] = self.labels[
                rows(len(self.images), self.step_size, self.seed, step)]
        starts = range(self.task * self.batch_size, self.step_size, self.all_workers)
        feeds = [{key: value[start:start + self.batch_size] for key, value in values.items()}
                 for start in starts]
        for number, feed in enumerate(feeds):
            feed[model.X] = scaled(feed[model.X])
            feed[model.is_training] = True
            if model.step is not None:
                feed[model.step] = step * len(feeds) + number
        return feeds

    def sample_labels(self, model, count, number, stream):
        """Returns a feed of labels [count, l] of random real images; {} without labels."""
        if model.labels is None:
            return {}
        indices = rng(self.seed, number, stream).randint(len(self.labels), size=count)
        return {model.labels: self.labels[indices]}


def step_size(settings):
    """Returns the number of real images that all workers together see in a step."""
    return settings['d_steps'] * settings['batch_size'] * settings['workers']


def rng(seed, step, stream):
    """Returns a random generator of its own for each (seed, step, stream).

    Its numbers are the same in every version of numpy, because only RandomState is frozen among
    numpy's generators. So a run that is resumed under another numpy sees the same batches.
    """
    return np.random.RandomState([seed, step, zlib.crc32(stream.encode('ascii'))])


def batch(images, batch_size, seed, step):
    """Returns batch number `step` (from 0) of an endless run, uint8 [batch_size, s, s, 3]."""
    return images[rows(len(images), batch_size, seed, step)]


def rows(count, batch_size, seed, step):
    """Returns the row numbers of batch number `step` among count images, int [batch_size].

    Each epoch goes through all images in a new order. Images that don't fill a batch at the end
    are left out of that epoch.
    """
    epoch, number = divmod(step, count // batch_size)
    return _order(count, seed, epoch)[number * batch_size:(number + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _order(count, seed, epoch):
    return rng(seed, epoch, 'order').permutation(count)


def scaled(images):
    """Scales uint8 to float32 in [-1, 1], by the original's (x / 255 - 0.5) · 2."""
    return (images.astype(np.float32) / 255 - 0.5) * 2


def noise(seed, step, batch_size, z_dim, stream='noise'):
    """Returns the noise of a step: uniform(-1, 1), float32 [batch_size, z_dim]."""
    return rng(seed, step, stream).uniform(-1, 1, (batch_size, z_dim)).astype(np.float32)
