"""Layers with the names, shapes and numbers of `tf.layers` and `tf.contrib.layers`.

Built on `tf.compat.v1.get_variable` and `tf.nn` alone, so the same lines run on TensorFlow 1.15
and 2.x, where `tf.contrib` is gone and `tf.compat.v1.layers` raises under Keras 3. A layer
without a name is numbered within its variable scope: `conv2d`, `conv2d_1`, ...; in a scope that
is entered again with `reuse` the count begins anew and finds the same variables.
"""
import collections
import contextlib
import itertools

import numpy as np
import tensorflow.compat.v1 as tf

# For kernels of 5x5 and stride 2 on a processor: up to this side of the larger image products of
# matrices are faster than oneDNN's convolution. Milliseconds on two cores with AVX-512 and bfloat16
# units, batch 64, TensorFlow 2.21, oneDNN's first: on Zen 5, in brackets on Zen 4. Where these
# disagree the larger gain decides. What isn't here was not faster.
PRODUCTS_UP_TO = {
    ('forward', 'float32'): 8,      # 27.7, 12.9 (30.5, 27.7) at 8x8, 256 to 512 channels
    ('forward', 'bfloat16'): 8,     # 10.1, 7.4 (14.3, 14.8); at 16x16 7.6, 9.9 (15.4, 22.1)
    ('input', 'float32'): 8,        # 22.1, 15.7 (29.7, 32.3); at 16x16 15.0, 19.7 (28.6, 37.0)
    ('filter', 'float32'): 16,      # (54.1, 25.8); at 16x16 (42.8, 31.7); at 32x32 (32.5, 42.8)
    ('filter', 'bfloat16'): 16,     # (76.3, 18.3); at 16x16 (28.0, 18.5); at 32x32 (23.9, 28.2)
}
# The input gradient, which is also the transposed convolution, where the larger image has few
# channels, by a convolution of stride 1: 8.8, 4.1 in float32, 5.8, 3.1 in bfloat16 at 64x64, 3.
FEW_CHANNELS = 4

SPECTRAL_UPDATES = 'spectral_updates'

_fast_for = None        # set by fast_convolutions
_shared = None          # set by shared_statistics


def lrelu(x, leak=0.2):
    """max(x, leak * x), any shape; leak in [0, 1]. At 0 itself the slope is leak."""
    return tf.nn.leaky_relu(x, alpha=leak)


def flatten(x):
    """[n, ...] to [n, k]; all but n must be known, otherwise ValueError."""
    shape = x.shape.as_list()[1:]
    if None in shape:
        raise ValueError(f'flatten: input {x.name} has undefined dimensions in {x.shape}')
    return tf.reshape(x, [-1, int(np.prod(shape))])


def dense(x, units, name=None):
    """Fully connected layer with bias, [n, k] to [n, units]."""
    with tf.variable_scope(name, default_name='dense'):
        kernel = _variable('kernel', [_channels(x, 'dense', rank=2), units])
        bias = _variable('bias', [units], tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(x, kernel), bias, name='BiasAdd')


def conv2d(x, filters, kernel_size=5, strides=2, name=None):
    """Convolution with bias, padding `same`: [n, h, w, c] to [n, ⌈h/s⌉, ⌈w/s⌉, filters]."""
    with tf.variable_scope(name, default_name='conv2d'):
        kernel = _variable('kernel', [kernel_size, kernel_size, _channels(x, 'conv2d'), filters])
        bias = _variable('bias', [filters], tf.zeros_initializer())
        return _add_bias(_convolution(x, kernel, strides), bias)


def conv2d_transpose(x, filters, kernel_size=5, strides=2, activation=None, name=None):
    """Transposed convolution with bias, padding `same`: [n, h, w, c] to [n, s·h, s·w, filters].

    The kernel is stored as [h, w, out, in], as `tf.layers.conv2d_transpose` does. The batch may
    differ at every run; h and w must be known.
    """
    with tf.variable_scope(name, default_name='conv2d_transpose'):
        channels = _channels(x, 'conv2d_transpose')
        _, height, width, _ = x.shape.as_list()
        if height is None or width is None:
            raise ValueError(f'conv2d_transpose: input {x.name} has undefined size {x.shape}')
        kernel = _variable('kernel', [kernel_size, kernel_size, filters, channels])
        bias = _variable('bias', [filters], tf.zeros_initializer())
        size = [strides * height, strides * width, filters]
        x = _transposed(x, kernel, tf.stack([tf.shape(x)[0]] + size), strides)
        x.set_shape([None] + size)
        x = _add_bias(x, bias)
        return activation(x) if activation else x


