"""What goes beyond the original's graph: averaged weights, penalties, noise, other optimizers."""
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import formula
import losses
import models
import ops
import recording
from dcgan import session, variants
from dcgan.checkpoint import EMA_SUFFIX
from dcgan.settings import BY_NAME, LOSSES
from dcgan.worker import SINGLE
from graphs import SMALL, build, recalibrated, started, values, variables

WGAN, WGAN_GP = ({key: value for key, value in dict(LOSSES[loss], loss=loss).items()
                  if key != 'd_steps'} for loss in ('wgan', 'wgan-gp'))


@pytest.fixture
def towers(monkeypatch):
    """[(images, logits)] of the discriminators that are built while a test runs, in their order."""
    built, discriminator = [], models.discriminator

    def noted(images, *args, **options):
        outputs = discriminator(images, *args, **options)
        built.append((images, outputs[1]))
        return outputs
    monkeypatch.setattr(models, 'discriminator', noted)
    return built


def softplus(x):
    return tf.reduce_mean(tf.nn.softplus(x))


def squared_slopes(logits, images):
    return tf.reduce_sum(tf.gradients(logits, images)[0] ** 2, [1, 2, 3])


@pytest.mark.parametrize('options', [
    {}, {'smooth': 0.1}, {'r1': 10.0}, {'loss_scale': 1024, 'beta1': 0.9, 'beta2': 0.9},
    {'loss': 'wgan'}, WGAN_GP], ids=['gan', 'smooth', 'r1', 'scaled', 'wgan', 'wgan-gp'])
def test_each_run_descends_the_objective_of_its_network(towers, options):
    p = build(**options, **SMALL)
    (_, real), (_, fake), *mixed = towers
    with p.graph.as_default():
        if 'loss' in options:
            loss_d, loss_g = tf.reduce_mean(fake) - tf.reduce_mean(real), -tf.reduce_mean(fake)
        else:
            smooth = options.get('smooth', 0)
            loss_d = (1 - smooth) * softplus(-real) + smooth * softplus(real) + softplus(fake)
            loss_g = softplus(-fake)
        objective_d = loss_d
        if 'r1' in options:
            objective_d += 10 / 2 * tf.reduce_mean(squared_slopes(real, p.X))
        for images, logits in mixed:
            objective_d += 10 * tf.reduce_mean((squared_slopes(logits, images) ** 0.5 - 1) ** 2)
        objectives = (p.optimizer_d, objective_d, p.vars_d), (p.optimizer_g, loss_g, p.vars_g)
        gradients = [tf.gradients(objective, trained) for _, objective, trained in objectives]
    assert len(mixed) == ('gradient_penalty' in options)
    beta1, beta2 = options.get('beta1', 0.5), options.get('beta2', 0.999)
    for (run, _, trained), of_trained in zip(objectives, gradients):
        sess, feed = started(p)
        with sess:
            mine, theirs, of_trained = sess.run(
                [[p.loss_d, p.loss_g], [loss_d, loss_g], of_trained], feed)
            before = values(p, sess)
            sess.run(run, feed)
            after = values(p, sess)
        assert mine == pytest.approx(theirs, rel=1e-5)
        for v, gradient in zip(trained, of_trained):
            name, largest = v.op.name, np.abs(gradient).max()
            if recording.NOISE.match(name) and options.get('norm_d') != 'none':
                continue
            np.testing.assert_allclose(after[name + '/Adam'], (1 - beta1) * gradient, rtol=1e-3,
                                       atol=1e-5 * largest, err_msg=name)
            np.testing.assert_allclose(after[name + '/Adam_1'], (1 - beta2) * gradient ** 2,
                                       rtol=1e-2, atol=1e-8 * largest ** 2, err_msg=name)
            downhill = (before[name] - after[name]) * np.sign(gradient)
            assert (downhill[np.abs(gradient) > 1e-3 * largest] > 0).all(), name
        others = {v.op.name for v in p.vars_d + p.vars_g} - {v.op.name for v in trained}
        assert all((after[name] == before[name]).all() for name in others)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
