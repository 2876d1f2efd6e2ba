"""What goes beyond the original's graph: averaged weights, penalties, noise, other optimizers."""
import inspect

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import formula
import graph
import losses
import ops
import recording
from dcgan import session
from dcgan.checkpoint import AVERAGE
from dcgan.settings import DEFAULTS, LOSSES, OF_GRAPH

SMALL = {'image_size': 32, 'width': 4}
WGAN, WGAN_GP = ({key: value for key, value in dict(LOSSES[loss], loss=loss).items()
                  if key != 'd_steps'} for loss in ('wgan', 'wgan-gp'))


def started(p, step=0):
    """(session with the golden figures' initial values, feed of a training step)."""
    sess = tf.Session(graph=p.graph)
    by_name = variables(p)
    # What the golden figures have no rule for begins as TensorFlow has it.
    values = {name: np.full(v.shape.as_list(), float(name.endswith(('/RMSProp', '/gamma'))))
              if '/RMSProp' in name or name.endswith('/gamma') else
              formula.initial_value(name.replace(AVERAGE, '').replace('/u', '/kernel'),
                                    v.shape.as_list()) for name, v in by_name.items()}
    sess.run([v.initializer for v in by_name.values()],
             {v.initializer.inputs[1]: values[name] for name, v in by_name.items()})
    feed = recording.feed(p, 1, True, size=32)
    if p.step is not None:
        feed[p.step] = step
    if p.labels is not None:
        shape = len(feed[p.noise]), p.labels.shape.as_list()[1]
        feed[p.labels] = np.random.RandomState(0).choice([-1, 1], shape)
    return sess, feed


def variables(p):
    with p.graph.as_default():
        return {v.op.name: v for v in tf.global_variables()}


def test_every_setting_of_a_graph_reaches_it():
    parameters = inspect.signature(graph.build).parameters
    assert set(OF_GRAPH) == set(parameters) & set(DEFAULTS) - {'workers'}
    defaults = {key: parameters[key].default for key in OF_GRAPH}
    defaults['diffaugment'] = list(defaults['diffaugment'])
    assert defaults == {key: DEFAULTS[key] for key in OF_GRAPH}


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_the_average_is_kept_beside_the_99(fused_g_steps):
    plain, p = graph.build(**SMALL), graph.build(average=0.5, fused_g_steps=fused_g_steps, **SMALL)
    by_name = variables(p)
    added = sorted(set(by_name) - set(variables(plain)))
    of_g = [name for name in variables(plain) if name.startswith('generator/')
            and 'Adam' not in name]
    assert added == sorted(name + AVERAGE for name in of_g)
    name = 'generator/g/kernel'
    sess, feed = started(p)
    with sess:
        expected = sess.run(by_name[name])
        for step in range(8):
            feed[p.step] = step
            sess.run(p.optimizer_g, feed)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * sess.run(by_name[name])
        average, weights = sess.run([by_name[name + AVERAGE], by_name[name]])
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(average - weights).max() > 1e-5


def recalibrated(p, sess, batches):
    """{name: batch-norm statistic of the EMA weights}, recalibrated by batches of noise."""
    sess.run(p.start_recalibration)
    for number, noise in enumerate(batches):
        sess.run(p.recalibrate, {p.noise: noise, p.recalibration_batch: number + 1})
    return sess.run({name: v for name, v in variables(p).items()
                     if 'moving' in name and name.endswith(AVERAGE)})


def test_recalibrated_statistics_are_the_plain_mean_over_the_batches():
    p = graph.build(average=0.9, **SMALL)
    by_name = variables(p)
    sess, feed = started(p)
    batches = [formula.noises(seed) for seed in range(3)]
    with sess:
        for _ in range(3):
            sess.run(p.optimizer_g, feed)
        of_each = [recalibrated(p, sess, [batch]) for batch in batches]
        of_all = recalibrated(p, sess, batches)
        # Neither the statistics of the weights nor what was there before leaves a trace.
        for name, v in by_name.items():
            if 'moving' in name:
                v.load(np.full(v.shape, 1e6), sess)
        again = recalibrated(p, sess, batches)
    assert len(of_all) == 8
    for name, value in of_all.items():
        mean = np.mean([statistics[name] for statistics in of_each], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6, err_msg=name)
        assert (again[name] == value).all(), name


