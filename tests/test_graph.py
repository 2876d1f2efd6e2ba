"""Variants of the original graph: EMA, penalties, noise, fused steps, workers, optimizers."""
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import formula
import losses
import models
import ops
import recording
from conftest import has_bfloat16
from dcgan import session, variants
from dcgan.checkpoint import EMA_SUFFIX
from dcgan.settings import BY_NAME, LOSSES
from dcgan.worker import SINGLE
from graphs import SMALL, build, recalibrated, started, values, variables

WGAN, WGAN_GP = ({key: value for key, value in dict(LOSSES[loss], loss=loss).items()
                  if key != 'd_steps'} for loss in ('wgan', 'wgan-gp'))


@pytest.fixture
def towers(monkeypatch):
    """[(images, logits)] of the discriminators that a test builds, in order."""
    built, discriminator = [], models.discriminator

    def noted(images, *args, **options):
        outputs = discriminator(images, *args, **options)
        built.append((images, outputs[1]))
        return outputs
    monkeypatch.setattr(models, 'discriminator', noted)
    return built


def softplus(x):
    """The mean of log(1 + exp(x))."""
    return tf.reduce_mean(tf.nn.softplus(x))


def squared_slopes(logits, images):
    """The squared norms of the logits' gradients, [n]."""
    return tf.reduce_sum(tf.gradients(logits, images)[0] ** 2, [1, 2, 3])


@pytest.mark.parametrize('options', [
    {}, {'smooth': 0.1}, {'r1': 10.0}, {'loss_scale': 1024, 'beta1': 0.9, 'beta2': 0.9},
    {'loss': 'wgan'}, WGAN_GP], ids=['gan', 'smooth', 'r1', 'scaled', 'wgan', 'wgan-gp'])
def test_each_optimizer_descends_its_objective(towers, options):
    model = build(**options, **SMALL)
    (_, real), (_, fake), *mixed = towers
    with model.graph.as_default():
        if 'loss' in options:
            loss_d, loss_g = tf.reduce_mean(fake) - tf.reduce_mean(real), -tf.reduce_mean(fake)
        else:
            smooth = options.get('smooth', 0)
            loss_d = (1 - smooth) * softplus(-real) + smooth * softplus(real) + softplus(fake)
            loss_g = softplus(-fake)
        objective_d = loss_d
        if 'r1' in options:
            objective_d += 10 / 2 * tf.reduce_mean(squared_slopes(real, model.X))
        for images, logits in mixed:
            objective_d += 10 * tf.reduce_mean((squared_slopes(logits, images) ** 0.5 - 1) ** 2)
        objectives = ((model.optimizer_d, objective_d, model.vars_d),
                      (model.optimizer_g, loss_g, model.vars_g))
        gradients = [tf.gradients(objective, trained) for _, objective, trained in objectives]
    assert len(mixed) == ('gradient_penalty' in options)
    beta1, beta2 = options.get('beta1', 0.5), options.get('beta2', 0.999)
    for (optimizer, _, trained), expected in zip(objectives, gradients):
        sess, feed = started(model)
        with sess:
            reported, computed, expected = sess.run(
                [[model.loss_d, model.loss_g], [loss_d, loss_g], expected], feed)
            before = values(model, sess)
            sess.run(optimizer, feed)
            after = values(model, sess)
        assert reported == pytest.approx(computed, rel=1e-5)
        for v, gradient in zip(trained, expected):
            name, largest = v.op.name, np.abs(gradient).max()
            if recording.NOISE.match(name) and options.get('norm_d') != 'none':
                continue
            np.testing.assert_allclose(after[name + '/Adam'], (1 - beta1) * gradient, rtol=1e-3,
                                       atol=1e-5 * largest, err_msg=name)
            np.testing.assert_allclose(after[name + '/Adam_1'], (1 - beta2) * gradient ** 2,
                                       rtol=1e-2, atol=1e-8 * largest ** 2, err_msg=name)
            downhill = (before[name] - after[name]) * np.sign(gradient)
            assert (downhill[np.abs(gradient) > 1e-3 * largest] > 0).all(), name
        others = {v.op.name for v in model.vars_d + model.vars_g} - {v.op.name for v in trained}
        assert all((after[name] == before[name]).all() for name in others)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
