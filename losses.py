"""The two losses of the original: sigmoid cross entropy, G's in its non-saturating form."""
import tensorflow.compat.v1 as tf


def loss_d(d_real_logits, d_fake_logits):
    """Photographs against 1 plus drawings against 0; logits [n, 1], the sum of two means."""
    return _cross_entropy(d_real_logits, 1) + _cross_entropy(d_fake_logits, 0)


def loss_g(d_fake_logits):
    """Drawings against 1 (Goodfellow et al. 2014, section 3); logits [n, 1], a mean."""
    return _cross_entropy(d_fake_logits, 1)


def _cross_entropy(logits, label):
    labels = tf.ones_like(logits) if label else tf.zeros_like(logits)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels))