@contextlib.contextmanager
def fast_convolutions(precision):
    """Within it, convolutions are built in the formulation measured as the fastest.

    precision: `float32` or `bfloat16`, in which the session will multiply; None for TensorFlow's
    own kernels throughout, as outside. The numbers are the same but for rounding. Of use on a
    processor with oneDNN only.
    """
    global _fast_for
    before, _fast_for = _fast_for, precision
    try:
        yield
    finally:
        _fast_for = before


@contextlib.contextmanager
def shared_statistics(mean, shares=1):
    """Within it, batch norm's training statistics are those of a batch of which x is a share.

    mean: gives a tensor's mean over all shares, of one size, with a gradient; None for statistics
    of x alone, as outside. shares: how many there are.
    """
    global _shared
    before, _shared = _shared, mean and (mean, shares)
    try:
        yield
    finally:
        _shared = before


def spectral_norm():
    """A custom_getter that divides kernels by their largest singular value (Miyato et al. 2018).

    It is estimated by a power iteration from a variable `u` kept beside the kernel: at the first
    use of a kernel through this getter, whose later uses take what that one found. The op that
    keeps the iteration's result goes to the collection SPECTRAL_UPDATES.
    """
    found = {}

    def normalized(getter, name, **options):
        kernel = getter(name, **options)
        if not name.endswith('/kernel'):
            return kernel
        matrix = tf.reshape(kernel, [-1, kernel.shape.as_list()[-1]])
        if name not in found:
            u = getter(name[:-len('kernel')] + 'u', **dict(
                options, shape=[1, kernel.shape.as_list()[-1]], trainable=False,
                collections=None, initializer=tf.random_normal_initializer()))
            left = tf.nn.l2_normalize(tf.matmul(u.read_value(), matrix, transpose_b=True))
            right = tf.nn.l2_normalize(tf.matmul(left, matrix))
            found[name] = tf.stop_gradient(left), tf.stop_gradient(right)
            tf.add_to_collection(SPECTRAL_UPDATES, u.assign(right, read_value=False))
        left, right = found[name]
        return kernel / tf.matmul(tf.matmul(left, matrix), right, transpose_b=True)
    return normalized


def _convolution(x, kernel, strides):
    kernel = tf.convert_to_tensor(kernel)
    if not _has_formulations(x.shape, kernel, strides):
        return _forward(x, kernel, strides)
    precision = _fast_for

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(dy):
            return (_input_gradient(dy, kernel, tf.shape(x), strides, precision),
                    _filter_gradient(x, dy, kernel, strides, precision))
        return _forward(x, kernel, strides, precision), gradient
    return convolution(x, kernel)


def _transposed(x, kernel, size, strides):
    kernel = tf.convert_to_tensor(kernel)
    large = tf.TensorShape([None] + [side * strides for side in x.shape.as_list()[1:3]] + [
        kernel.shape[2]])
    if not _has_formulations(large, kernel, strides):
        return _input_gradient(x, kernel, size, strides)
    precision = _fast_for

    @tf.custom_gradient
    def transposed(x, kernel):
        def gradient(dy):
            dy.set_shape(large)
            return (_forward(dy, kernel, strides, precision),
                    _filter_gradient(dy, x, kernel, strides, precision))
        y = _input_gradient(x, kernel, size, strides, precision)
        y.set_shape(large)
        return y, gradient
    return transposed(x, kernel)


