"""DiffAugment: random changes of real and fake images for D (Zhao et al. 2020).

Unlike augmentation of real images alone, it does not teach G to reproduce the changes. Its
gradients reach G. Images are float32 [n, h, w, 3] in [-1, 1]; strengths are the paper's.
"""
import tensorflow.compat.v1 as tf

TRANSLATION, CUTOUT = 1 / 8, 1 / 2        # fractions of the side: the largest shift, the square


def color(images, seed):
    """Changes each image: brightness ±0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = tf.unstack(_uniform(images, 3, seed))
    images += brightness - 0.5
    mean = tf.reduce_mean(images, axis=3, keepdims=True)
    images = (images - mean) * (2 * saturation) + mean
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images, seed):
    """Shifts each image by up to TRANSLATION of its side in each direction; fills with 0."""
    _, height, width, _ = images.shape.as_list()
    down, right = tf.unstack(_uniform(images, 2, seed))

    def shift(side, share):
        limit = int(side * TRANSLATION + 0.5)
        distance = tf.floor(share[..., 0] * (2 * limit + 1)) - limit              # (n, 1, 1)
        pixels = tf.range(float(side))
        return tf.cast(tf.equal(pixels, pixels[:, None] - distance), tf.float32)  # (n, side, side)

    # A shift is a product with a matrix of zeros and ones. So is its gradient, without a scatter.
    rows = tf.reshape(images, [-1, height, width * 3])
    rows = tf.reshape(tf.matmul(shift(height, down), rows), [-1, height, width, 3])
    return tf.matmul(shift(width, right)[:, None], rows)


def cutout(images, seed):
    """Sets a square of CUTOUT of the side to 0; its centre is anywhere in the image."""
    _, height, width, _ = images.shape.as_list()
    down, right = tf.unstack(_uniform(images, 2, seed))

    def inside(side, share):
        size = int(side * CUTOUT + 0.5)
        first = tf.floor(share[:, 0, 0] * (side + 1 - size % 2)) - size // 2      # (n, 1)
        pixels = tf.range(float(side))
        return tf.logical_and(pixels >= first, pixels < first + size)             # (n, side)

    hole = tf.logical_and(inside(height, down)[:, :, None], inside(width, right)[:, None, :])
    return images * (1 - tf.cast(hole, tf.float32)[..., None])


AUGMENTATIONS = {'color': color, 'translation': translation, 'cutout': cutout}


def apply(names, images, seed):
    """Applies each augmentation of names in turn, as a function of seed, int32 [2]."""
    for number, name in enumerate(names):
        images = AUGMENTATIONS[name](images, seed + [number * 2 ** 20, 0])
    return images


def _uniform(images, count, seed):
    """Draws uniform numbers in [0, 1), float32 [count, n, 1, 1, 1]."""
    return tf.random.stateless_uniform([count, tf.shape(images)[0], 1, 1, 1], seed)