def test_recalibration_gives_ema_weights_their_own_statistics():
    p = graph.build(average=0.9, **SMALL)
    by_name = variables(p)
    sess, feed = started(p)
    with sess:
        for _ in range(3):
            sess.run(p.optimizer_g, feed)
        # Where both weights are the same, so must the statistics be of which one batch is seen.
        for name, variable in by_name.items():
            average = by_name.get(name + AVERAGE)
            if average is not None:
                average.load(sess.run(variable) if 'moving' not in name else
                             np.zeros(variable.shape), sess)
        before = sess.run(list(by_name.values()))
        recalibrated(p, sess, [feed[p.noise]])
        after = sess.run(list(by_name.values()))
        changed = {name for name, a, b in zip(by_name, before, after) if (a != b).any()}
        assert changed == {name for name in by_name
                           if 'moving' in name and name.endswith(AVERAGE)}
        in_training = sess.run(p.g, feed)
        samples = sess.run(p.samples, {p.noise: feed[p.noise]})
        with_its_own = sess.run(p.g, {p.noise: feed[p.noise], p.is_training: False})
    # But for Bessel's correction, of which the first layer's 8 x 2 x 2 values make 1.6 %.
    assert np.abs(samples - in_training).max() < 0.05
    assert np.abs(with_its_own - in_training).max() > 0.2


def test_spectral_norm_makes_the_largest_singular_value_1():
    with tf.Graph().as_default(), tf.Session() as sess:
        getter = ops.spectral_norm()
        with tf.variable_scope('d', custom_getter=getter):
            kernel = tf.get_variable('kernel', [3, 3, 4, 6], use_resource=True)
            bias = tf.get_variable('bias', [6], use_resource=True)
        with tf.variable_scope('d', custom_getter=getter, reuse=True):
            again = tf.get_variable('kernel')
        assert bias.op.type == 'VarHandleOp'
        updates = tf.get_collection(ops.SPECTRAL_UPDATES)
        assert len(updates) == 1
        gradient, = tf.gradients(tf.reduce_sum(kernel * tf.cos(kernel)), tf.trainable_variables(
            'd/kernel'))
        sess.run(tf.global_variables_initializer())
        for _ in range(200):
            sess.run(updates)
        kernel, again, gradient = sess.run([kernel, again, gradient])
        weights = sess.run(tf.trainable_variables('d/kernel'))[0]
    values = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] < 0.99
    assert (kernel == again).all()
    # A function of W / sigma does not change along W.
    assert abs((gradient * weights).sum()) < 1e-4 * np.abs(gradient * weights).sum()


def test_r1_of_a_linear_critic():
    rng = np.random.RandomState(0)
    weights = rng.randn(4 * 4 * 3, 1).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        images = tf.placeholder(tf.float32, [None, 4, 4, 3])
        penalty = losses.r1(tf.matmul(ops.flatten(images), weights), images)
        value = sess.run(penalty, {images: rng.randn(5, 4, 4, 3)})
    assert value == pytest.approx((weights ** 2).sum() / 2, rel=1e-5)


def test_r1_reaches_d_through_its_layers():
    kernels = []
    for r1 in (0, 100):
        p = graph.build(r1=r1, fast_for='float32', **SMALL)
        sess, feed = started(p)
        with sess:
            before = sess.run(p.loss_d, feed)
            sess.run(p.optimizer_d, feed)
            # Adam's first moment is the gradient times 1 - beta1.
            kernels.append(sess.run(variables(p)['discriminator/conv2d/kernel/Adam']))
        assert before < 10      # loss_d is told without the penalty
    assert np.abs(kernels[1]).max() > 3 * np.abs(kernels[0]).max()