def _add_bias(x, bias):
    _, height, width, channels = x.shape.as_list()
    if _fast_for is None or None in (height, width):
        return tf.nn.bias_add(x, bias, name='BiasAdd')

    # The gradient's sum over [n, h, w, c] is slow for few channels, 3.5 ms for 3 at 64x64; over
    # whole rows of pixels it takes 0.4. In bfloat16 a product with ones sums, in float32 inside;
    # for BiasAddGrad the whole gradient would be cast to float32 first, 2 % of a step.
    precision = _fast_for

    @tf.custom_gradient
    def add(x, bias):
        def gradient(dy):
            rows = tf.reshape(dy, [-1, width * channels])
            if precision == 'bfloat16':
                rows = tf.matmul(tf.ones([1, tf.shape(rows)[0]]), rows)
            else:
                rows = tf.raw_ops.BiasAddGrad(out_backprop=rows)
            return dy, tf.reduce_sum(tf.reshape(rows, [width, channels]), 0)
        return tf.nn.bias_add(x, bias, name='BiasAdd'), gradient
    return add(x, tf.convert_to_tensor(bias))


def _has_formulations(large, kernel, strides):
    """large: shape of the larger image, [n, h, w, c]."""
    _, height, width, _ = large.as_list()
    return (_fast_for is not None and strides == 2 and kernel.shape.as_list()[:2] == [5, 5]
            and None not in (height, width) and height % 2 == width % 2 == 0
            and min(height, width) >= 4)