@pytest.mark.parametrize('d_steps', [1, 5])
def test_the_average_is_kept_beside_the_99(fused_g_steps, d_steps):
    plain = build(**SMALL)
    p = build(average=0.5, fused_g_steps=fused_g_steps, d_steps=d_steps, **SMALL)
    by_name = variables(p)
    added = sorted(set(by_name) - set(variables(plain)))
    of_g = [name for name in variables(plain) if name.startswith('generator/')
            and 'Adam' not in name]
    assert added == sorted(name + EMA_SUFFIX for name in of_g)
    name = 'generator/g/kernel'
    sess, feed = started(p)
    with sess:
        expected = sess.run(by_name[name])
        for step in range(8):
            feed[p.step] = d_steps * step + d_steps - 1
            sess.run(p.optimizer_g, feed)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * sess.run(by_name[name])
        average, weights = sess.run([by_name[name + EMA_SUFFIX], by_name[name]])
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(average - weights).max() > 1e-5


def test_recalibrated_statistics_are_the_plain_mean_over_the_batches():
    p = build(average=0.9, **SMALL)
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
    p = build(average=0.9, **SMALL)
    by_name = variables(p)
    sess, feed = started(p)
    with sess:
        for _ in range(3):
            sess.run(p.optimizer_g, feed)
        # Where both weights are the same, so must the statistics be of which one batch is seen.
        for name, variable in by_name.items():
            average = by_name.get(name + EMA_SUFFIX)
            if average is not None:
                average.load(sess.run(variable) if 'moving' not in name else
                             np.zeros(variable.shape), sess)
        before = sess.run(list(by_name.values()))
        recalibrated(p, sess, [feed[p.noise]])
        after = sess.run(list(by_name.values()))
        changed = {name for name, a, b in zip(by_name, before, after) if (a != b).any()}
        assert changed == {name for name in by_name
                           if 'moving' in name and name.endswith(EMA_SUFFIX)}
        in_training = sess.run(p.g, feed)
        samples = sess.run(p.samples, {p.noise: feed[p.noise]})
        with_its_own = sess.run(p.g, {p.noise: feed[p.noise], p.is_training: False})
    # But for Bessel's correction, of which the first layer's 8 x 2 x 2 values make 1.6 %.
    assert np.abs(samples - in_training).max() < 0.05
    assert np.abs(with_its_own - in_training).max() > 0.2


@pytest.mark.parametrize('options', [{'average': 0.9}, {'fused_g_steps': 1}],
                         ids=['average', 'fused'])
def test_samples_do_not_depend_on_each_other(options):
    p = build(**options, **SMALL)
    sess, feed = started(p)
    with sess:
        together = sess.run(p.samples, {p.noise: feed[p.noise], p.is_training: False})
        first = sess.run(p.samples, {p.noise: feed[p.noise][:1], p.is_training: False})
    np.testing.assert_allclose(first, together[:1], atol=1e-5)


@pytest.mark.parametrize('options', [{'spectral_norm': True}, dict(WGAN_GP, spectral_norm=True)],
                         ids=['gan', 'wgan-gp'])
def test_all_towers_are_one_network(towers, options):
    p = build(**options, **SMALL)
    sess, feed = started(p)
    feed[p.is_training] = False
    with sess:
        feed[p.X] = sess.run(p.g, feed)
        of_real, *others = sess.run([logits for _, logits in towers], feed)
    for logits in others:
        np.testing.assert_allclose(logits, of_real, rtol=1e-5, atol=1e-6)


