"""The training graph: placeholders, the two networks, their losses and optimizers.

With the default settings it is the original's, name for name and in the original's order: read it
beside tests/golden/reference_tf115.py. Each `if` is a setting that goes beyond it; what it then
takes from dcgan/variants.py wraps or replaces the step above it.
"""
import collections
import functools

import tensorflow.compat.v1 as tf

import losses
import models
from dcgan import convolutions, variants
from dcgan.worker import SINGLE

# The tensors and ops of a training graph, as a sess.run feeds and fetches them.
# X, noise, is_training: placeholders. labels: float32 [n, l] of -1 and 1, or None.
# step: number of batches that D has seen, None if no setting needs it.
# d_real, d_fake: probabilities [n, 1]; a critic's values; means over all of several workers.
# critic: whether D outputs values of any sign, not probabilities.
# optimizer_d, optimizer_g: one update each; with --fused-step optimizer_g is the whole step.
# samples: images drawn in use, with is_training fed False, by the EMA weights if there are any.
# start_recalibration, then runs of recalibrate with recalibration_batch fed 1, 2, ...: make the EMA
# weights' batch statistics the plain mean of those of the batches of noise fed.
# stop: bool placeholder of each of several workers. votes: [a number, positive if any fed True].
Graph = collections.namedtuple('Graph', [
    'graph', 'X', 'noise', 'labels', 'is_training', 'step', 'g', 'd_real', 'd_real_logits',
    'd_fake', 'd_fake_logits', 'loss_d', 'loss_g', 'critic', 'vars_d', 'vars_g', 'optimizer_d',
    'optimizer_g', 'samples', 'start_recalibration', 'recalibrate', 'recalibration_batch', 'stop',
    'votes'], defaults=[None, None, None, None, ()])

INITIALIZERS = {
    'glorot': None,                                         # get_variable's own, as tf.layers
    'normal': tf.random_normal_initializer(stddev=0.02)}    # Radford et al. 2016, section 4
OPTIMIZERS = {
    'adam': lambda lr, beta1, beta2: tf.train.AdamOptimizer(lr, beta1, beta2),
    'rmsprop': lambda lr, beta1, beta2: tf.train.RMSPropOptimizer(lr)}
NEED_STEP = ('average', 'diffaugment', 'gradient_penalty', 'instance_noise')