def _forward(x, kernel, strides, precision=None):
    if not _by_products('forward', x.shape, precision):
        return tf.nn.conv2d(x, kernel, strides=[1, strides, strides, 1], padding='SAME')
    _, height, width, channels = x.shape.as_list()
    filters = kernel.shape.as_list()[3]
    blocks = _blocks(x)
    parts = []
    for v, h in itertools.product(_tiles(height), _tiles(width)):
        depth = v.size * h.size * channels
        seen = blocks[:, v.blocks, h.blocks, v.first:, h.first * channels:]
        y = tf.matmul(tf.reshape(seen, [-1, depth]),
                      tf.reshape(kernel[v.taps, h.taps], [depth, filters]))
        y = tf.reshape(y, [-1, height // 2 - sum(v.outside), width // 2 - sum(h.outside), filters])
        parts.append(tf.pad(y, [[0, 0], v.outside, h.outside, [0, 0]]))
    return tf.add_n(parts)


def _filter_gradient(x, dy, kernel, strides, precision):
    if not _by_products('filter', x.shape, precision):
        return tf.nn.conv2d_backprop_filter(x, kernel.shape.as_list(), dy,
                                            [1, strides, strides, 1], 'SAME')
    _, height, width, channels = x.shape.as_list()
    filters = kernel.shape.as_list()[3]
    # With even rows first, then odd ones, and images within rows, runs of rows are not copied.
    x = tf.transpose(tf.reshape(x, [-1, height // 2, 2, width * channels]), [2, 1, 0, 3])
    x = tf.reshape(x, [height, -1, width // 2, 2 * channels])
    dy = tf.transpose(dy, [1, 0, 2, 3])
    rows = [[] for _ in range(5)]       # of the kernel
    for h in _tiles(width):
        seen, outputs = x[:, :, h.blocks, h.first * channels:], dy[:, :, h.outputs]
        for v in _tiles(height):
            rows_out = tf.reshape(outputs[v.outputs], [-1, filters])
            for row in range(v.size):
                first = (v.first + row) * height // 2
                rows_in = seen[first + v.blocks.start:first + v.blocks.stop]
                part = tf.matmul(tf.reshape(rows_in, [-1, h.size * channels]), rows_out,
                                 transpose_a=True)
                rows[v.taps.start + row].append(tf.reshape(part, [h.size, channels, filters]))
    return tf.stack([tf.concat(row, 0) for row in rows])


def _input_gradient(dy, kernel, size, strides, precision=None):
    _, height, width, filters = dy.shape.as_list()
    channels = kernel.shape.as_list()[2]
    large = tf.TensorShape([None, 2 * height, 2 * width, channels])
    if precision is not None and channels <= FEW_CHANNELS:
        return _few_channels_input_gradient(dy, kernel)
    if not _by_products('input', large, precision):
        return tf.nn.conv2d_backprop_input(size, kernel, dy, [1, strides, strides, 1], 'SAME')
    parts = []
    for v, h in itertools.product(_tiles(2 * height), _tiles(2 * width)):
        depth = v.size * h.size * channels
        dx = tf.matmul(tf.reshape(dy[:, v.outputs, h.outputs], [-1, filters]),
                       tf.reshape(kernel[v.taps, h.taps], [depth, filters]), transpose_b=True)
        dx = tf.reshape(dx, [-1, height - sum(v.outside), width - sum(h.outside),
                             v.size, h.size * channels])
        parts.append(tf.pad(dx, [[0, 0], v.outside[::-1], h.outside[::-1], [v.first, 0],
                                 [h.first * channels, 0]]))
    return tf.depth_to_space(tf.reshape(tf.add_n(parts), [-1, height, width, 4 * channels]), 2)


def _few_channels_input_gradient(dy, kernel):
    """On blocks of 2x2 pixels, taken as channels, the kernel is one of 3x3 and stride 1."""
    _, height, width, filters = dy.shape.as_list()
    channels = kernel.shape.as_list()[2]
    blocks = tf.reshape(tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]]),
                        [3, 2, 3, 2, channels, filters])
    blocks = tf.reshape(tf.transpose(blocks, [0, 2, 1, 3, 4, 5]), [3, 3, 4 * channels, filters])
    padded = tf.stack([tf.shape(dy)[0], height + 2, width + 2, 4 * channels])
    x = tf.nn.conv2d_backprop_input(padded, blocks, dy, [1, 1, 1, 1], 'VALID')
    x.set_shape([None, height + 2, width + 2, 4 * channels])
    return tf.depth_to_space(x, 2)[:, 1:2 * height + 1, 1:2 * width + 1]


def _by_products(pass_, large, precision):
    limit = PRODUCTS_UP_TO.get((pass_, precision))
    return limit is not None and max(large.as_list()[1:3]) <= limit


# Of one axis of the kernel what falls into one block of 2 pixels. taps: slice of the kernel. size:
# of it. first: of the block's pixels. outputs, blocks: slices of those where the block lies inside
# the image. outside: [outputs before, after] where it doesn't.
Tile = collections.namedtuple('Tile', 'taps size first outputs blocks outside')


def _tiles(side):
    """The three Tiles of an axis of a 5x5 kernel of stride 2 on an image of that side, even.

    Output y sees rows 2y - 1 to 2y + 3: the second row of block y - 1 and all of y and y + 1. What
    lies outside the image is not multiplied, 28 % of the kernel's work at 8x8. And where nine
    slices do, whole blocks of them, 25 with a stride take far longer.
    """
    blocks, last = side // 2, side // 2 - 1
    return [Tile(slice(0, 1), 1, 1, slice(1, blocks), slice(0, last), [1, 0]),
            Tile(slice(1, 3), 2, 0, slice(0, blocks), slice(0, blocks), [0, 0]),
            Tile(slice(3, 5), 2, 0, slice(0, last), slice(1, blocks), [0, 1])]


def _blocks(x):
    """[n, h, w, c] to [n, h / 2, w / 2, 2, 2c]: row and column within a block of 2x2 pixels."""
    _, height, width, channels = x.shape.as_list()
    return tf.reshape(tf.space_to_depth(x, 2), [-1, height // 2, width // 2, 2, 2 * channels])


def batch_norm(x, is_training, decay=0.9, center=True, scale=False, epsilon=0.001,
               reuse=None, scope=None):
    """Batch normalisation of [n, h, w, c] over all but c, as `tf.contrib.layers.batch_norm`.

    is_training is a Python bool or a scalar bool tensor. In training x is normalised with the
    batch's own mean and variance (over N = n·h·w); otherwise with the moving ones. The moving
    averages are `moving -= (moving - batch) · (1 - decay)`, the variance over N - 1 (Bessel), by
    ops in the collection UPDATE_OPS; with a tensor fed False these change nothing. decay is a
    number or a scalar float32 tensor. A second use of the same variables updates after the first:
    TensorFlow 1.15 did so in practice (a first layer fed by a placeholder is ready before one fed
    by a generator), and resource variables without an order would both start from the old value.

    Raises ValueError where x has another rank than 4 or an undefined number of channels.
    """
    is_training = _static(is_training)
    with tf.variable_scope(scope, default_name='BatchNorm', reuse=reuse):
        shape = [_channels(x, 'batch_norm')]
        model = [tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MODEL_VARIABLES]
        beta = (_variable('beta', shape, tf.zeros_initializer(), collections=model)
                if center else tf.zeros(shape, x.dtype))
        gamma = (_variable('gamma', shape, tf.ones_initializer(), collections=model)
                 if scale else tf.ones(shape, x.dtype))
        moving_mean = _variable('moving_mean', shape, tf.zeros_initializer(), trainable=False,
                                collections=model)
        moving_variance = _variable('moving_variance', shape, tf.ones_initializer(),
                                    trainable=False, collections=model)

        shared = _shared

        def with_batch_statistics():
            if shared:
                return _shared_batch_norm(x, gamma, beta, epsilon, *shared)
            return tf.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, is_training=True)

        def with_moving_averages():
            y, _, _ = tf.nn.fused_batch_norm(x, gamma, beta, moving_mean, moving_variance,
                                             epsilon=epsilon, is_training=False)
            # TensorFlow 1.15 leaves the other two unset: once that was NaN, and NaN times 0 is NaN.
            return y, tf.identity(moving_mean), tf.identity(moving_variance)

        # A number in float32, as TensorFlow 1.15 computed it (0.100000024 for 0.9).
        rate = 1 - decay if tf.is_tensor(decay) else np.float32(1) - np.float32(decay)
        if isinstance(is_training, bool):
            y, mean, variance = with_batch_statistics() if is_training else with_moving_averages()
        else:
            y, mean, variance = tf.cond(is_training, with_batch_statistics, with_moving_averages)
            rate = tf.where(is_training, rate, np.float32(0))
        if is_training is not False:
            _move(moving_mean, mean, rate)
            _move(moving_variance, variance, rate)
        y.set_shape(x.shape)
        return y


def _shared_batch_norm(x, gamma, beta, epsilon, mean_of_shares, shares):
    """What fused_batch_norm gives in training, for a batch of which x is one of the shares."""
    # Not tf.nn.moments, whose variance has no gradient at its mean: a second one would miss it.
    mean = mean_of_shares(tf.reduce_mean(x, [0, 1, 2]))
    variance = mean_of_shares(tf.reduce_mean(tf.square(x - mean), [0, 1, 2]))
    y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]) * shares, tf.float32)
    return y, mean, variance * count / (count - 1)


def _move(average, value, rate):
    """Adds to UPDATE_OPS: average -= (average - value) · rate, after its earlier updates."""
    earlier = [op for op in tf.get_collection(tf.GraphKeys.UPDATE_OPS)
               if getattr(op, 'inputs', None) and op.inputs[0] is average.handle]
    with tf.control_dependencies(earlier):
        delta = (average.read_value() - value) * rate
        update = average.assign_sub(delta, read_value=False, name='AssignMovingAvg')
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)


def _variable(name, shape, initializer=None, trainable=True, collections=None):
    """`get_variable`; a resource variable, as TensorFlow's deterministic kernels ask for."""
    return tf.get_variable(name, shape, initializer=initializer, trainable=trainable,
                           collections=collections, use_resource=True)


def _channels(x, layer, rank=4):
    """The size of x's last dimension, or ValueError where the layer can't be built on x."""
    if x.shape.ndims != rank:
        raise ValueError(f'{layer}: input {x.name} of shape {x.shape} should have rank {rank}')
    channels = x.shape.as_list()[-1]
    if channels is None:
        raise ValueError(f'{layer}: input {x.name} of shape {x.shape} has an undefined number '
                         'of channels')
    return channels


def _static(is_training):
    """A Python bool where the value is known when the graph is built, otherwise the tensor."""
    if isinstance(is_training, (bool, np.bool_)):
        return bool(is_training)
    value = tf.get_static_value(is_training)
    return is_training if value is None else bool(value)