def test_spectral_norm_is_estimated_anew_in_ds_runs_alone():
    p = build(spectral_norm=True, **SMALL)
    sess, feed = started(p)
    with sess:
        before = values(p, sess)
        sess.run(p.optimizer_g, feed)
        after_g = values(p, sess)
        sess.run(p.optimizer_d, feed)
        after_d = values(p, sess)
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
        p = build(r1=r1, conv_precision='float32', **SMALL)
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
    p = build(instance_noise=0.5, **SMALL)
    with p.graph.as_default():
        zeros = tf.zeros([8, 32, 32, 3])
        noises = [variants.instance_noise(zeros, 0.5, p.step,
                                          variants.random_seed(3, p.step, stream, SINGLE))
                  for stream in (0, 1)]
    sess, feed = started(p)
    with sess:
        real, fake = sess.run(noises, {p.step: 0})
        assert real.std() == pytest.approx(0.5, rel=0.02) and abs(real.mean()) < 0.02
        assert (sess.run(noises[0], {p.step: 0}) == real).all()
        assert abs((real * fake).mean()) < 0.01
        later = sess.run(noises[0], {p.step: variants.HALVE_NOISE_EVERY})
        assert later.std() == pytest.approx(0.25, rel=0.02)
        assert abs((real * later).mean()) < 0.01
        logits = [sess.run(p.d_real_logits, {**feed, p.step: step}) for step in (0, 0, 1)]
    assert (logits[0] == logits[1]).all() and (logits[0] != logits[2]).any()


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_instance_noise_is_on_all_that_d_sees(towers, fused_g_steps):
    p = build(instance_noise=0.4, d_steps=5, fused_g_steps=fused_g_steps, **SMALL)
    d_inputs = [images for images, _ in towers]
    assert len(d_inputs) == 2 + fused_g_steps
    sess, feed = started(p, step=5 * 1000 + 4)
    with sess:
        real, fake, *of_g = sess.run([p.X, p.g] + d_inputs[2:], feed)
        d_real, d_fake = sess.run(d_inputs[:2], feed)
    noises = [d_real - real, d_fake - fake]
    for noise in noises:
        assert noise.std() == pytest.approx(0.2, rel=0.02)
        assert abs((noise[0] * noise[1]).mean()) < 0.1 * 0.2 ** 2
    assert abs((noises[0] * noises[1]).mean()) < 0.05 * 0.2 ** 2
    # G's run is shown the very images that D's was.
    assert all((images == d_fake).all() for images in of_g)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_diffaugment_is_on_all_that_d_sees(towers, fused_g_steps):
    p = build(diffaugment=['color', 'cutout'], fused_g_steps=fused_g_steps, **SMALL)
    d_inputs = [images for images, _ in towers]
    assert len(d_inputs) == 2 + fused_g_steps
    sess, feed = started(p)
    with sess:
        real, fake, *of_g = sess.run(d_inputs, feed)
    holes = [(images == 0).all(axis=3) for images in (real, fake)]
    for hole in holes:
        shares = hole.mean(axis=(1, 2))
        assert shares.min() >= 1 / 16 and shares.max() <= 1 / 4
    assert (holes[0] != holes[1]).any()
    # G's run is shown the very images that D's was.
    assert all((images == fake).all() for images in of_g)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_gradients_go_through_diffaugment(fused_g_steps):
    p = build(diffaugment=['cutout'], fused_g_steps=fused_g_steps, **SMALL)
    with p.graph.as_default():
        slopes = [tf.gradients(loss, images)[0] for loss, images in (
            (p.loss_d, p.X), (p.loss_d, p.g), (p.loss_g, p.g))]
    sess, feed = started(p)
    with sess:
        holes = [(slope == 0).all(axis=3) for slope in sess.run(slopes, feed)]
    for hole in holes:      # where nothing of the image is seen
        shares = hole.mean(axis=(1, 2))
        assert shares.min() >= 1 / 16 and shares.max() <= 1 / 4
    assert (holes[1] == holes[2]).all() and (holes[0] != holes[1]).any()


def test_random_numbers_are_each_drawn_once(monkeypatch):
    seeds, random_seed = [], variants.random_seed
    monkeypatch.setattr(variants, 'random_seed', lambda *args: seeds.append(
        random_seed(*args)) or seeds[-1])
    drawn = []
    for task in range(2):
        p = build(diffaugment=['cutout'], instance_noise=0.1, seed=7,
                        worker=one_of_two(task), **WGAN_GP, **SMALL)
        with tf.Session(graph=p.graph) as sess:
            drawn += [tuple(seed) for step in range(4)
                      for seed in sess.run(seeds, {p.step: step})]
        seeds.clear()
    assert len(drawn) == len(set(drawn)) == 2 * 4 * 5
    assert {seed for seed, _ in drawn} == {7}


def one_of_two(task, mean=list, mean_with_gradient=None):
    """Stands for a cluster.Cluster, of which graph.build takes no more than this."""
    return types.SimpleNamespace(task=task, size=2, device=None, all_reduce_mean=mean,
                                 all_reduce_mean_with_gradient=mean_with_gradient)