def test_smoothing_is_one_sided():
    with tf.Graph().as_default(), tf.Session() as sess:
        real, fake = tf.constant([[0.5], [2.0]]), tf.constant([[-1.0], [0.3]])
        loss = sess.run(losses.loss_d(real, fake, 0.1))
    real, fake = np.array([0.5, 2]), np.array([-1, 0.3])
    expected = (0.9 * np.log1p(np.exp(-real)) + 0.1 * np.log1p(np.exp(real))).mean()
    assert loss == pytest.approx(expected + np.log1p(np.exp(fake)).mean(), rel=1e-6)


def test_instance_noise_is_a_function_of_the_step():
    p = graph.build(instance_noise=0.5, **SMALL)
    with p.graph.as_default():
        zeros = tf.zeros([8, 32, 32, 3])
        noises = [graph._noisy(zeros, 0.5, p.step, graph._seed(3, p.step, stream))
                  for stream in (0, 1)]
    sess, feed = started(p)
    with sess:
        real, fake = sess.run(noises, {p.step: 0})
        assert real.std() == pytest.approx(0.5, rel=0.02) and abs(real.mean()) < 0.02
        assert (sess.run(noises[0], {p.step: 0}) == real).all()
        assert abs((real * fake).mean()) < 0.01
        later = sess.run(noises[0], {p.step: graph.NOISE_HALVED})
        assert later.std() == pytest.approx(0.25, rel=0.02)
        assert abs((real * later).mean()) < 0.01
        logits = [sess.run(p.d_real_logits, {**feed, p.step: step}) for step in (0, 0, 1)]
    assert (logits[0] == logits[1]).all() and (logits[0] != logits[2]).any()


def test_losses_of_a_critic():
    real, fake = np.array([[0.5], [2.0], [-4.0]]), np.array([[-1.0], [0.3], [7.0]])
    with tf.Graph().as_default(), tf.Session() as sess:
        loss_d, loss_g = sess.run([losses.critic_loss_d(tf.constant(real), tf.constant(fake)),
                                   losses.critic_loss_g(tf.constant(fake))])
    assert (loss_d, loss_g) == pytest.approx((2.1 + 0.5, -2.1))


def test_gradient_penalty_of_a_linear_critic():
    rng = np.random.RandomState(0)
    weights = rng.randn(4 * 4 * 3, 1).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        images, scale = tf.placeholder(tf.float32, [None, 4, 4, 3]), tf.placeholder(tf.float32)
        penalty = losses.gradient_penalty(tf.matmul(ops.flatten(images), scale * weights), images)
        slope = np.linalg.norm(weights)
        for share in (0.0, 0.25, 1.0, 3.0):
            value = sess.run(penalty, {images: rng.randn(5, 4, 4, 3), scale: share / slope})
            assert value == pytest.approx((share - 1) ** 2, abs=2e-5)


def test_the_penalty_is_on_what_d_is_shown(monkeypatch):
    found = []
    monkeypatch.setattr(losses, 'gradient_penalty',
                        lambda d, mixed: found.append(mixed) or tf.reduce_mean(d))
    monkeypatch.setattr(graph, '_noisy', lambda images, *_: 0 * images + 7)
    p = graph.build(loss='wgan-gp', gradient_penalty=1.0, norm_d='none', instance_noise=0.1,
                    **SMALL)
    sess, feed = started(p)
    with sess:
        np.testing.assert_allclose(sess.run(found[0], {**feed, p.step: 0}), 7, rtol=1e-6)