@pytest.mark.parametrize('d_steps', [1, 5])
def test_ema_weights_are_kept_beside_the_99_variables(fused_g_steps, d_steps):
    plain = build(**SMALL)
    model = build(average=0.3, fused_g_steps=fused_g_steps, d_steps=d_steps, **SMALL)
    by_name = variables(model)
    added = sorted(set(by_name) - set(variables(plain)))
    g_names = [name for name in variables(plain) if name.startswith('generator/')
               and 'Adam' not in name]
    assert added == sorted(name + EMA_SUFFIX for name in g_names)
    name = 'generator/g/kernel'
    sess, feed = started(model)
    with sess:
        expected = sess.run(by_name[name])
        for step in range(8):
            feed[model.step] = d_steps * step + d_steps - 1
            sess.run(model.optimizer_g, feed)
            decay = min(0.3, (1 + step) / (10 + step))      # 0.3 from step 3 on
            expected = decay * expected + (1 - decay) * sess.run(by_name[name])
        ema, weights = sess.run([by_name[name + EMA_SUFFIX], by_name[name]])
    np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(ema - weights).max() > 1e-5


def test_recalibrated_statistics_are_the_mean_over_the_batches():
    model = build(average=0.9, **SMALL)
    by_name = variables(model)
    sess, feed = started(model)
    batches = [formula.noises(seed) for seed in range(3)]
    with sess:
        for _ in range(3):
            sess.run(model.optimizer_g, feed)
        statistics_of_each = [recalibrated(model, sess, [batch]) for batch in batches]
        statistics = recalibrated(model, sess, batches)
        # Moving averages and earlier statistics have no effect.
        for name, v in by_name.items():
            if 'moving' in name:
                v.load(np.full(v.shape, 1e6), sess)
        again = recalibrated(model, sess, batches)
    assert len(statistics) == 8
    for name, value in statistics.items():
        mean = np.mean([of_batch[name] for of_batch in statistics_of_each], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6, err_msg=name)
        assert (again[name] == value).all(), name


def test_recalibration_gives_ema_weights_their_own_statistics():
    model = build(average=0.9, **SMALL)
    by_name = variables(model)
    sess, feed = started(model)
    with sess:
        for _ in range(3):
            sess.run(model.optimizer_g, feed)
        # With equal weights, the statistics of one batch must be those of its forward pass.
        for name, variable in by_name.items():
            ema = by_name.get(name + EMA_SUFFIX)
            if ema is not None:
                ema.load(sess.run(variable) if 'moving' not in name else
                         np.zeros(variable.shape), sess)
        before = sess.run(list(by_name.values()))
        recalibrated(model, sess, [feed[model.noise]])
        after = sess.run(list(by_name.values()))
        changed = {name for name, a, b in zip(by_name, before, after) if (a != b).any()}
        assert changed == {name for name in by_name
                           if 'moving' in name and name.endswith(EMA_SUFFIX)}
        in_training = sess.run(model.g, feed)
        samples = sess.run(model.samples, {model.noise: feed[model.noise]})
        with_moving = sess.run(model.g, {model.noise: feed[model.noise], model.is_training: False})
    # Bessel's correction makes a difference: 1.6 % for the 8 x 2 x 2 values of the first layer.
    assert np.abs(samples - in_training).max() < 0.05
    assert np.abs(with_moving - in_training).max() > 0.2


@pytest.mark.parametrize('options', [{'average': 0.9}, {'fused_g_steps': 1}],
                         ids=['average', 'fused'])
def test_samples_do_not_depend_on_each_other(options):
    model = build(**options, **SMALL)
    sess, feed = started(model)
    with sess:
        together, first = (
            sess.run(model.samples, {model.noise: noise, model.is_training: False})
            for noise in (feed[model.noise], feed[model.noise][:1]))
    np.testing.assert_allclose(first, together[:1], atol=1e-5)


@pytest.mark.parametrize('options', [{'spectral_norm': True}, dict(WGAN_GP, spectral_norm=True)],
                         ids=['gan', 'wgan-gp'])
def test_all_towers_of_d_share_their_weights(towers, options):
    model = build(**options, **SMALL)
    sess, feed = started(model)
    feed[model.is_training] = False
    with sess:
        feed[model.X] = sess.run(model.g, feed)
        real_logits, *others = sess.run([logits for _, logits in towers], feed)
    for logits in others:
        np.testing.assert_allclose(logits, real_logits, rtol=1e-5, atol=1e-6)


