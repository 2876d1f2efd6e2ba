"""The layers: numbers against numpy, names, reuse, errors."""
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import ops
from dcgan import convolutions


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        yield graph


def run(fetches, feed=None, steps=()):
    """Runs the steps and then the fetches in a new session; returns the fetched values."""
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        for step in steps:
            sess.run(step, feed)
        return sess.run(fetches, feed)


def names():
    """The names of all variables."""
    return [v.op.name for v in tf.global_variables()]


def test_lrelu(graph):
    assert run(ops.lrelu(tf.constant([-2., 0., 3.]))).tolist() == pytest.approx([-0.4, 0, 3])
    assert run(ops.lrelu(tf.constant([-2.]), leak=0.5)).tolist() == [-1]


def test_flatten(graph):
    x = tf.placeholder(tf.float32, [None, 2, 3, 4])
    assert ops.flatten(x).shape.as_list() == [None, 24]
    values = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    assert (run(ops.flatten(x), {x: values}) == values.reshape(2, 24)).all()
    with pytest.raises(ValueError, match='flatten: input .* undefined dimensions'):
        ops.flatten(tf.placeholder(tf.float32, [None, None, 3]))


def test_dense(graph):
    x = tf.placeholder(tf.float32, [None, 3])
    y = ops.dense(x, 2)
    kernel, bias = tf.global_variables()
    values = np.random.RandomState(0).randn(5, 3).astype(np.float32)
    y, kernel, bias = run([y, kernel, bias], {x: values})
    np.testing.assert_allclose(y, values.dot(kernel) + bias, rtol=1e-5, atol=1e-6)
    assert not bias.any()
    assert np.abs(kernel).max() <= np.sqrt(6 / 5)       # glorot_uniform, as tf.layers


def test_conv2d_is_the_sum_over_the_window(graph):
    x = tf.placeholder(tf.float32, [None, 5, 6, 2])
    y = ops.conv2d(x, 3)
    assert y.shape.as_list() == [None, 3, 3, 3]
    values = np.random.RandomState(0).randn(2, 5, 6, 2).astype(np.float32)
    y, kernel = run([y, tf.global_variables()[0]], {x: values})
    # `same` pads 5 + 2 to the height (2 and 2) and 6 + 3 to the width (1 and 2).
    padded = np.pad(values, ((0, 0), (2, 2), (1, 2), (0, 0)), 'constant')
    expected = np.array([[[np.tensordot(image[2 * i:2 * i + 5, 2 * j:2 * j + 5], kernel, 3)
                           for j in range(3)] for i in range(3)] for image in padded])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_conv2d_transpose_is_the_gradient_of_conv2d(graph):
    x = tf.placeholder(tf.float32, [None, 3, 4, 2])
    y = ops.conv2d_transpose(x, 5)
    assert y.shape.as_list() == [None, 6, 8, 5]
    kernel = tf.global_variables()[0]
    assert kernel.shape.as_list() == [5, 5, 5, 2]       # [h, w, out, in]
    image = tf.zeros([2, 6, 8, 5])
    convolved = tf.nn.conv2d(image, kernel, strides=[1, 2, 2, 1], padding='SAME')
    values = np.random.RandomState(0).randn(2, 3, 4, 2).astype(np.float32)
    gradient, = tf.gradients(convolved, image, x)
    y, gradient = run([y, gradient], {x: values})
    np.testing.assert_allclose(y, gradient, rtol=1e-4, atol=1e-5)


def test_layers_are_numbered_and_reused(graph):
    def network(x):
        h = ops.conv2d(x, 2)
        h = ops.batch_norm(ops.conv2d(h, 2), is_training=True)
        h = ops.batch_norm(ops.conv2d_transpose(h, 2), is_training=True)
        return ops.dense(ops.flatten(ops.conv2d_transpose(h, 2, name='last')), 1)

    x = tf.zeros([1, 8, 8, 3])
    with tf.variable_scope('net'):
        network(x)
    once = names()
    assert [n for n in once if n.endswith(('kernel', 'beta'))] == [
        'net/conv2d/kernel', 'net/conv2d_1/kernel', 'net/BatchNorm/beta',
        'net/conv2d_transpose/kernel', 'net/BatchNorm_1/beta', 'net/last/kernel',
        'net/dense/kernel']
    with tf.variable_scope('net', reuse=True):
        network(x)
    assert names() == once


