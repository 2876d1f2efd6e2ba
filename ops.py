"""Layers with the names, shapes and numbers of `tf.layers` and `tf.contrib.layers`.

Built on `tf.compat.v1.get_variable` and `tf.nn` alone, so the same lines run on TensorFlow 1.15
and 2.x, where `tf.contrib` is gone and `tf.compat.v1.layers` raises under Keras 3. A layer
without a name is numbered within its variable scope: `conv2d`, `conv2d_1`, ...; in a scope that
is entered again with `reuse` the count begins anew and finds the same variables.
"""
import numpy as np
import tensorflow.compat.v1 as tf

from dcgan import convolutions


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
        return convolutions.bias_add(convolutions.conv2d(x, kernel, strides), bias)


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
        x = convolutions.conv2d_transpose(x, kernel, tf.stack([tf.shape(x)[0]] + size), strides)
        x.set_shape([None] + size)
        x = convolutions.bias_add(x, bias)
        return activation(x) if activation else x


def batch_norm(x, is_training, decay=0.9, center=True, scale=False, epsilon=0.001,
               reuse=None, scope=None, sync=None):
    """Batch normalisation of [n, h, w, c] over all but c, as `tf.contrib.layers.batch_norm`.

    is_training is a Python bool or a scalar bool tensor. In training x is normalised with the
    batch's own mean and variance (over N = n·h·w); otherwise with the moving ones. The moving
    averages are `moving -= (moving - batch) · (1 - decay)`, the variance over N - 1 (Bessel), by
    ops in the collection UPDATE_OPS; with a tensor fed False these change nothing. decay is a
    number or a scalar float32 tensor. A second use of the same variables updates after the first:
    TensorFlow 1.15 did so in practice (a first layer fed by a placeholder is ready before one fed
    by a generator), and resource variables without an order would both start from the old value.

    sync: a cluster.Cluster over whose workers the batch statistics are computed, each holding a
    part of one batch, all of one size; None for those of x alone.

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

        def with_batch_statistics():
            if sync:
                return _sync_batch_norm(x, gamma, beta, epsilon, sync)
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


def _sync_batch_norm(x, gamma, beta, epsilon, worker):
    """Computes what fused_batch_norm does in training, for the batch of all workers."""
    # Not tf.nn.moments, whose variance has no gradient at its mean: a second one would miss it.
    mean = worker.all_reduce_mean_with_gradient(tf.reduce_mean(x, [0, 1, 2]))
    variance = worker.all_reduce_mean_with_gradient(
        tf.reduce_mean(tf.square(x - mean), [0, 1, 2]))
    y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]) * worker.size, tf.float32)
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
