"""Losses: the original's, sigmoid cross entropy with G's non-saturating form, and critics'."""
import collections

import tensorflow.compat.v1 as tf


def loss_d(d_real_logits, d_fake_logits, smooth=0):
    """D's loss: real towards 1 - smooth plus fake towards 0; logits [n, 1], the sum of two means.

    Smoothing is one-sided (Salimans et al. 2016, section 3.4).
    """
    return _cross_entropy(d_real_logits, 1 - smooth) + _cross_entropy(d_fake_logits, 0)


def loss_g(d_fake_logits):
    """G's loss: fake towards 1 (Goodfellow et al. 2014, section 3); logits [n, 1], a mean."""
    return _cross_entropy(d_fake_logits, 1)


def critic_loss_d(d_real, d_fake):
    """A critic's loss: the mean of fake minus that of real; values [n, 1] of any sign.

    For the best critic with slopes of at most 1 it is minus the Wasserstein distance of the two
    (Arjovsky et al. 2017, eq. 2).
    """
    return tf.reduce_mean(d_fake) - tf.reduce_mean(d_real)


def critic_loss_g(d_fake):
    """G's loss under a critic: minus the mean of fake (Arjovsky et al. 2017, eq. 3); [n, 1]."""
    return -tf.reduce_mean(d_fake)


# A loss of --loss. d: (logits of real, of fake) -> D's loss. g: (logits of fake) -> G's loss.
# critic: whether D outputs values of any sign, not probabilities.
Loss = collections.namedtuple('Loss', 'd g critic')

# dcgan/settings.py has the settings that a loss implies, by the same names.
LOSSES = {
    'gan': Loss(loss_d, loss_g, critic=False),
    'wgan': Loss(critic_loss_d, critic_loss_g, critic=True),
    'wgan-gp': Loss(critic_loss_d, critic_loss_g, critic=True)}


def gradient_penalty(d_mixed, mixed):
    """(‖∂D/∂x‖ - 1)² at images [n, h, w, c], a mean (Gulrajani et al. 2017, eq. 3).

    mixed: the images between real and fake ones that d_mixed [n, 1] was computed from.
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
    """‖∂D/∂x‖² / 2 at real images [n, h, w, c], a mean (Mescheder et al. 2018, eq. 9)."""
    gradient, = tf.gradients(d_real_logits, images)
    return tf.reduce_mean(tf.reduce_sum(tf.square(gradient), [1, 2, 3])) / 2


def _cross_entropy(logits, label):
    labels = tf.ones_like(logits) if label else tf.zeros_like(logits)
    if 0 < label < 1:
        labels *= label
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels))