@pytest.mark.parametrize('shape', [
    [3, 8, 8, 6], [2, 4, 6, 5], [2, 16, 12, 3], [1, 32, 32, 2]])
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_tuned_convolutions_equal_plain_ones(graph, shape, precision):
    rng = np.random.RandomState(0)
    count, height, width, channels = shape
    large, small = tf.placeholder(tf.float32, [None] + shape[1:]), tf.placeholder(
        tf.float32, [None, height // 2, width // 2, 4])
    feed = {large: rng.randn(*shape), small: rng.randn(count, height // 2, width // 2, 4)}
    results = []
    for tuned in (None, precision):
        convolutions.tune(tuned)
        with tf.variable_scope('net', reuse=tf.AUTO_REUSE):
            y = ops.conv2d(large, 4, name='down')
            x = ops.conv2d_transpose(small, channels, name='up')
        op_types = {op.type for op in graph.get_operations()}
        down, up = tf.trainable_variables('net/down'), tf.trainable_variables('net/up')
        first = (tf.gradients(y * tf.sin(y), [large] + down)
                 + tf.gradients(x * tf.sin(x), [small] + up))
        # Gradient penalties need second derivatives.
        second = [tf.gradients(tf.square(first[i]), inputs)
                  for i, inputs in ((0, [large] + down[:1]), (3, [small] + up[:1]))]
        results.append([y, x] + first + second[0] + second[1])
        assert x.shape.as_list() == [None] + shape[1:]
        if tuned is None:
            assert 'DepthToSpace' not in op_types
    is_small = shape[1] <= 8
    assert ('SpaceToDepth' in op_types) == is_small
    assert ('DepthToSpace' in op_types) == (channels <= 4 or is_small and precision == 'float32')
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        for plain, fast in zip(*sess.run(results, feed)):
            np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize('tuned', [None, 'float32'])
def test_conv2d_of_images_of_any_size(graph, tuned):
    x = tf.placeholder(tf.float32, [None, None, None, 3])
    convolutions.tune(tuned)
    y = ops.conv2d(x, 2)
    assert run(y, {x: np.zeros([1, 7, 10, 3])}).shape == (1, 4, 5, 2)


def test_convolutions_are_tuned_for_one_graph_only(graph):
    with tf.Graph().as_default():
        convolutions.tune('float32')
    ops.conv2d(tf.zeros([1, 8, 8, 8]), 4)
    assert 'SpaceToDepth' not in {op.type for op in graph.get_operations()}


X = np.random.RandomState(1).uniform(-1, 3, (6, 4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize('static', [True, False])
def test_batch_norm_in_training(graph, static):
    is_training = True if static else tf.placeholder(tf.bool, [])
    y = ops.batch_norm(tf.placeholder_with_default(X, [None, 4, 5, 3]), is_training)
    feed = {} if static else {is_training: True}
    assert names() == ['BatchNorm/beta', 'BatchNorm/moving_mean', 'BatchNorm/moving_variance']
    moving = tf.global_variables()[1:]
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(updates) == 2
    # Fetching the output updates no moving average; the update ops do.
    assert run(moving, feed, steps=[y])[0].tolist() == [0, 0, 0]
    y, (mean, variance) = run([y, moving], feed, steps=[updates])
    n = X[..., 0].size
    axes = (0, 1, 2)
    np.testing.assert_allclose(
        y, (X - X.mean(axes)) / np.sqrt(X.var(axes) + 0.001), atol=1e-5)
    np.testing.assert_allclose(mean, 0.1 * X.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * X.var(axes) * n / (n - 1), rtol=1e-6)


def test_sync_statistics_are_those_of_the_batch_of_all_workers(graph):
    """Two workers with the same images: the mean of a statistic is the statistic."""
    weights = tf.constant([1., -2, 3])
    results = []
    worker = types.SimpleNamespace(size=2, all_reduce_mean_with_gradient=tf.identity)
    for x, sync in ((tf.constant(X), worker), (tf.constant(np.concatenate([X, X])), None)):
        y = ops.batch_norm(x, True, sync=sync)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)[-2:]
        slope = tf.gradients(tf.reduce_sum(tf.sin(y) * weights), x)[0]
        # Gradient penalties need second derivatives.
        second = tf.gradients(tf.reduce_sum(tf.square(slope) * tf.cos(3 * x)), x)[0]
        results.append(([y, slope, second], tf.global_variables()[-2:], updates))
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        sess.run([updates for _, _, updates in results])
        (shared, moving), (expected, expected_moving) = sess.run([result[:2] for result in results])
    expected = [value[:len(X)] for value in expected] + expected_moving
    for a, b in zip(shared + moving, expected):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize('static', [True, False])
def test_batch_norm_in_inference(graph, static):
    is_training = False if static else tf.placeholder(tf.bool, [])
    y = ops.batch_norm(tf.constant(X), is_training)
    feed = {} if static else {is_training: False}
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(updates) == (0 if static else 2)
    moving = tf.global_variables()[1:]
    y, (mean, variance) = run([y, moving], feed, steps=[updates] if updates else [])
    np.testing.assert_allclose(y, X / np.sqrt(1.001), rtol=1e-5)
    assert mean.tolist() == [0] * 3 and variance.tolist() == [1] * 3


def test_moving_averages_are_updated_with_themselves_in_inference(graph):
    # Not with an output that the kernel does not set in inference.
    is_training = tf.placeholder(tf.bool, [])
    ops.batch_norm(tf.constant(X), is_training)
    merged = [op for op in graph.get_operations() if op.type in ('Merge', 'If', 'StatelessIf')]
    averages = tf.global_variables()[1:]
    values = run([[op.outputs[0] for op in merged][-2:]], {is_training: False},
                 steps=[[v.assign([2., 3, 4]) for v in averages]])
    assert np.array(values).reshape(2, 3).tolist() == [[2, 3, 4]] * 2


def test_batch_norm_of_a_constant_tensor_is_static(graph):
    ops.batch_norm(tf.constant(X), tf.constant(False))
    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == []


def test_batch_norm_with_scale_without_center(graph):
    y = ops.batch_norm(tf.constant(X), True, center=False, scale=True, epsilon=0.1)
    assert names() == ['BatchNorm/gamma', 'BatchNorm/moving_mean', 'BatchNorm/moving_variance']
    gamma = tf.global_variables()[0]
    y = run(y, steps=[gamma.assign([1., 2., 3.])])
    spread = np.sqrt(X.var((0, 1, 2)) / (X.var((0, 1, 2)) + 0.1))
    np.testing.assert_allclose(y.std((0, 1, 2)), [1, 2, 3] * spread, rtol=1e-4)


def test_a_reused_batch_norm_updates_after_the_first_use(graph):
    for value in (1., 5.):
        ops.batch_norm(tf.constant(value, shape=[2, 2, 2, 1]), True, scope='bn',
                       reuse=tf.AUTO_REUSE)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    mean = run(tf.global_variables()[1], steps=[updates])
    assert mean == pytest.approx(0.09 * 1 + 0.1 * 5, rel=1e-6)


@pytest.mark.parametrize('layer, shape, message', [
    (lambda x: ops.batch_norm(x, True), [None, 4, 4, None], 'batch_norm: .*undefined number'),
    (lambda x: ops.batch_norm(x, True), [None, 4], 'batch_norm: .*should have rank 4'),
    (lambda x: ops.batch_norm(x, True), None, 'batch_norm: .*should have rank 4'),
    (lambda x: ops.dense(x, 1), [None, None], 'dense: .*undefined number'),
    (lambda x: ops.dense(x, 1), [None, 2, 3, 4], 'dense: .*should have rank 2'),
    (lambda x: ops.conv2d(x, 1), [None, 4, 4, None], 'conv2d: .*undefined number'),
    (lambda x: ops.conv2d_transpose(x, 1), [None, None, 4, 2], 'conv2d_transpose: .*undefined'),
])
def test_invalid_inputs_of_layers_are_named(graph, layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(tf.placeholder(tf.float32, shape))