@pytest.mark.skipif(not session.has_onednn(), reason='no bfloat16 without oneDNN')
def test_the_penalty_is_computed_in_float32():
    p = graph.build(loss='wgan-gp', gradient_penalty=10.0, norm_d='none', **SMALL)
    ran = tf.RunMetadata()
    with session.open_session(p.graph, 'bfloat16') as sess:
        recording.start(tf, p, sess)
        sess.run(p.optimizer_d, {**recording.feed(p, 1, True, size=32), p.step: 0},
                 tf.RunOptions(output_partition_graphs=True), ran)
    kinds = {node.name: node.attr['T'].type for part in ran.partition_graphs for node in part.node}
    assert tf.bfloat16.as_datatype_enum in kinds.values()
    for name in ('Pow', 'Sum', 'Sqrt', 'sub', 'Square'):
        assert kinds[f'gradient_penalty/{name}'] == tf.float32.as_datatype_enum, name


def test_the_penalty_is_on_points_between_photographs_and_drawings():
    with tf.Graph().as_default(), tf.Session() as sess:
        images, drawings = tf.ones([500, 2, 2, 3]), -tf.ones([500, 2, 2, 3])
        step = tf.placeholder(tf.int32, [])
        mixed = graph._mixed(images, drawings, graph._seed(0, step, 4))
        first, again, later = (sess.run(mixed, {step: number}) for number in (1, 1, 2))
    share = (first[:, 0, 0, 0] + 1) / 2
    assert (first == first[:, :1, :1, :1]).all()        # one point of a line
    assert np.histogram(share, 5, (0, 1))[0].min() > 70
    assert (first == again).all() and (first != later).any()


def test_the_penalty_pulls_slopes_to_1():
    slopes = []
    for penalty in (0.0, 10.0):
        p = graph.build(**dict(WGAN_GP, lr=0.001, gradient_penalty=penalty), **SMALL)
        with p.graph.as_default():
            slope = tf.norm(ops.flatten(tf.gradients(p.d_real_logits, p.X)[0]), axis=1)
        sess, feed = started(p)
        with sess:
            for step in range(60):
                if p.step is not None:
                    feed[p.step] = step
                sess.run(p.optimizer_d, feed)
            slopes.append(sess.run(slope, feed).mean())
    assert slopes[0] > 100 and 0.5 < slopes[1] < 2


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_clipped_weights_stay_within_the_limit(fused_g_steps):
    p = graph.build(fused_g_steps=fused_g_steps, **WGAN, **SMALL)
    sess, feed = started(p)
    with sess:
        assert max(np.abs(value).max() for value in sess.run(p.vars_d)) > 0.05
        for _ in range(3):
            sess.run(p.optimizer_g if fused_g_steps else p.optimizer_d, feed)
        limits = [np.abs(value).max() for value in sess.run(p.vars_d)]
        g_limits = [np.abs(value).max() for value in sess.run(p.vars_g)]
    assert max(limits) == np.float32(0.01)
    assert max(g_limits) > 0.05


def test_the_clip_bounds_what_batch_norm_gives():
    # Normalised activations are of size 1 whatever the kernels are; with a scale within the limit
    # the last layer's are of that size, so the critic's values are too.
    largest = []
    for norm in ({}, {'norm_d': 'batch'}):          # what comes with the loss, the original's
        p = graph.build(**dict(WGAN, lr=0.001, **norm), **SMALL)
        sess, feed = started(p)
        with sess:
            for _ in range(30):
                sess.run(p.optimizer_d, feed)
            largest.append(np.abs(sess.run([p.d_real, p.d_fake], feed)).max())
    assert largest[0] < 0.025 * largest[1]


def test_the_critic_of_the_penalty_has_no_batch_norm():
    names = set(variables(graph.build(**WGAN_GP, **SMALL)))
    plain = set(variables(graph.build(**SMALL)))
    assert {name for name in plain - names} == {
        name for name in plain if name.startswith('discriminator/BatchNorm')}
    assert names <= plain
    assert {name.rpartition('/')[2] for name in variables(graph.build(**WGAN, **SMALL))
            if 'discriminator/conv2d/kernel' in name} == {'kernel', 'RMSProp', 'RMSProp_1'}


