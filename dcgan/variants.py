"""Variations of the original's training graph.

Each function wraps or replaces one step of graph.build. A run with the default settings calls none
of them.
"""
import tensorflow.compat.v1 as tf

from dcgan import diffaugment

SPECTRAL_UPDATES = 'spectral_updates'       # collection of the power iterations' update ops
HALVE_NOISE_EVERY = 1000        # steps after which the deviation of instance noise is halved
REAL, FAKE, NOISE, MIX = 0, 1, 2, 4         # streams of random numbers within a step


def scope(**options):
    """The current variable scope with other options for what is built within."""
    return tf.variable_scope(tf.get_variable_scope(), **options)


# what D sees

def random_seed(seed, step, stream, worker):
    """The seed of TensorFlow's stateless random numbers for one stream of one run of D.

    step: int32 tensor, number of the run. Each worker draws other numbers.
    """
    return tf.stack([seed, 8 * (step * worker.size + worker.task) + stream])


def d_input(images, stream, settings, step, worker):
    """The images as D sees them: changed by DiffAugment, then with instance noise.

    stream: REAL or FAKE. step: int32 tensor, number of the run of D's optimizer.
    """
    seed = settings['seed']
    if settings['diffaugment']:
        images = diffaugment.apply(settings['diffaugment'], images,
                                   random_seed(seed, step, stream, worker))
    if settings['instance_noise']:
        images = instance_noise(images, settings['instance_noise'], step // settings['d_steps'],
                                random_seed(seed, step, NOISE + stream, worker))
    return images


def instance_noise(images, stddev, step, seed):
    """Adds normal noise that fades with the steps (Sønderby et al. 2017, section 2.3)."""
    stddev *= 0.5 ** (tf.cast(step, tf.float32) / HALVE_NOISE_EVERY)
    return images + stddev * tf.random.stateless_normal(tf.shape(images), seed)


def mix(real, fake, settings, step, worker):
    """A uniformly drawn point on the line between each real and fake image, [n, h, w, c]."""
    return interpolate(real, fake, random_seed(settings['seed'], step, MIX, worker))


def interpolate(real, fake, seed):
    """share · real + (1 - share) · fake, with a share of its own for each pair of images."""
    share = tf.random.stateless_uniform(tf.stack([tf.shape(real)[0], 1, 1, 1]), seed)
    return share * real + (1 - share) * fake


def spectrally_normalized(discriminator):
    """The discriminator with its kernels divided by their largest singular value.

    All uses of what is returned share one power iteration.
    """
    getter = spectral_norm()

    def normalized(*args, **options):
        with scope(custom_getter=getter):
            return discriminator(*args, **options)
    return normalized


def spectral_norm():
    """A custom_getter that divides kernels by their largest singular value (Miyato et al. 2018).

    A power iteration estimates it from a variable `u` beside the kernel. The first use of a kernel
    through this getter runs the iteration, later uses share its result. The op that stores the
    result in `u` goes to the collection SPECTRAL_UPDATES.
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


# updates: each minimize is a function of a loss that returns the op of an update

def scaled_minimize(optimizer, variables, loss_scale, worker):
    """A minimize with gradients of loss · loss_scale, divided by it, averaged over all workers."""
    def minimize(loss):
        gradients = [gradient / loss_scale for gradient, _ in
                     optimizer.compute_gradients(loss * loss_scale, variables)]
        if worker.size > 1:
            for gradient, v in zip(gradients, variables):
                gradient.set_shape(v.shape)         # TensorFlow 1.15 does not know all of them
            gradients = worker.all_reduce_mean(gradients)
        return optimizer.apply_gradients(list(zip(gradients, variables)))
    return minimize


def minimize_after_power_iteration(minimize):
    """A minimize whose update waits until spectral_norm's power iterations are stored."""
    def after(loss):
        with tf.control_dependencies(tf.get_collection(SPECTRAL_UPDATES)):
            return minimize(loss)
    return after


def clipped_minimize(minimize, variables, limit):
    """A minimize that then clips the variables to ±limit (Arjovsky et al. 2017, algorithm 1)."""
    def clipped(loss):
        with tf.control_dependencies([minimize(loss)]):
            return tf.group(*[v.assign(tf.clip_by_value(v.read_value(), -limit, limit),
                                       read_value=False) for v in variables])
    return clipped


