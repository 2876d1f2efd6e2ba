"""The two networks. Only d = image_size // 16 changes with the size of the images."""
import tensorflow.compat.v1 as tf

from ops import batch_norm, conv2d, conv2d_transpose, dense, flatten, lrelu

IMAGE_SIZES = (32, 48, 64, 96, 128)


def generator(z, is_training, image_size=64, width=64):
    """Draws images in [-1, 1] from noise.

    z: float32 [n, k], uniform(-1, 1) in training. is_training: bool or bool tensor. width: filters
    of the layer before the last. Returns float32 [n, image_size, image_size, 3], by the name of
    `generator/g/Tanh:0`. Raises ValueError for another size than IMAGE_SIZES.
    """
    d = _check(image_size) // 16
    with tf.variable_scope('generator'):
        h = dense(z, d * d * width * 8)                      # (n, d·d·8w)
        h = tf.reshape(h, [-1, d, d, width * 8])             # (n, d, d, 8w)
        h = tf.nn.relu(batch_norm(h, is_training))
        h = conv2d_transpose(h, width * 4)                   # (n, 2d, 2d, 4w)
        h = tf.nn.relu(batch_norm(h, is_training))
        h = conv2d_transpose(h, width * 2)                   # (n, 4d, 4d, 2w)
        h = tf.nn.relu(batch_norm(h, is_training))
        h = conv2d_transpose(h, width)                       # (n, 8d, 8d, w)
        h = tf.nn.relu(batch_norm(h, is_training))
        return conv2d_transpose(h, 3, activation=tf.nn.tanh, name='g')    # (n, 16d, 16d, 3)


def discriminator(image, is_training, reuse=None, width=64):
    """Tells photographs from drawings.

    image: float32 [n, s, s, 3] in [-1, 1], s of IMAGE_SIZES (otherwise ValueError). is_training:
    bool or bool tensor. Returns (sigmoid, logits), both float32 [n, 1]; 1 means a photograph.
    """
    _check(image.shape.as_list()[1])
    with tf.variable_scope('discriminator', reuse=reuse):
        h = lrelu(conv2d(image, width))                      # (n, 8d, 8d, w)
        h = conv2d(h, width * 2)                             # (n, 4d, 4d, 2w)
        h = lrelu(batch_norm(h, is_training))
        h = conv2d(h, width * 4)                             # (n, 2d, 2d, 4w)
        h = lrelu(batch_norm(h, is_training))
        h = conv2d(h, width * 8)                             # (n, d, d, 8w)
        h = lrelu(batch_norm(h, is_training))
        logits = dense(flatten(h), 1)                        # (n, 1)
        return tf.sigmoid(logits, name='Sigmoid'), logits


def _check(image_size):
    if image_size not in IMAGE_SIZES:
        raise ValueError(f'image size {image_size} is none of {IMAGE_SIZES}')
    return image_size
