"""Formulations of a convolution of 5x5 and stride 2, and which of them is the fastest here.

Every formulation computes the same sums but for rounding. `tune` chooses for the graph that is
being built; a graph that it was not called for takes TensorFlow's own kernels throughout.

products        one matrix product for each tile of the kernel, a tile being the taps that fall into
                one block of 2x2 pixels; what lies outside the image is not multiplied
few channels    the input gradient of an image of few channels, as a convolution of stride 1 on
                blocks of 2x2 pixels
"""
import collections
import itertools

import tensorflow.compat.v1 as tf

# Up to this side of the larger image, products are faster than oneDNN's convolution. Milliseconds
# on two cores with AVX-512 and bfloat16 units, batch 64, TensorFlow 2.21, oneDNN's first: on Zen 5,
# in brackets on Zen 4. Where these disagree the larger gain decides. A pass that is missing here
# was not faster.
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

PRECISION = 'conv_precision'        # collection of the graph that holds the choice


def tune(precision):
    """Builds the default graph's convolutions from here on in the fastest known formulations.

    precision: `float32` or `bfloat16`, in which the session will multiply; None for TensorFlow's
    own kernels. The tables were measured against oneDNN; TensorFlow's own kernels gain more.
    """
    tf.get_collection_ref(PRECISION)[:] = [precision]


def tuned_precision():
    """The precision that the default graph's convolutions are tuned for, or None."""
    return (tf.get_collection(PRECISION) or [None])[0]


def conv2d(x, kernel, strides):
    """Convolution, padding `same`: [n, h, w, c] and [k, k, c, f] to [n, ⌈h/s⌉, ⌈w/s⌉, f]."""
    kernel = tf.convert_to_tensor(kernel)
    precision = tuned_precision()
    if precision is None or not _has_formulations(x.shape, kernel, strides):
        return _forward(x, kernel, strides)

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(dy):
            return (_input_gradient(dy, kernel, tf.shape(x), strides, precision),
                    _filter_gradient(x, dy, kernel, strides, precision))
        return _forward(x, kernel, strides, precision), gradient
    return convolution(x, kernel)


def conv2d_transpose(x, kernel, size, strides):
    """Transposed convolution, padding `same`: [n, h, w, c] and [k, k, f, c] to size.

    size: int32 tensor of [n, s·h, s·w, f].
    """
    kernel = tf.convert_to_tensor(kernel)
    precision = tuned_precision()
    large = tf.TensorShape([None] + [side * strides for side in x.shape.as_list()[1:3]] + [
        kernel.shape[2]])
    if precision is None or not _has_formulations(large, kernel, strides):
        return _input_gradient(x, kernel, size, strides)

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


def bias_add(x, bias):
    """Adds bias [c] to x [n, h, w, c]."""
    _, height, width, channels = x.shape.as_list()
    precision = tuned_precision()
    if precision is None or None in (height, width):
        return tf.nn.bias_add(x, bias, name='BiasAdd')

    # The gradient's sum over [n, h, w, c] is slow for few channels, 3.5 ms for 3 at 64x64; over
    # whole rows of pixels it takes 0.4. In bfloat16 a product with ones sums, in float32 inside;
    # for BiasAddGrad the whole gradient would be cast to float32 first, 2 % of a step.
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
    return (strides == 2 and kernel.shape.as_list()[:2] == [5, 5] and None not in (height, width)
            and height % 2 == width % 2 == 0 and min(height, width) >= 4)


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


# The part of one axis of the kernel that falls into one block of 2 pixels. taps: slice of the
# kernel, of that size. first: number of the block's first pixel under it. outputs, blocks: slices
# of those for which the block lies inside the image. outside: [outputs before, after] for which it
# does not.
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
