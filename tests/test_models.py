"""The networks at every size, and the losses."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import losses
import models
import parity


@pytest.mark.parametrize('size', models.IMAGE_SIZES)
def test_only_dense_layers_change_with_the_size(size):
    with tf.Graph().as_default():
        g = models.generator(tf.placeholder(tf.float32, [None, 100]), False, size)
        d, logits = models.discriminator(g, False)
        shapes = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert g.shape.as_list() == [None, size, size, 3] and g.name == 'generator/g/Tanh:0'
    assert d.shape.as_list() == logits.shape.as_list() == [None, 1]
    side = size // 16
    assert shapes.pop('generator/dense/kernel') == [100, side * side * 512]
    assert shapes.pop('generator/dense/bias') == [side * side * 512]
    assert shapes.pop('discriminator/dense/kernel') == [side * side * 512, 1]
    assert shapes == {v['name']: v['shape'] for v in parity.load_json('variables_64.json')
                      if v['trainable'] and v['name'] not in (
                          'generator/dense/kernel', 'generator/dense/bias',
                          'discriminator/dense/kernel')}
    assert len(shapes) == 24


@pytest.mark.parametrize('size', [0, 16, 50, 80, 256])
def test_another_size_is_refused(size):
    with tf.Graph().as_default():
        with pytest.raises(ValueError, match=f'image size {size} is none of'):
            models.generator(tf.zeros([1, 100]), False, size)
        with pytest.raises(ValueError, match=f'image size {size} is none of'):
            models.discriminator(tf.zeros([1, size, size, 3]), False)


def test_losses_are_those_of_the_formula():
    real, fake = np.array([[2.], [-1.]], np.float32), np.array([[0.5], [-3.]], np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        loss_d, loss_g = sess.run([losses.loss_d(tf.constant(real), tf.constant(fake)),
                                   losses.loss_g(tf.constant(fake))])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))
    assert loss_d == pytest.approx(
        -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(), rel=1e-6)
    assert loss_g == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-6)
