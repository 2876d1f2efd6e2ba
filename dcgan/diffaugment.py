"""DiffAugment: what D sees of photographs and drawings alike, changed at random (Zhao et al. 2020).

Unlike augmentation of the photographs alone it does not teach G to draw what it changed, and its
gradients reach G. Images are float32 [n, h, w, 3] in [-1, 1]; strengths are the paper's.
"""
import tensorflow.compat.v1 as tf

TRANSLATION, CUTOUT = 1 / 8, 1 / 2        # of the image's side, at most and exactly


def color(images, seed):
    """Brightness ±0.5, saturation times 0 to 2, contrast times 0.5 to 1.5, of each image."""
    brightness, saturation, contrast = tf.unstack(_uniform(images, 3, seed))
    images += brightness - 0.5
    mean = tf.reduce_mean(images, axis=3, keepdims=True)
    images = (images - mean) * (2 * saturation) + mean
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images, seed):
    """Shifted by up to TRANSLATION of the side each way, 0 where nothing moves in."""
    _, height, width, _ = images.shape.as_list()
    down, right = tf.unstack(_uniform(images, 2, seed))

    def shift(side, share):
        most = int(side * TRANSLATION + 0.5)
        by = tf.floor(share[..., 0] * (2 * most + 1)) - most                      # (n, 1, 1)
        places = tf.range(float(side))
        return tf.cast(tf.equal(places, places[:, None] - by), tf.float32)        # (n, side, side)

    # As products with matrices of zeros and ones; so are their gradients, and nothing is scattered.
    rows = tf.reshape(images, [-1, height, width * 3])
    rows = tf.reshape(tf.matmul(shift(height, down), rows), [-1, height, width, 3])
    return tf.matmul(shift(width, right)[:, None], rows)


def cutout(images, seed):
    """A square of CUTOUT of the side set to 0, its middle anywhere in the image."""
    _, height, width, _ = images.shape.as_list()
    down, right = tf.unstack(_uniform(images, 2, seed))

    def inside(side, share):
        size = int(side * CUTOUT + 0.5)
        first = tf.floor(share[:, 0, 0] * (side + 1 - size % 2)) - size // 2      # (n, 1)
        places = tf.range(float(side))
        return tf.logical_and(places >= first, places < first + size)             # (n, side)

    hole = tf.logical_and(inside(height, down)[:, :, None], inside(width, right)[:, None, :])
    return images * (1 - tf.cast(hole, tf.float32)[..., None])


AUGMENTATIONS = {'color': color, 'translation': translation, 'cutout': cutout}


def apply(names, images, seed):
    """Each augmentation of names in turn; seed: int32 [2], the same gives the same again."""
    for number, name in enumerate(names):
        images = AUGMENTATIONS[name](images, seed + [number * 2 ** 20, 0])
    return images


def _uniform(images, count, seed):
    """float32 [count, n, 1, 1, 1] in [0, 1)."""
    return tf.random.stateless_uniform([count, tf.shape(images)[0], 1, 1, 1], seed)
