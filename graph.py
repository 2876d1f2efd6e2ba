"""The training graph: placeholders, the two networks, their losses and optimizers.

By default it is the original's, name for name. Everything else is an option that adds to it.
"""
import collections
import functools

import tensorflow.compat.v1 as tf

import losses
import models
import ops
from dcgan.diffaugment import apply as apply_diffaugment

Graph = collections.namedtuple('Graph', [
    'graph', 'X', 'noise', 'labels', 'is_training', 'step', 'g', 'd_real', 'd_real_logits',
    'd_fake', 'd_fake_logits', 'loss_d', 'loss_g', 'vars_d', 'vars_g', 'optimizer_d', 'optimizer_g',
    'samples', 'start_recalibration', 'recalibrate', 'recalibration_batch', 'stop', 'stopping'])

INITIALIZERS = {
    'glorot': None,                                         # get_variable's own, as tf.layers
    'normal': tf.random_normal_initializer(stddev=0.02)}    # Radford et al. 2016, section 4
OPTIMIZERS = {
    'adam': lambda lr, beta1, beta2: tf.train.AdamOptimizer(lr, beta1, beta2),
    'rmsprop': lambda lr, beta1, beta2: tf.train.RMSPropOptimizer(lr)}
NOISE_HALVED = 1000        # steps after which the standard deviation of instance noise is halved


