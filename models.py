"""The two networks. Only d = image_size // 16 changes with the size of the images."""
import functools

import tensorflow.compat.v1 as tf

from dcgan.settings import IMAGE_SIZES
from ops import batch_norm, conv2d, conv2d_transpose, dense, flatten, lrelu


def generator(z, is_training, image_size=64, width=64, labels=None, decay=0.9, sync=None):
    """Draws images in [-1, 1] from noise.

    z: float32 [n, k], uniform(-1, 1) in training. is_training: bool or bool tensor. width: filters
    of the layer before the last. labels: the labels to draw, float32 [n, l] of -1 and 1, joined to
    z, or None. decay, sync: see ops.batch_norm. Returns float32 [n, image_size, image_size, 3],
    named `generator/g/Tanh:0`. Raises ValueError if image_size is not one of IMAGE_SIZES.
    """
    d = _check(image_size) // 16
    norm = functools.partial(batch_norm, is_training=is_training, decay=decay, sync=sync)
    with tf.variable_scope('generator'):
        if labels is not None:
            z = tf.concat([z, labels], 1)                    # (n, k + l)
        h = dense(z, d * d * width * 8)                      # (n, d·d·8w)
        h = tf.reshape(h, [-1, d, d, width * 8])             # (n, d, d, 8w)
        h = tf.nn.relu(norm(h))
        h = tf.nn.relu(norm(conv2d_transpose(h, width * 4)))     # (n, 2d, 2d, 4w)
        h = tf.nn.relu(norm(conv2d_transpose(h, width * 2)))     # (n, 4d, 4d, 2w)
        h = tf.nn.relu(norm(conv2d_transpose(h, width)))         # (n, 8d, 8d, w)
        return conv2d_transpose(h, 3, activation=tf.nn.tanh, name='g')    # (n, 16d, 16d, 3)


def discriminator(image, is_training, reuse=None, width=64, labels=None, condition='projection',
                  norm='batch', sync=None):
    """Tells real images from fake ones.

    image: float32 [n, s, s, 3] in [-1, 1], s one of IMAGE_SIZES (otherwise ValueError).
    is_training: bool or bool tensor. labels: of the image, float32 [n, l] of -1 and 1, or None;
    seen by `projection` (Miyato & Koyama 2018, eq. 3; on the mean over positions, where theirs is
    the sum, which would begin at ±30 here) or as `maps`, further channels of the image. norm:
    `batch`, `scaled` (batch norm with a learnt scale) or `none`. sync: see ops.batch_norm.
    Returns (sigmoid, logits), both float32 [n, 1]; 1 means real.
    """
    size = _check(image.shape.as_list()[1])
    norm = tf.identity if norm == 'none' else functools.partial(
        batch_norm, is_training=is_training, scale=norm == 'scaled', sync=sync)
    with tf.variable_scope('discriminator', reuse=reuse):
        if labels is not None and condition == 'maps':
            maps = tf.tile(labels[:, tf.newaxis, tf.newaxis], [1, size, size, 1])
            image = tf.concat([image, maps], 3)              # (n, 16d, 16d, 3 + l)
        h = lrelu(conv2d(image, width))                      # (n, 8d, 8d, w)
        h = lrelu(norm(conv2d(h, width * 2)))                # (n, 4d, 4d, 2w)
        h = lrelu(norm(conv2d(h, width * 4)))                # (n, 2d, 2d, 4w)
        h = lrelu(norm(conv2d(h, width * 8)))                # (n, d, d, 8w)
        logits = dense(flatten(h), 1)                        # (n, 1)
        if labels is not None and condition == 'projection':
            with tf.variable_scope('projection'):
                label_embedding = dense(labels, width * 8)   # (n, 8w)
            features = tf.reduce_mean(h, [1, 2])             # (n, 8w)
            logits += tf.reduce_sum(label_embedding * features, 1, keepdims=True)
        return tf.sigmoid(logits, name='Sigmoid'), logits


def _check(image_size):
    if image_size not in IMAGE_SIZES:
        raise ValueError(f'image size {image_size} is none of {IMAGE_SIZES}')
    return image_size