def test_workers_average_all_that_they_share():
    plain = build(spectral_norm=True, **SMALL)
    # Where a mean of twice the value stands in, all that is averaged is seen.
    p = build(spectral_norm=True, worker=one_of_two(0, lambda xs: [2 * x for x in xs]),
                    **SMALL)
    found = []
    for q in plain, p:
        for run in 'optimizer_d', 'optimizer_g':
            sess, feed = started(q)
            with sess:
                told = sess.run([q.loss_d, q.loss_g, q.d_real, q.d_fake], feed)
                sess.run(getattr(q, run), feed)
                found.append((told, values(q, sess)))
                if q is p:
                    assert [sess.run(p.votes, {p.stop: stop}) for stop in (False, True)] == [
                        [0], [2]]
    for (told, alone), (told_by_all, shared) in zip(found[:2], found[2:]):
        assert told_by_all == pytest.approx([2 * np.mean(x) for x in told], rel=1e-5)
        for name, value in alone.items():
            factor = {'Adam': 2, 'Adam_1': 4, 'moving_mean': 2, 'moving_variance': 2, 'u': 2}.get(
                name.rpartition('/')[2])
            if factor and not recording.NOISE.match(name):
                np.testing.assert_allclose(shared[name], factor * value, rtol=1e-3,
                                           atol=1e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize('sync_batch_norm', [False, True])
def test_batch_statistics_are_shared_where_asked_for(sync_batch_norm):
    shared = []
    p = build(average=0.9, sync_batch_norm=sync_batch_norm, worker=one_of_two(
        0, mean_with_gradient=lambda x: shared.append(x) or x), **SMALL)
    # Mean and variance of four layers of G, of three of D for real and for fake.
    assert len(shared) == (2 * (4 + 2 * 3) if sync_batch_norm else 0)
    if sync_batch_norm:
        sess, feed = started(p)
        with sess:
            sess.run(p.optimizer_g, {**feed, p.stop: False})


def test_initial_values_are_a_function_of_the_seed():
    kernels = []
    for seed in (3, 3, 4):
        p = build(seed=seed, **SMALL)
        with p.graph.as_default(), tf.Session(graph=p.graph) as sess:
            sess.run(tf.global_variables_initializer())
            kernels.append(sess.run([p.vars_d[0], p.vars_g[0]]))
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


def test_the_penalty_is_on_what_d_is_shown(monkeypatch):
    found = []
    monkeypatch.setattr(losses, 'gradient_penalty',
                        lambda d, mixed: found.append(mixed) or tf.reduce_mean(d))
    monkeypatch.setattr(variants, 'instance_noise', lambda images, *_: 0 * images + 7)
    p = build(loss='wgan-gp', gradient_penalty=1.0, norm_d='none', instance_noise=0.1,
                    **SMALL)
    sess, feed = started(p)
    with sess:
        np.testing.assert_allclose(sess.run(found[0], {**feed, p.step: 0}), 7, rtol=1e-6)


def test_the_penalty_is_on_lines_between_real_and_fake(towers):
    p = build(instance_noise=0.1, **WGAN_GP, **SMALL)
    sess, feed = started(p)
    with sess:
        real, fake, mixed = sess.run([images for images, _ in towers], feed)
    shares = ((mixed - fake) * (real - fake)).sum((1, 2, 3)) / ((real - fake) ** 2).sum((1, 2, 3))
    shares = shares[:, None, None, None]
    assert ((shares > 0) & (shares < 1)).all() and np.ptp(shares) > 0.1
    np.testing.assert_allclose(mixed, fake + shares * (real - fake), atol=1e-4)


@pytest.mark.skipif(not session.has_onednn(), reason='no bfloat16 without oneDNN')
def test_the_penalty_is_computed_in_float32():
    p = build(loss='wgan-gp', gradient_penalty=10.0, norm_d='none', **SMALL)
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
        mixed = variants.interpolate(images, drawings, variants.random_seed(0, step, 4, SINGLE))
        first, again, later = (sess.run(mixed, {step: number}) for number in (1, 1, 2))
    share = (first[:, 0, 0, 0] + 1) / 2
    assert (first == first[:, :1, :1, :1]).all()        # one point of a line
    assert np.histogram(share, 5, (0, 1))[0].min() > 70
    assert (first == again).all() and (first != later).any()


def test_the_penalty_has_a_gradient_where_there_is_no_slope():
    with tf.Graph().as_default(), tf.Session() as sess:
        images, scale = tf.ones([2, 4, 4, 3]), tf.constant(0.0)
        penalty = losses.gradient_penalty(scale * tf.reduce_sum(images, [1, 2, 3]), images)
        assert np.isfinite(sess.run(tf.gradients(penalty, scale)[0]))


def test_the_penalty_pulls_slopes_to_1():
    slopes = []
    for penalty in (0.0, 10.0):
        p = build(**dict(WGAN_GP, lr=0.001, gradient_penalty=penalty), **SMALL)
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
def test_weights_are_clipped_after_their_update(fused_g_steps):
    updated = []
    for clip in (0.0, 0.01):
        p = build(**dict(WGAN, fused_g_steps=fused_g_steps, lr=0.001, clip=clip), **SMALL)
        sess, feed = started(p)
        with sess:
            sess.run(p.optimizer_g if fused_g_steps else p.optimizer_d, feed)
            updated.append(sess.run(p.vars_d))
    for free, clipped in zip(*updated):
        np.testing.assert_allclose(clipped, np.clip(free, -0.01, 0.01), rtol=1e-5)


@pytest.mark.parametrize('fused_g_steps', [0, 1])
def test_clipped_weights_stay_within_the_limit(fused_g_steps):
    p = build(fused_g_steps=fused_g_steps, **WGAN, **SMALL)
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
        p = build(**dict(WGAN, lr=0.001, **norm), **SMALL)
        sess, feed = started(p)
        with sess:
            for _ in range(30):
                sess.run(p.optimizer_d, feed)
            largest.append(np.abs(sess.run([p.d_real, p.d_fake], feed)).max())
    assert largest[0] < 0.025 * largest[1]


def test_the_critic_of_the_penalty_has_no_batch_norm():
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
    p = build(label_count=3, condition=condition, **SMALL)
    by_name, plain = variables(p), variables(build(**SMALL))
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
        p = build(loss_scale=loss_scale, **SMALL)
        sess, feed = started(p)
        with sess:
            sess.run(p.optimizer_d, feed)
            states.append(sess.run(variables(p)['discriminator/conv2d_3/kernel/Adam']))
    np.testing.assert_allclose(states[1], states[0], rtol=1e-5, atol=1e-9)


def test_learning_rates_are_each_networks_own():
    p = build(lr=0.001, lr_d=0.01, **SMALL)
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
    p = build(init='normal', **SMALL)
    with p.graph.as_default():
        initializer = tf.global_variables_initializer()
    by_name = variables(p)
    with tf.Session(graph=p.graph) as sess:
        sess.run(initializer)
        for name in ('generator/dense/kernel', 'discriminator/conv2d_3/kernel'):
            assert sess.run(by_name[name]).std() == pytest.approx(0.02, rel=0.05)
        assert not sess.run(by_name['generator/dense/bias']).any()


@pytest.mark.parametrize('g_steps', [1, 2])
def test_a_fused_step_moves_an_average_once_for_each_forward_pass(g_steps):
    # Without a learning rate and with real images that are G's own, one batch is seen throughout.
    p = build(lr=0, fused_g_steps=g_steps, **SMALL)
    sess, feed = started(p)
    with sess:
        feed[p.X] = sess.run(p.g, feed)
        before = values(p, sess)
        states = []
        for _ in range(200):
            sess.run(p.optimizer_g, feed)
            states.append(values(p, sess))
    for name, last in states[-1].items():
        if 'moving' in name:
            # D: real and fake in its update, fake in each of G's.
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
def test_a_fused_step_is_the_separate_runs_with(option, g_steps):
    states = []
    for fused in (False, True):
        p = build(fused_g_steps=g_steps if fused else 0, **option, **SMALL)
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


@pytest.mark.parametrize('norm_d, low, high', [('batch', 0, 0.005), ('none', 0.3, np.inf)])
def test_batch_norm_undoes_what_spectral_norm_does_to_a_kernel(norm_d, low, high):
    """So --spectral-norm, which divides kernels, bounds all layers with --norm-d none only.

    Seen: 0.0039, which batch norm's epsilon makes, and 0.37.
    """
    p = build(norm_d=norm_d, **SMALL)
    sess, feed = started(p)
    kernel = variables(p)['discriminator/conv2d_1/kernel']
    with sess:
        before = sess.run(p.d_real_logits, feed)
        kernel.load(sess.run(kernel) / 3, sess)
        change = np.abs(sess.run(p.d_real_logits, feed) - before).max() / np.abs(before).max()
    assert low <= change < high, change
    assert 'batch norm undoes it' in BY_NAME['spectral_norm'].help