def averaged_minimize(minimize, ema, variables):
    """A minimize that then moves the EMA of the variables."""
    def averaged(loss):
        with tf.control_dependencies([minimize(loss)]):
            return ema.apply(variables)
    return averaged


def fused_step(settings, optimizer_d, g, generator, discriminator, loss_of_g, minimize_g, step,
               worker):
    """(loss_g, optimizer_g): a run of optimizer_g is D's update, then g_steps updates of G.

    Each update of G goes through the D just updated, the first with g, the images that D has seen,
    the others with new ones of generator(). The gradients are those of separate runs, without G's
    first forward pass and without D's passes on real images in G's runs.
    """
    optimizer_g = optimizer_d
    for number in range(settings['g_steps']):
        # Within the dependency all variables are read anew, after the update.
        with tf.control_dependencies([optimizer_g]):
            done = len(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
            with scope(reuse=True):
                if number:
                    g = generator()
                updated_d = discriminator
                if settings['spectral_norm']:
                    updated_d = spectrally_normalized(discriminator)
                _, logits = updated_d(d_input(g, FAKE, settings, step, worker), reuse=True)
            loss_g = loss_of_g(logits)
            with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)[done:]):
                optimizer_g = minimize_g(loss_g)
    return loss_g, optimizer_g


# several workers

def averaged_over_workers(model, worker):
    """The graph.Graph with losses and statistics averaged over all workers, and their votes."""
    optimizer_d, optimizer_g = (average_statistics(op, worker)
                                for op in (model.optimizer_d, model.optimizer_g))
    stop = tf.placeholder(tf.bool, [], name='stop')
    loss_d, d_real, d_fake, *votes = worker.all_reduce_mean([
        model.loss_d, tf.reduce_mean(model.d_real), tf.reduce_mean(model.d_fake),
        tf.cast(stop, tf.float32)])
    loss_g, = worker.all_reduce_mean([model.loss_g])
    return model._replace(optimizer_d=optimizer_d, optimizer_g=optimizer_g, loss_d=loss_d,
                          loss_g=loss_g, d_real=d_real, d_fake=d_fake, stop=stop, votes=votes)


def average_statistics(optimizer, worker):
    """An op that runs optimizer, then averages moving statistics and `u` over all workers."""
    with tf.control_dependencies([optimizer]):
        kept = [v for network in ('discriminator/', 'generator/')
                for v in tf.global_variables(network)
                if v.op.name.endswith(('/moving_mean', '/moving_variance', '/u'))]
        means = worker.all_reduce_mean([v.read_value() for v in kept])
        return tf.group(*[v.assign(mean, read_value=False) for v, mean in zip(kept, means)])


# drawing with the EMA of G's weights

def drawing_with_ema(model, ema, generator):
    """The graph.Graph whose samples are drawn by the EMA of G's weights, with recalibration.

    The EMA weights have other batch statistics than the weights, so the statistics are not averaged
    but recalibrated; they have the names that their averages would have. generator: function that
    builds G, as in graph.build.
    """
    averages = {v.op.name: ema.average(v) for v in model.vars_g}
    statistics = {v.op.name: tf.get_variable(ema.average_name(v), v.shape, trainable=False,
                                             initializer=tf.zeros_initializer(), use_resource=True)
                  for v in tf.global_variables('generator/')
                  if v.op.name.endswith(('/moving_mean', '/moving_variance'))}
    averages.update(statistics)
    start_recalibration = tf.group(*[v.initializer for v in statistics.values()])
    recalibration_batch = tf.placeholder(tf.float32, [], name='recalibration_batch')
    done = len(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    with scope(reuse=True, custom_getter=lambda getter, name, **_: averages[name]):
        # With a rate of 1 / k at the kth batch a moving average is the mean of the k.
        generator(is_training=True, decay=1 - 1 / recalibration_batch, sync=None)
        samples = generator(is_training=False)
    recalibrate = tf.group(*tf.get_collection(tf.GraphKeys.UPDATE_OPS)[done:])
    return model._replace(samples=samples, start_recalibration=start_recalibration,
                          recalibrate=recalibrate, recalibration_batch=recalibration_batch)
