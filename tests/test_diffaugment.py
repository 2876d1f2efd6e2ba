"""DiffAugment changes each image as expected; the random numbers are chosen by hand."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from dcgan import diffaugment
from dcgan.settings import DIFFAUGMENT

X = np.random.RandomState(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


def changed(monkeypatch, name, shares):
    """(images, gradient of their sum of squares / 2), with given random numbers.

    shares: from 0 to 1, a row for each random number, a column for each of the three images.
    """
    shares = np.array(shares, np.float32).reshape(len(shares), 3, 1, 1, 1)
    monkeypatch.setattr(diffaugment, '_uniform', lambda images, count, seed: tf.constant(shares))
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.placeholder(tf.float32, [None, 16, 16, 3])
        y = diffaugment.AUGMENTATIONS[name](x, None)
        assert y.shape.as_list()[1:] == [16, 16, 3]
        return sess.run([y] + tf.gradients(y * y / 2, x), {x: X})


def test_color(monkeypatch):
    y, _ = changed(monkeypatch, 'color', [[0.5, 0.7, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.1]])
    np.testing.assert_allclose(y[0], X[0], atol=1e-5)                 # in the middle of all ranges
    np.testing.assert_allclose(y[1].mean(), X[1].mean() + 0.2, atol=1e-5)
    np.testing.assert_allclose(y[1] - y[1].mean(), X[1] - X[1].mean(), atol=1e-5)
    grey = X[2].mean(axis=2, keepdims=True)
    np.testing.assert_allclose(
        y[2], np.repeat((grey - grey.mean()) * 0.6 + grey.mean(), 3, axis=2), atol=1e-5)


def test_translation(monkeypatch):
    # 16 / 8 = 2 pixels each way, five places: -2 to 2.
    y, gradient = changed(monkeypatch, 'translation', [[0.5, 0.0, 0.99], [0.5, 0.99, 0.3]])
    np.testing.assert_allclose(y[0], X[0], atol=1e-6)
    expected = np.zeros_like(X[0])
    expected[:-2, 2:] = X[1, 2:, :-2]                                 # up by 2, right by 2
    np.testing.assert_allclose(y[1], expected, atol=1e-6)
    expected = np.zeros_like(X[0])
    expected[2:, :-1] = X[2, :-2, 1:]                                 # down by 2, left by 1
    np.testing.assert_allclose(y[2], expected, atol=1e-6)
    expected = X[2].copy()
    expected[-2:] = expected[:, :1] = 0                               # these pixels moved out
    np.testing.assert_allclose(gradient[2], expected, atol=1e-6)


def test_cutout(monkeypatch):
    # 8 x 8 of 16 x 16, its middle from 0 to 16.
    y, gradient = changed(monkeypatch, 'cutout', [[0.5, 0.0, 0.999], [0.5, 0.5, 0.25]])
    for image, rows, columns in ((0, slice(4, 12), slice(4, 12)), (1, slice(0, 4), slice(4, 12)),
                                 (2, slice(12, 16), slice(0, 8))):
        expected = X[image].copy()
        expected[rows, columns] = 0
        np.testing.assert_array_equal(y[image], expected)
        np.testing.assert_array_equal(gradient[image], expected)


@pytest.mark.parametrize('name', DIFFAUGMENT)
def test_changes_are_a_function_of_the_seed_and_differ_by_image(name):
    with tf.Graph().as_default(), tf.Session() as sess:
        seed = tf.placeholder(tf.int32, [2])
        y = diffaugment.apply([name], tf.constant(np.repeat(X[:1], 64, axis=0)), seed)
        first, again, other = (sess.run(y, {seed: value}) for value in ([1, 2], [1, 2], [1, 4]))
    assert (first == again).all() and (first != other).any()
    assert len({image.tobytes() for image in first}) > 20


def test_each_augmentation_has_its_own_random_numbers(monkeypatch):
    seeds, uniform = [], diffaugment._uniform
    monkeypatch.setattr(diffaugment, '_uniform', lambda images, count, seed: seeds.append(
        seed) or uniform(images, count, seed))
    with tf.Graph().as_default(), tf.Session() as sess:
        diffaugment.apply(DIFFAUGMENT, tf.constant(X), tf.constant([1, 2]))
        drawn = {tuple(seed) for seed in sess.run(seeds)}
    assert len(drawn) == len(DIFFAUGMENT)


def test_augmentations_are_those_of_the_option():
    assert tuple(diffaugment.AUGMENTATIONS) == DIFFAUGMENT