def build(image_size=64, z_dim=100, lr=0.0002, beta1=0.5, seed=0, width=64, fused_g_steps=0,
          fast_for=None, loss_scale=1, lr_d=None, init='glorot', average=0.0, smooth=0.0,
          instance_noise=0.0, spectral_norm=False, r1=0.0, diffaugment=(), loss='gan',
          optimizer='adam', beta2=0.999, clip=0.0, gradient_penalty=0.0, norm_d='batch', d_steps=1,
          label_count=0, condition='projection', workers=None, sync_batch_norm=False):
    """Builds it in a tf.Graph of its own and returns a Graph.

    Both optimizers wait for all update ops, so a run of either moves the moving averages of both
    networks: per step G's twice and D's, which has two towers, four times. With average each of
    G's updates is followed by that of the average of its weights, whose decay is
    min(average, (1 + n) / (10 + n)) after n of them, as tf.train.ExponentialMovingAverage has it.

    With fused_g_steps a run of optimizer_g is a whole step instead: D's update, then that many of
    G's, each through the D just updated, the first on the very images that D has seen. Gradients
    are those of the separate runs. What is saved is G's first forward pass and the photographs'
    pass through D in G's runs, so fewer updates reach the moving averages: G's move once for each
    of its forward passes, D's see the photographs once. Neither counts in training. Its networks
    are built for training alone, whatever is_training is fed.

    samples is what G draws in use, with is_training fed False. With average it is what the moving
    average of G's weights draws. start_recalibration and some runs of recalibrate, with
    recalibration_batch fed 1, 2, ..., then make its batch statistics the plain mean of those of
    the batches of noise fed (otherwise None). step is fed the number of batches that D has seen
    where an option asks for it (otherwise None).

    label_count: how many labels the faces have; the placeholder of them, float32 [n, label_count]
    of -1 and 1, is fed those of the photographs, which are asked of the drawings too (None where
    there are none).
    With another loss than `gan` D is a critic: d_real and d_fake are its values, as the logits are.

    workers: a cluster.Cluster, all of whose gradients are averaged, as are the losses, d_real and
    d_fake, which are scalars then. Batch norm's statistics are those of this worker's share, their
    moving averages averaged; with sync_batch_norm they are those of all shares. stop, a bool that
    each worker feeds, makes stopping positive on all (None without workers).

    fast_for: see ops.fast_convolutions. loss_scale: factor of the losses while gradients are
    computed, for float16. The others are train.py's options of these names.
    """
    graph = tf.Graph()
    share, shares = (workers.task, workers.size) if workers else (0, 1)
    with graph.as_default(), tf.device(workers and workers.device), \
            ops.fast_convolutions(fast_for), \
            ops.shared_statistics(workers and sync_batch_norm and workers.shared_mean, shares), \
            _scope(initializer=INITIALIZERS[init]):
        tf.set_random_seed(seed)
        X = tf.placeholder(tf.float32, [None, image_size, image_size, 3], name='X')
        noise = tf.placeholder(tf.float32, [None, z_dim], name='noise')
        is_training = tf.placeholder(tf.bool, [], name='is_training')
        labels = None
        if label_count:
            labels = tf.placeholder(tf.float32, [None, label_count], name='labels')
        step = None
        if average or instance_noise or diffaugment or gradient_penalty:
            step = tf.placeholder(tf.int32, [], name='step')

        seed_of = functools.partial(_seed, seed, step, share=share, shares=shares)

        # Without a tf.cond at each batch norm a fused step takes 2 % less time.
        training = True if fused_g_steps else is_training

        def generator(training=training, **options):
            return models.generator(noise, training, image_size, width, labels, **options)

        def seen(images, stream):
            """What D sees of images."""
            if diffaugment:
                images = apply_diffaugment(diffaugment, images, seed_of(stream))
            if instance_noise:
                images = _noisy(images, instance_noise, step // d_steps, seed_of(2 + stream))
            return images

        def discriminator(images, getter, reuse=None):
            with _scope(custom_getter=getter):
                return models.discriminator(images, training, reuse, width, labels, condition,
                                            norm_d)

        g = samples = generator()
        getter = ops.spectral_norm() if spectral_norm else None
        real, fake = seen(X, 0), seen(g, 1)
        d_real, d_real_logits = discriminator(real, getter)
        d_fake, d_fake_logits = discriminator(fake, getter, reuse=True)

        if loss == 'gan':
            loss_d, loss_of_g = losses.loss_d(d_real_logits, d_fake_logits, smooth), losses.loss_g
        else:
            d_real, d_fake = d_real_logits, d_fake_logits
            loss_d, loss_of_g = losses.critic_loss_d(d_real, d_fake), losses.critic_loss_g
        loss_g = loss_of_g(d_fake_logits)
        objective_d = loss_d + r1 * losses.r1(d_real_logits, X) if r1 else loss_d
        if gradient_penalty:
            mixed = _mixed(real, fake, seed_of(4))
            _, logits = discriminator(mixed, getter, reuse=True)
            objective_d += gradient_penalty * losses.gradient_penalty(logits, mixed)

        vars_d = tf.trainable_variables('discriminator/')
        vars_g = tf.trainable_variables('generator/')
        optimizer_of_d = OPTIMIZERS[optimizer](lr if lr_d is None else lr_d, beta1, beta2)
        optimizer_of_g = OPTIMIZERS[optimizer](lr, beta1, beta2)
        moving = None
        if average:
            moving = tf.train.ExponentialMovingAverage(average, step // d_steps)

        def minimize_g(loss_g):
            optimizer_g = _minimize(optimizer_of_g, loss_g, vars_g, loss_scale, workers)
            if not average:
                return optimizer_g
            with tf.control_dependencies([optimizer_g]):
                return moving.apply(vars_g)

        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            with tf.control_dependencies(tf.get_collection(ops.SPECTRAL_UPDATES)):
                optimizer_d = _minimize(optimizer_of_d, objective_d, vars_d, loss_scale, workers)
            if clip:
                with tf.control_dependencies([optimizer_d]):
                    optimizer_d = _clip(vars_d, clip)
            optimizer_g = optimizer_d if fused_g_steps else minimize_g(loss_g)

        images = g
        for number in range(fused_g_steps):
            # Within the dependency all variables are read anew, after the update.
            with tf.control_dependencies([optimizer_g]):
                done = len(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
                with _scope(reuse=True):
                    if number:
                        images = generator()
                    getter = ops.spectral_norm() if spectral_norm else None
                    _, logits = discriminator(seen(images, 1), getter, reuse=True)
                loss_g = loss_of_g(logits)
                with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)[done:]):
                    optimizer_g = minimize_g(loss_g)

        stop = stopping = None
        if workers:
            optimizer_d, optimizer_g = (_agree(workers, op) for op in (optimizer_d, optimizer_g))
            stop = tf.placeholder(tf.bool, [], name='stop')
            loss_d, d_real, d_fake, stopping = workers.mean([
                loss_d, tf.reduce_mean(d_real), tf.reduce_mean(d_fake), tf.cast(stop, tf.float32)])
            loss_g, = workers.mean([loss_g])

        start_recalibration = recalibrate = recalibration_batch = None
        if average:
            averages, start_recalibration = _averages(moving, vars_g)
            recalibration_batch = tf.placeholder(tf.float32, [], name='recalibration_batch')
            done = len(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
            with ops.shared_statistics(None), _scope(
                    reuse=True, custom_getter=lambda getter, name, **_: averages[name]):
                # With a rate of 1 / k at the kth batch a moving average is the mean of the k.
                generator(True, decay=1 - 1 / recalibration_batch)
                samples = generator(False)
            recalibrate = tf.group(*tf.get_collection(tf.GraphKeys.UPDATE_OPS)[done:])
        elif fused_g_steps:
            with _scope(reuse=True):
                samples = generator(False)
    return Graph(graph, X, noise, labels, is_training, step, g, d_real, d_real_logits, d_fake,
                 d_fake_logits, loss_d, loss_g, vars_d, vars_g, optimizer_d, optimizer_g, samples,
                 start_recalibration, recalibrate, recalibration_batch, stop, stopping)


def _scope(**options):
    """The current variable scope with other options for what is built within."""
    return tf.variable_scope(tf.get_variable_scope(), **options)


def _minimize(optimizer, loss, variables, loss_scale, workers):
    if loss_scale == 1 and not workers:
        return optimizer.minimize(loss, var_list=variables)
    gradients = [gradient / loss_scale for gradient, _ in
                 optimizer.compute_gradients(loss * loss_scale, variables)]
    if workers:
        for gradient, v in zip(gradients, variables):
            gradient.set_shape(v.shape)         # TensorFlow 1.15 does not know all of them
        gradients = workers.mean(gradients)
    return optimizer.apply_gradients(list(zip(gradients, variables)))


def _agree(workers, done):
    """After the op done: what the networks keep beside their weights is averaged over workers."""
    with tf.control_dependencies([done]):
        kept = [v for network in ('discriminator/', 'generator/')
                for v in tf.global_variables(network)
                if v.op.name.endswith(('/moving_mean', '/moving_variance', '/u'))]
        means = workers.mean([v.read_value() for v in kept])
        return tf.group(*[v.assign(mean, read_value=False) for v, mean in zip(kept, means)])


def _clip(variables, limit):
    """Brings all of their values into [-limit, limit] (Arjovsky et al. 2017, algorithm 1)."""
    return tf.group(*[v.assign(tf.clip_by_value(v.read_value(), -limit, limit), read_value=False)
                      for v in variables])


def _seed(seed, step, stream, share=0, shares=1):
    """For TensorFlow's stateless random numbers, which are a function of it.

    share: which worker's of so many, which draw different ones.
    """
    return tf.stack([seed, 8 * (step * shares + share) + stream])


def _noisy(images, stddev, step, seed):
    """Instance noise (Sønderby et al. 2017, section 2.3)."""
    stddev *= 0.5 ** (tf.cast(step, tf.float32) / NOISE_HALVED)
    return images + stddev * tf.random.stateless_normal(tf.shape(images), seed)


def _mixed(images, drawings, seed):
    """A point on the line between each image and drawing, uniformly drawn."""
    share = tf.random.stateless_uniform(tf.stack([tf.shape(images)[0], 1, 1, 1]), seed)
    return share * images + (1 - share) * drawings


def _averages(moving, vars_g):
    """Returns {name of a variable of G: its EMA} and an op that zeroes the batch statistics.

    The EMA weights have other batch statistics than the weights, so these are not averaged but
    recalibrated; they have the names that their averages would have.
    """
    averages = {v.op.name: moving.average(v) for v in vars_g}
    statistics = {v.op.name: tf.get_variable(moving.average_name(v), v.shape, trainable=False,
                                             initializer=tf.zeros_initializer(), use_resource=True)
                  for v in tf.global_variables('generator/')
                  if v.op.name.endswith(('/moving_mean', '/moving_variance'))}
    return {**averages, **statistics}, tf.group(*[v.initializer for v in statistics.values()])