def build(settings, width=64, worker=SINGLE, conv_precision=None, loss_scale=1):
    """Builds the training graph in a tf.Graph of its own and returns a Graph.

    settings: {name: value} of dcgan/settings.py, e.g. DEFAULTS. width: filters of the networks'
    narrowest layer. worker: a cluster.Cluster, or the only one. conv_precision: see
    convolutions.tune. loss_scale: factor of the losses while gradients are computed, for float16.

    Both optimizers wait for all update ops, so either moves the moving averages of both networks:
    G's twice a step, and D's, which has two towers, four times. With --fused-step the moving
    averages see each of its forward passes once, and the networks are built for training, whatever
    is_training is fed.
    """
    size, fused = settings['image_size'], settings['fused_step']
    graph = tf.Graph()
    with graph.as_default(), tf.device(worker.device), \
            tf.variable_scope('', initializer=INITIALIZERS[settings['init']]):
        tf.set_random_seed(settings['seed'])
        convolutions.tune(conv_precision)

        # placeholders
        X = tf.placeholder(tf.float32, [None, size, size, 3], name='X')
        noise = tf.placeholder(tf.float32, [None, settings['z_dim']], name='noise')
        is_training = tf.placeholder(tf.bool, [], name='is_training')
        labels = step = None
        if settings['attributes']:
            labels = tf.placeholder(tf.float32, [None, len(settings['attributes'])], name='labels')
        if any(settings[name] for name in NEED_STEP):
            step = tf.placeholder(tf.int32, [], name='step')

        # networks
        generator, discriminator = _networks(settings, noise, is_training, labels, width, worker)
        network_d = discriminator
        if settings['spectral_norm']:
            discriminator = variants.spectrally_normalized(network_d)
        g = generator()
        real, fake = X, g
        if settings['diffaugment'] or settings['instance_noise']:
            real = variants.d_input(X, variants.REAL, settings, step, worker)
            fake = variants.d_input(g, variants.FAKE, settings, step, worker)
        d_real, d_real_logits = discriminator(real)
        d_fake, d_fake_logits = discriminator(fake, reuse=True)

        vars_g = tf.trainable_variables('generator/')
        vars_d = tf.trainable_variables('discriminator/')

        # losses
        loss = losses.LOSSES[settings['loss']]
        smooth = {'smooth': settings['smooth']} if settings['smooth'] else {}
        loss_d = loss.d(d_real_logits, d_fake_logits, **smooth)
        loss_g = loss.g(d_fake_logits)
        if loss.critic:
            d_real, d_fake = d_real_logits, d_fake_logits
        objective_d = loss_d
        if settings['r1']:
            objective_d += settings['r1'] * losses.r1(d_real_logits, X)
        if settings['gradient_penalty']:
            mixed = variants.mix(real, fake, settings, step, worker)
            _, logits = discriminator(mixed, reuse=True)
            objective_d += settings['gradient_penalty'] * losses.gradient_penalty(logits, mixed)

        # optimizers
        lr_d = settings['lr'] if settings['lr_d'] is None else settings['lr_d']
        optimizer = OPTIMIZERS[settings['optimizer']]
        adam_d = optimizer(lr_d, settings['beta1'], settings['beta2'])
        adam_g = optimizer(settings['lr'], settings['beta1'], settings['beta2'])
        minimize_d, minimize_g, ema = _minimizers(settings, adam_d, adam_g, vars_d, vars_g, step,
                                                  worker, loss_scale)
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            optimizer_d = minimize_d(objective_d)
            optimizer_g = optimizer_d if fused else minimize_g(loss_g)
        if fused:
            loss_g, optimizer_g = variants.fused_step(
                settings, optimizer_d, g, generator, network_d, loss.g, minimize_g, step, worker)

        model = Graph(graph, X, noise, labels, is_training, step, g, d_real, d_real_logits, d_fake,
                      d_fake_logits, loss_d, loss_g, loss.critic, vars_d, vars_g, optimizer_d,
                      optimizer_g, samples=g)
        if worker.size > 1:
            model = variants.averaged_over_workers(model, worker)
        if settings['average']:
            model = variants.drawing_with_ema(model, ema, generator)
        elif fused:
            with variants.scope(reuse=True):
                model = model._replace(samples=generator(is_training=False))
    return model


def _networks(settings, noise, is_training, labels, width, worker):
    """(generator, discriminator): functions of models.py with what the settings say.

    generator() draws from the placeholders, discriminator(images, reuse) returns D's outputs.
    """
    options = {'width': width, 'labels': labels,
               # Without a tf.cond at each batch norm a fused step takes 2 % less time.
               'is_training': True if settings['fused_step'] else is_training,
               # Worker 0 completes a finished run's records alone.
               'sync': worker if settings['sync_batch_norm'] and worker.size > 1 else None}
    generator = functools.partial(models.generator, noise, image_size=settings['image_size'],
                                  **options)
    discriminator = functools.partial(models.discriminator, condition=settings['condition'],
                                      norm=settings['norm_d'], **options)
    return generator, discriminator


def _minimizers(settings, adam_d, adam_g, vars_d, vars_g, step, worker, loss_scale):
    """(minimize_d, minimize_g, ema): functions of a loss that return the op of an update.

    ema: the ExponentialMovingAverage that minimize_g moves, or None.
    """
    minimize_d = functools.partial(adam_d.minimize, var_list=vars_d)
    minimize_g = functools.partial(adam_g.minimize, var_list=vars_g)
    if loss_scale != 1 or worker.size > 1:
        minimize_d = variants.scaled_minimize(adam_d, vars_d, loss_scale, worker)
        minimize_g = variants.scaled_minimize(adam_g, vars_g, loss_scale, worker)
    if settings['spectral_norm']:
        minimize_d = variants.minimize_after_power_iteration(minimize_d)
    if settings['clip']:
        minimize_d = variants.clipped_minimize(minimize_d, vars_d, settings['clip'])
    if not settings['average']:
        return minimize_d, minimize_g, None
    ema = tf.train.ExponentialMovingAverage(settings['average'], step // settings['d_steps'])
    return minimize_d, variants.averaged_minimize(minimize_g, ema, vars_g), ema
