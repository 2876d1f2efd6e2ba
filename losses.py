"""The original's losses, sigmoid cross entropy with G's in its non-saturating form, and others."""
import tensorflow.compat.v1 as tf


def loss_d(d_real_logits, d_fake_logits, smooth=0):
    """Photographs against 1 - smooth plus drawings against 0; logits [n, 1], the sum of two means.

    Smoothing is one-sided (Salimans et al. 2016, section 3.4).
    """
    return _cross_entropy(d_real_logits, 1 - smooth) + _cross_entropy(d_fake_logits, 0)


def loss_g(d_fake_logits):
    """Drawings against 1 (Goodfellow et al. 2014, section 3); logits [n, 1], a mean."""
    return _cross_entropy(d_fake_logits, 1)


def critic_loss_d(d_real, d_fake):
    """Mean on drawings less mean on photographs; values [n, 1] of any sign.

    Of a critic with slopes of at most 1 it is minus the Wasserstein distance of the two at best
    (Arjovsky et al. 2017, eq. 2).
    """
    return tf.reduce_mean(d_fake) - tf.reduce_mean(d_real)


def critic_loss_g(d_fake):
    """Minus the mean on drawings (Arjovsky et al. 2017, eq. 3); values [n, 1]."""
    return -tf.reduce_mean(d_fake)


def gradient_penalty(d_mixed, mixed):
    """(‖∂D/∂x‖ - 1)² on images [n, h, w, c], a mean (Gulrajani et al. 2017, eq. 3).

    mixed: what d_mixed [n, 1] was computed from, between photographs and drawings.
    """
    gradient, = tf.gradients(d_mixed, mixed)
    with tf.name_scope('gradient_penalty'):
        # Pow, unlike Square, and what comes after it is left alone by the rewriter that casts to
        # bfloat16, where a norm of 1 could not be told from 1.003.
        squares = tf.pow(gradient, 2)
        # The root's own slope is infinite at 0.
        norms = tf.sqrt(tf.reduce_sum(squares, [1, 2, 3]) + 1e-12)
        return tf.reduce_mean(tf.square(norms - 1))


def r1(d_real_logits, images):
    """‖∂D/∂x‖² / 2 on photographs [n, h, w, c], a mean (Mescheder et al. 2018, eq. 9)."""
    gradient, = tf.gradients(d_real_logits, images)
    return tf.reduce_mean(tf.reduce_sum(tf.square(gradient), [1, 2, 3])) / 2


def _cross_entropy(logits, label):
    labels = tf.ones_like(logits) if label else tf.zeros_like(logits)
    if 0 < label < 1:
        labels *= label
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels))