@pytest.mark.parametrize('condition, added', [
    ('projection', {'discriminator/projection/dense/kernel',
                    'discriminator/projection/dense/bias'}),
    ('maps', set())])
def test_labels_reach_both_networks(condition, added):
    p = graph.build(label_count=3, condition=condition, **SMALL)
    by_name, plain = variables(p), variables(graph.build(**SMALL))
    assert {name for name in set(by_name) - set(plain) if 'Adam' not in name} == added
    assert by_name['generator/dense/kernel'].shape.as_list() == [103, 2 * 2 * 32]
    sess, feed = started(p)
    with sess:
        before = sess.run([p.g, p.d_real_logits], feed)
        feed[p.labels] = feed[p.labels] * [1, 1, -1]
        after = sess.run([p.g, p.d_real_logits], feed)
    for one, other in zip(before, after):
        assert np.abs(one - other).max() > 1e-3


def test_a_loss_scale_is_taken_out_again():
    states = []
    for loss_scale in (1, 1024):
        p = graph.build(loss_scale=loss_scale, **SMALL)
        sess, feed = started(p)
        with sess:
            sess.run(p.optimizer_d, feed)
            states.append(sess.run(variables(p)['discriminator/conv2d_3/kernel/Adam']))
    np.testing.assert_allclose(states[1], states[0], rtol=1e-5, atol=1e-9)


def test_learning_rates_are_each_networks_own():
    p = graph.build(lr=0.001, lr_d=0.01, **SMALL)
    by_name = variables(p)
    sess, feed = started(p)
    with sess:
        for optimizer, name, lr in ((p.optimizer_d, 'discriminator/conv2d/kernel', 0.01),
                                    (p.optimizer_g, 'generator/g/kernel', 0.001)):
            before = sess.run(by_name[name])
            sess.run(optimizer, feed)
            # Adam's first step has nearly the length of the learning rate.
            assert np.median(np.abs(sess.run(by_name[name]) - before)) == pytest.approx(
                lr, rel=0.01)


def test_initial_kernels_are_normal_where_asked_for():
    p = graph.build(init='normal', **SMALL)
    with p.graph.as_default():
        initializer = tf.global_variables_initializer()
    by_name = variables(p)
    with tf.Session(graph=p.graph) as sess:
        sess.run(initializer)
        for name in ('generator/dense/kernel', 'discriminator/conv2d_3/kernel'):
            assert sess.run(by_name[name]).std() == pytest.approx(0.02, rel=0.05)
        assert not sess.run(by_name['generator/dense/bias']).any()


@pytest.mark.parametrize('g_steps', [1, 2])
@pytest.mark.parametrize('option', [
    {'smooth': 0.1}, {'r1': 1.0}, {'instance_noise': 0.3}, {'average': 0.9},
    {'spectral_norm': True}, {'diffaugment': ['color', 'translation', 'cutout']},
    {'label_count': 3}, {'label_count': 3, 'condition': 'maps'}, WGAN, WGAN_GP])
def test_a_fused_step_is_the_separate_runs_with(option, g_steps):
    states = []
    for fused in (False, True):
        p = graph.build(fused_g_steps=g_steps if fused else 0, **option, **SMALL)
        by_name = variables(p)
        sess, feed = started(p, step=3)
        with sess:
            for op in [p.optimizer_g] if fused else [p.optimizer_d] + [p.optimizer_g] * g_steps:
                sess.run(op, feed)
            states.append(dict(zip(by_name, sess.run(list(by_name.values())))))
    separate, fused = states
    for name, value in separate.items():
        if 'moving' not in name and not recording.NOISE.match(name):
            # Adam's slots are gradients; its first step divides them by their own size, which
            # leaves a gradient near 0 with fewer digits.
            share = 4e-5 if 'Adam' in name else 1e-4
            assert np.abs(fused[name] - value).max() <= share * np.abs(value).max(), name