def test_only_updates_of_d_run_the_power_iteration():
    model = build(spectral_norm=True, **SMALL)
    sess, feed = started(model)
    with sess:
        before = values(model, sess)
        sess.run(model.optimizer_g, feed)
        after_g = values(model, sess)
        sess.run(model.optimizer_d, feed)
        after_d = values(model, sess)
    vectors = [name for name in before if name.endswith('/u')]
    assert len(vectors) == 5
    for name in vectors:
        assert (after_g[name] == before[name]).all(), name
        matrix = before[name[:-1] + 'kernel'].reshape(-1, before[name].size)
        expected = before[name] @ matrix.T @ matrix
        np.testing.assert_allclose(after_d[name], expected / np.linalg.norm(expected), atol=1e-5)


def test_spectral_norm_makes_the_largest_singular_value_1():
    with tf.Graph().as_default(), tf.Session() as sess:
        getter = variants.spectral_norm()
        with tf.variable_scope('d', custom_getter=getter):
            kernel = tf.get_variable('kernel', [3, 3, 4, 6], use_resource=True)
            bias = tf.get_variable('bias', [6], use_resource=True)
        with tf.variable_scope('d', custom_getter=getter, reuse=True):
            again = tf.get_variable('kernel')
        assert bias.op.type == 'VarHandleOp'
        updates = tf.get_collection(variants.SPECTRAL_UPDATES)
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
        model = build(r1=r1, conv_precision='float32', **SMALL)
        sess, feed = started(model)
        with sess:
            before = sess.run(model.loss_d, feed)
            sess.run(model.optimizer_d, feed)
            # Adam's first moment is the gradient times 1 - beta1.
            kernels.append(sess.run(variables(model)['discriminator/conv2d/kernel/Adam']))
        assert before < 10      # loss_d does not include the penalty
    assert np.abs(kernels[1]).max() > 3 * np.abs(kernels[0]).max()


def test_smoothing_is_one_sided():
    with tf.Graph().as_default(), tf.Session() as sess:
        real, fake = tf.constant([[0.5], [2.0]]), tf.constant([[-1.0], [0.3]])
        loss = sess.run(losses.loss_d(real, fake, 0.1))
    real, fake = np.array([0.5, 2]), np.array([-1, 0.3])
    expected = (0.9 * np.log1p(np.exp(-real)) + 0.1 * np.log1p(np.exp(real))).mean()
    assert loss == pytest.approx(expected + np.log1p(np.exp(fake)).mean(), rel=1e-6)


def test_instance_noise_is_a_function_of_the_step():
    model = build(instance_noise=0.5, **SMALL)
    with model.graph.as_default():
        zeros = tf.zeros([8, 32, 32, 3])
        noises = [variants.instance_noise(zeros, 0.5, model.step,
                                          variants.random_seed(3, model.step, stream, SINGLE))
                  for stream in (0, 1)]
    sess, feed = started(model)
    with sess:
        real, fake = sess.run(noises, {model.step: 0})
        assert real.std() == pytest.approx(0.5, rel=0.02) and abs(real.mean()) < 0.02
        assert (sess.run(noises[0], {model.step: 0}) == real).all()
        assert abs((real * fake).mean()) < 0.01
        later = sess.run(noises[0], {model.step: variants.HALVE_NOISE_EVERY})
        assert later.std() == pytest.approx(0.25, rel=0.02)
        assert abs((real * later).mean()) < 0.01
        logits = [sess.run(model.d_real_logits, {**feed, model.step: step}) for step in (0, 0, 1)]
    assert (logits[0] == logits[1]).all() and (logits[0] != logits[2]).any()


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_instance_noise_is_added_to_every_input_of_d(towers, fused_g_steps):
    model = build(instance_noise=0.4, d_steps=5, fused_g_steps=fused_g_steps, **SMALL)
    d_inputs = [images for images, _ in towers]
    assert len(d_inputs) == 2 + fused_g_steps
    sess, feed = started(model, step=5 * 1000 + 4)
    with sess:
        real, fake, *g_step_inputs = sess.run([model.X, model.g] + d_inputs[2:], feed)
        d_real, d_fake = sess.run(d_inputs[:2], feed)
    noises = [d_real - real, d_fake - fake]
    for noise in noises:
        assert noise.std() == pytest.approx(0.2, rel=0.02)
        assert abs((noise[0] * noise[1]).mean()) < 0.1 * 0.2 ** 2
    assert abs((noises[0] * noises[1]).mean()) < 0.05 * 0.2 ** 2
    # The update of G gets the same images as the update of D.
    assert all((images == d_fake).all() for images in g_step_inputs)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_diffaugment_changes_every_input_of_d(towers, fused_g_steps):
    model = build(diffaugment=['color', 'cutout'], fused_g_steps=fused_g_steps, **SMALL)
    d_inputs = [images for images, _ in towers]
    assert len(d_inputs) == 2 + fused_g_steps
    sess, feed = started(model)
    with sess:
        real, fake, *g_step_inputs = sess.run(d_inputs, feed)
    holes = [(images == 0).all(axis=3) for images in (real, fake)]
    for hole in holes:
        shares = hole.mean(axis=(1, 2))
        assert shares.min() >= 1 / 16 and shares.max() <= 1 / 4
    assert (holes[0] != holes[1]).any()
    # The update of G gets the same images as the update of D.
    assert all((images == fake).all() for images in g_step_inputs)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_gradients_go_through_diffaugment(fused_g_steps):
    model = build(diffaugment=['cutout'], fused_g_steps=fused_g_steps, **SMALL)
    with model.graph.as_default():
        slopes = [tf.gradients(loss, images)[0] for loss, images in (
            (model.loss_d, model.X), (model.loss_d, model.g), (model.loss_g, model.g))]
    sess, feed = started(model)
    with sess:
        holes = [(slope == 0).all(axis=3) for slope in sess.run(slopes, feed)]
    for hole in holes:      # where cutout hides the image
        shares = hole.mean(axis=(1, 2))
        assert shares.min() >= 1 / 16 and shares.max() <= 1 / 4
    assert (holes[1] == holes[2]).all() and (holes[0] != holes[1]).any()


def test_every_random_seed_is_used_once(monkeypatch):
    seeds, random_seed = [], variants.random_seed
    monkeypatch.setattr(variants, 'random_seed', lambda *args: seeds.append(
        random_seed(*args)) or seeds[-1])
    drawn = []
    for task in range(2):
        model = build(diffaugment=['cutout'], instance_noise=0.1, seed=7,
                      worker=one_of_two(task), **WGAN_GP, **SMALL)
        with tf.Session(graph=model.graph) as sess:
            drawn += [tuple(seed) for step in range(4)
                      for seed in sess.run(seeds, {model.step: step})]
        seeds.clear()
    assert len(drawn) == len(set(drawn)) == 2 * 4 * 5
    assert {seed for seed, _ in drawn} == {7}


def one_of_two(task, mean=list, mean_with_gradient=None):
    """A stand-in for cluster.Cluster with the fields that graph.build uses."""
    return types.SimpleNamespace(task=task, size=2, device=None, all_reduce_mean=mean,
                                 all_reduce_mean_with_gradient=mean_with_gradient)


def test_workers_average_gradients_losses_and_statistics():
    single = build(spectral_norm=True, **SMALL)
    # The mean is replaced by twice the value: so every averaged value doubles.
    worker = build(spectral_norm=True, worker=one_of_two(0, lambda xs: [2 * x for x in xs]),
                   **SMALL)
    results = []
    for model in single, worker:
        for optimizer in 'optimizer_d', 'optimizer_g':
            sess, feed = started(model)
            with sess:
                outputs = sess.run([model.loss_d, model.loss_g, model.d_real, model.d_fake], feed)
                sess.run(getattr(model, optimizer), feed)
                results.append((outputs, values(model, sess)))
                if model is worker:
                    assert [sess.run(model.votes, {model.stop: stop})
                            for stop in (False, True)] == [[0], [2]]
    for (outputs, alone), (averaged, shared) in zip(results[:2], results[2:]):
        assert averaged == pytest.approx([2 * np.mean(x) for x in outputs], rel=1e-5)
        for name, value in alone.items():
            factor = {'Adam': 2, 'Adam_1': 4, 'moving_mean': 2, 'moving_variance': 2, 'u': 2}.get(
                name.rpartition('/')[2])
            if factor and not recording.NOISE.match(name):
                np.testing.assert_allclose(shared[name], factor * value, rtol=1e-3,
                                           atol=1e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize('sync_batch_norm', [False, True])
def test_sync_batch_norm_averages_all_batch_statistics(sync_batch_norm):
    shared = []
    model = build(average=0.9, sync_batch_norm=sync_batch_norm, worker=one_of_two(
        0, mean_with_gradient=lambda x: shared.append(x) or x), **SMALL)
    # Mean and variance in four layers of G, and in three of D for real and for fake images.
    assert len(shared) == (2 * (4 + 2 * 3) if sync_batch_norm else 0)
    if sync_batch_norm:
        sess, feed = started(model)
        with sess:
            sess.run(model.optimizer_g, {**feed, model.stop: False})


def test_initial_values_are_a_function_of_the_seed():
    kernels = []
    for seed in (3, 3, 4):
        model = build(seed=seed, **SMALL)
        with model.graph.as_default(), tf.Session(graph=model.graph) as sess:
            sess.run(tf.global_variables_initializer())
            kernels.append(sess.run([model.vars_d[0], model.vars_g[0]]))
    for one, again, other in zip(*kernels):
        assert (one == again).all() and (one != other).any()


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


def test_the_penalty_mixes_the_inputs_of_d(monkeypatch):
    points = []
    monkeypatch.setattr(losses, 'gradient_penalty',
                        lambda d, mixed: points.append(mixed) or tf.reduce_mean(d))
    monkeypatch.setattr(variants, 'instance_noise', lambda images, *_: 0 * images + 7)
    model = build(loss='wgan-gp', gradient_penalty=1.0, norm_d='none', instance_noise=0.1,
                  **SMALL)
    sess, feed = started(model)
    with sess:
        np.testing.assert_allclose(sess.run(points[0], {**feed, model.step: 0}), 7, rtol=1e-6)


def test_the_points_of_the_penalty_lie_between_real_and_fake(towers):
    model = build(instance_noise=0.1, **WGAN_GP, **SMALL)
    sess, feed = started(model)
    with sess:
        real, fake, mixed = sess.run([images for images, _ in towers], feed)
    shares = ((mixed - fake) * (real - fake)).sum((1, 2, 3)) / ((real - fake) ** 2).sum((1, 2, 3))
    shares = shares[:, None, None, None]
    assert ((shares > 0) & (shares < 1)).all() and np.ptp(shares) > 0.1
    np.testing.assert_allclose(mixed, fake + shares * (real - fake), atol=1e-4)


@pytest.mark.skipif(not has_bfloat16(), reason='no bfloat16 on this processor')
def test_the_penalty_is_computed_in_float32():
    model = build(loss='wgan-gp', gradient_penalty=10.0, norm_d='none', **SMALL)
    run_metadata = tf.RunMetadata()
    with session.open_session(model.graph, 'bfloat16') as sess:
        recording.start(tf, model, sess)
        sess.run(model.optimizer_d, {**recording.feed(model, 1, True, size=32), model.step: 0},
                 tf.RunOptions(output_partition_graphs=True), run_metadata)
    kinds = {node.name: node.attr['T'].type for part in run_metadata.partition_graphs
             for node in part.node}
    assert tf.bfloat16.as_datatype_enum in kinds.values()
    for name in ('Pow', 'Sum', 'Sqrt', 'sub', 'Square'):
        assert kinds[f'gradient_penalty/{name}'] == tf.float32.as_datatype_enum, name


def test_interpolation_draws_one_share_for_each_image():
    with tf.Graph().as_default(), tf.Session() as sess:
        real, fake = tf.ones([500, 2, 2, 3]), -tf.ones([500, 2, 2, 3])
        step = tf.placeholder(tf.int32, [])
        mixed = variants.interpolate(real, fake, variants.random_seed(0, step, 4, SINGLE))
        first, again, later = (sess.run(mixed, {step: number}) for number in (1, 1, 2))
    share = (first[:, 0, 0, 0] + 1) / 2
    assert (first == first[:, :1, :1, :1]).all()        # one share for all pixels
    assert np.histogram(share, 5, (0, 1))[0].min() > 70
    assert (first == again).all() and (first != later).any()


def test_the_penalty_has_a_finite_gradient_at_slope_0():
    with tf.Graph().as_default(), tf.Session() as sess:
        images, scale = tf.ones([2, 4, 4, 3]), tf.constant(0.0)
        penalty = losses.gradient_penalty(scale * tf.reduce_sum(images, [1, 2, 3]), images)
        assert np.isfinite(sess.run(tf.gradients(penalty, scale)[0]))


def test_the_penalty_pulls_slopes_to_1():
    slopes = []
    for penalty in (0.0, 10.0):
        model = build(**dict(WGAN_GP, lr=0.001, gradient_penalty=penalty), **SMALL)
        with model.graph.as_default():
            slope = tf.norm(ops.flatten(tf.gradients(model.d_real_logits, model.X)[0]), axis=1)
        sess, feed = started(model)
        with sess:
            for step in range(60):
                if model.step is not None:
                    feed[model.step] = step
                sess.run(model.optimizer_d, feed)
            slopes.append(sess.run(slope, feed).mean())
    assert slopes[0] > 100 and 0.5 < slopes[1] < 2


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_weights_are_clipped_after_their_update(fused_g_steps):
    updated = []
    for clip in (0.0, 0.01):
        model = build(**dict(WGAN, fused_g_steps=fused_g_steps, lr=0.001, clip=clip), **SMALL)
        sess, feed = started(model)
        with sess:
            sess.run(model.optimizer_g if fused_g_steps else model.optimizer_d, feed)
            updated.append(sess.run(model.vars_d))
    for free, clipped in zip(*updated):
        np.testing.assert_allclose(clipped, np.clip(free, -0.01, 0.01), rtol=1e-5)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_clipped_weights_stay_within_the_limit(fused_g_steps):
    model = build(fused_g_steps=fused_g_steps, **WGAN, **SMALL)
    sess, feed = started(model)
    with sess:
        assert max(np.abs(value).max() for value in sess.run(model.vars_d)) > 0.05
        for _ in range(3):
            sess.run(model.optimizer_g if fused_g_steps else model.optimizer_d, feed)
        limits = [np.abs(value).max() for value in sess.run(model.vars_d)]
        g_limits = [np.abs(value).max() for value in sess.run(model.vars_g)]
    assert max(limits) == np.float32(0.01)
    assert max(g_limits) > 0.05


def test_clipping_bounds_a_critic_with_scaled_batch_norm():
    # Batch norm makes activations of size 1, whatever the kernels are. A gamma, which is clipped
    # too, makes them as small as the limit, and so are the outputs of the critic.
    largest = []
    for norm in ({}, {'norm_d': 'batch'}):          # that of the loss, the original's
        model = build(**dict(WGAN, lr=0.001, **norm), **SMALL)
        sess, feed = started(model)
        with sess:
            for _ in range(30):
                sess.run(model.optimizer_d, feed)
            largest.append(np.abs(sess.run([model.d_real, model.d_fake], feed)).max())
    assert largest[0] < 0.025 * largest[1]


def test_d_of_wgan_gp_has_no_batch_norm():
    names = set(variables(build(**WGAN_GP, **SMALL)))
    plain = set(variables(build(**SMALL)))
    assert {name for name in plain - names} == {
        name for name in plain if name.startswith('discriminator/BatchNorm')}
    assert names <= plain
    assert {name.rpartition('/')[2] for name in variables(build(**WGAN, **SMALL))
            if 'discriminator/conv2d/kernel' in name} == {'kernel', 'RMSProp', 'RMSProp_1'}


@pytest.mark.parametrize('condition, added', [
    ('projection', {'discriminator/projection/dense/kernel',
                    'discriminator/projection/dense/bias'}),
    ('maps', set())])
def test_labels_reach_both_networks(condition, added):
    model = build(label_count=3, condition=condition, **SMALL)
    by_name, plain = variables(model), variables(build(**SMALL))
    assert {name for name in set(by_name) - set(plain) if 'Adam' not in name} == added
    assert by_name['generator/dense/kernel'].shape.as_list() == [103, 2 * 2 * 32]
    sess, feed = started(model)
    with sess:
        before = sess.run([model.g, model.d_real_logits], feed)
        feed[model.labels] = feed[model.labels] * [1, 1, -1]
        after = sess.run([model.g, model.d_real_logits], feed)
    for one, other in zip(before, after):
        assert np.abs(one - other).max() > 1e-3


def test_the_loss_scale_does_not_change_gradients():
    states = []
    for loss_scale in (1, 1024):
        model = build(loss_scale=loss_scale, **SMALL)
        sess, feed = started(model)
        with sess:
            sess.run(model.optimizer_d, feed)
            states.append(sess.run(variables(model)['discriminator/conv2d_3/kernel/Adam']))
    np.testing.assert_allclose(states[1], states[0], rtol=1e-5, atol=1e-9)


def test_each_network_has_its_own_learning_rate():
    model = build(lr=0.001, lr_d=0.01, **SMALL)
    by_name = variables(model)
    sess, feed = started(model)
    with sess:
        for optimizer, name, lr in ((model.optimizer_d, 'discriminator/conv2d/kernel', 0.01),
                                    (model.optimizer_g, 'generator/g/kernel', 0.001)):
            before = sess.run(by_name[name])
            sess.run(optimizer, feed)
            # Adam's first step has nearly the length of the learning rate.
            assert np.median(np.abs(sess.run(by_name[name]) - before)) == pytest.approx(
                lr, rel=0.01)


def test_init_normal_draws_normal_kernels():
    model = build(init='normal', **SMALL)
    with model.graph.as_default():
        initializer = tf.global_variables_initializer()
    by_name = variables(model)
    with tf.Session(graph=model.graph) as sess:
        sess.run(initializer)
        for name in ('generator/dense/kernel', 'discriminator/conv2d_3/kernel'):
            assert sess.run(by_name[name]).std() == pytest.approx(0.02, rel=0.05)
        assert not sess.run(by_name['generator/dense/bias']).any()


@pytest.mark.parametrize('g_steps', [1, 2])
def test_a_fused_step_updates_moving_averages_once_per_forward_pass(g_steps):
    # With learning rate 0 and G's own images as real ones, every step sees the same batch.
    model = build(lr=0, fused_g_steps=g_steps, **SMALL)
    sess, feed = started(model)
    with sess:
        feed[model.X] = sess.run(model.g, feed)
        before = values(model, sess)
        states = []
        for _ in range(200):
            sess.run(model.optimizer_g, feed)
            states.append(values(model, sess))
    for name, last in states[-1].items():
        if 'moving' in name:
            # D: real and fake in its own update, fake in each update of G.
            updates = g_steps if name.startswith('generator/') else 2 + g_steps
            expected = last + 0.9 ** updates * (before[name] - last)
            np.testing.assert_allclose(states[0][name], expected, atol=1e-5 * np.abs(last).max(),
                                       err_msg=name)


@pytest.mark.parametrize('g_steps', [1, 2])
@pytest.mark.parametrize('option', [
    {'smooth': 0.1}, {'r1': 1.0}, {'instance_noise': 0.3}, {'average': 0.9},
    {'spectral_norm': True}, {'diffaugment': ['color', 'translation', 'cutout']},
    {'label_count': 3}, {'label_count': 3, 'condition': 'maps'}, WGAN, WGAN_GP],
    ids=['smooth', 'r1', 'noise', 'average', 'spectral', 'diffaugment', 'projection', 'maps',
         'wgan', 'wgan-gp'])
def test_a_fused_step_equals_separate_runs_with(option, g_steps):
    states = []
    for fused in (False, True):
        model = build(fused_g_steps=g_steps if fused else 0, **option, **SMALL)
        by_name = variables(model)
        sess, feed = started(model, step=3)
        with sess:
            if not fused:
                sess.run(model.optimizer_d, feed)
            for _ in range(1 if fused else g_steps):
                sess.run(model.optimizer_g, feed)
            states.append(dict(zip(by_name, sess.run(list(by_name.values())))))
    separate, fused = states
    for name, value in separate.items():
        if 'moving' not in name and not recording.NOISE.match(name):
            # Adam's slots are gradients. The first step divides a gradient by its own size, so
            # weights with gradients near 0 have fewer correct digits.
            share = 4e-5 if 'Adam' in name else 1e-4
            assert np.abs(fused[name] - value).max() <= share * np.abs(value).max(), name


@pytest.mark.parametrize('norm_d, low, high', [('batch', 0, 0.005), ('none', 0.3, np.inf)])
def test_batch_norm_undoes_the_scale_of_spectral_norm(norm_d, low, high):
    """So --spectral-norm, which divides kernels, bounds all layers only with --norm-d none.

    Measured: 0.0039, which comes from batch norm's epsilon, and 0.37.
    """
    model = build(norm_d=norm_d, **SMALL)
    sess, feed = started(model)
    kernel = variables(model)['discriminator/conv2d_1/kernel']
    with sess:
        before = sess.run(model.d_real_logits, feed)
        kernel.load(sess.run(kernel) / 3, sess)
        change = np.abs(sess.run(model.d_real_logits, feed) - before).max() / np.abs(before).max()
    assert low <= change < high, change
    assert 'batch norm undoes it' in BY_NAME['spectral_norm'].help
