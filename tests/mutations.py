"""Makes deliberate mistakes in a copy of the project, one at a time; tests must notice each.

    python tests/mutations.py                  all of them, some twenty minutes on two cores
    python tests/mutations.py penalty _seed    those whose row contains one of these texts

It runs tests but is not one of them. Each row of MUTATIONS has a text that occurs once in a file,
its replacement, and tests. All of these tests must fail with the replacement, and pass without it.
Exit code 1 if a test passes with a mutation, or if a text is not found: a change of the project's
lines needs the same change here.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

OBJECTIVE = 'test_graph.py::test_each_optimizer_descends_its_objective'
FUSED = 'test_graph.py::test_a_fused_step_equals_separate_runs_with'
THROUGH = 'test_graph.py::test_gradients_go_through_diffaugment'
CUTOUT = 'test_graph.py::test_diffaugment_changes_every_input_of_d'
NOISE = 'test_graph.py::test_instance_noise_is_added_to_every_input_of_d'
EMA = 'test_graph.py::test_ema_weights_are_kept_beside_the_99_variables'
MEAN = 'test_graph.py::test_recalibrated_statistics_are_the_mean_over_the_batches'
SPECTRAL = 'test_graph.py::test_only_updates_of_d_run_the_power_iteration'
POINTS = 'test_graph.py::test_the_points_of_the_penalty_lie_between_real_and_fake'
CLIPPED = 'test_graph.py::test_weights_are_clipped_after_their_update'
FORWARD_PASSES = 'test_graph.py::test_a_fused_step_updates_moving_averages_once_per_forward_pass'
SEEDS = 'test_graph.py::test_every_random_seed_is_used_once'
WORKERS = 'test_graph.py::test_workers_average_gradients_losses_and_statistics'
SYNC = 'test_graph.py::test_sync_batch_norm_averages_all_batch_statistics'
SAMPLES = 'test_graph.py::test_samples_do_not_depend_on_each_other'
BATCHES = 'test_batches.py::test_workers_and_d_steps_split_the_images_of_a_step[3-2-4-3]'
AUGMENTED = 'test_batches.py::test_augmentation_is_a_function_of_seed_and_step'
RECALIBRATE = 'test_batches.py::test_recalibration_feeds_each_batch_once_per_new_step'
ENOUGH = 'test_batches.py::test_recalibration_uses_enough_batches'
PARITY = 'test_parity.py::test_every_recorded_key_is_within_tolerance[2]'

MUTATIONS = {
    'graph.py': [
        ('real = variants.d_input(X, variants.REAL', 'real = variants.d_input(X, variants.FAKE',
         SEEDS),
        ('            fake = variants.d_input(g, variants.FAKE, settings, step, worker)\n', '',
         CUTOUT + '[0]'),
        ('            real = variants.d_input(X, variants.REAL, settings, step, worker)\n', '',
         CUTOUT + '[0]'),
        ("tf.set_random_seed(settings['seed'])", 'tf.set_random_seed(0)',
         'test_graph.py::test_initial_values_are_a_function_of_the_seed'),
        ("tf.set_random_seed(settings['seed'])", 'pass',
         'test_graph.py::test_initial_values_are_a_function_of_the_seed'),
        # objectives
        ('loss.d(d_real_logits, d_fake_logits, **smooth)',
         'loss.d(d_fake_logits, d_real_logits, **smooth)', OBJECTIVE + '[gan]', PARITY),
        ('loss.d(d_real_logits, d_fake_logits, **smooth)', 'loss.d(d_real_logits, d_fake_logits)',
         OBJECTIVE + '[smooth]'),
        ('loss.d(d_real_logits, d_fake_logits, **smooth)',
         '-loss.d(d_real_logits, d_fake_logits, **smooth)', OBJECTIVE + '[wgan]'),
        ('loss_g = loss.g(d_fake_logits)', 'loss_g = -loss.g(d_fake_logits)', OBJECTIVE + '[gan]'),
        ('loss_g = loss.g(d_fake_logits)', 'loss_g = loss.g(d_real_logits)', OBJECTIVE + '[gan]'),
        ("objective_d += settings['r1'] *", "objective_d -= settings['r1'] *", OBJECTIVE + '[r1]'),
        ("objective_d += settings['r1'] *", 'objective_d +=', OBJECTIVE + '[r1]'),
        ('losses.r1(d_real_logits, X)', 'losses.r1(d_fake_logits, g)', OBJECTIVE + '[r1]'),
        ("objective_d += settings['gradient_penalty'] *",
         "objective_d -= settings['gradient_penalty'] *", OBJECTIVE + '[wgan-gp]'),
        ("objective_d += settings['gradient_penalty'] *", 'objective_d +=',
         OBJECTIVE + '[wgan-gp]'),
        ('variants.mix(real, fake,', 'variants.mix(real, real,', POINTS),
        ('_, logits = discriminator(mixed', '_, logits = network_d(mixed',
         'test_graph.py::test_all_towers_of_d_share_their_weights[wgan-gp]'),
        ('variants.mix(real, fake,', 'variants.mix(X, g,',
         'test_graph.py::test_the_penalty_mixes_the_inputs_of_d'),
        ('losses.gradient_penalty(logits, mixed)', 'losses.gradient_penalty(d_real_logits, X)',
         OBJECTIVE + '[wgan-gp]'),
        ('minimize_d(objective_d)', 'minimize_d(loss_d)', OBJECTIVE + '[r1]'),
        ('adam_d.minimize, var_list=vars_d)', 'adam_d.minimize, var_list=vars_d + vars_g)',
         OBJECTIVE + '[gan]'),
        ('adam_d.minimize, var_list=vars_d)', 'adam_d.minimize, var_list=vars_d[1:])',
         OBJECTIVE + '[gan]'),
        ('adam_g.minimize, var_list=vars_g)', 'adam_g.minimize, var_list=vars_d)',
         OBJECTIVE + '[gan]'),
        # optimizers
        ("lr_d = settings['lr'] if settings['lr_d'] is None else settings['lr_d']",
         "lr_d = settings['lr']", 'test_graph.py::test_each_network_has_its_own_learning_rate'),
        ("adam_g = optimizer(settings['lr'],", 'adam_g = optimizer(lr_d,',
         'test_graph.py::test_each_network_has_its_own_learning_rate'),
        ("adam_g = optimizer(settings['lr'],", "adam_g = optimizer(-settings['lr'],",
         OBJECTIVE + '[gan]'),
        ('AdamOptimizer(lr, beta1, beta2)', 'AdamOptimizer(lr, beta1)',
         OBJECTIVE + '[scaled]'),
        ('AdamOptimizer(lr, beta1, beta2)', 'AdamOptimizer(lr, 0.5, beta2)',
         OBJECTIVE + '[scaled]'),
        ("OPTIMIZERS[settings['optimizer']]", "OPTIMIZERS['adam']",
         'test_graph.py::test_d_of_wgan_gp_has_no_batch_norm'),
        # updates and their order
        ('with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):',
         'with tf.control_dependencies([]):', PARITY),
        ('minimize_d = variants.minimize_after_power_iteration(minimize_d)', 'pass', SPECTRAL),
        ('with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):',
         'with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)'
         ' + tf.get_collection(variants.SPECTRAL_UPDATES)):', SPECTRAL),
        ('discriminator(fake, reuse=True)', 'network_d(fake, reuse=True)',
         'test_graph.py::test_all_towers_of_d_share_their_weights[gan]'),
        ('discriminator(real)', 'network_d(real)',
         'test_graph.py::test_all_towers_of_d_share_their_weights[gan]'),
        ("    if settings['clip']:", '    if False:', CLIPPED + '[0]'),
        ('clipped_minimize(minimize_d, vars_d,', 'clipped_minimize(minimize_d, vars_g,',
         CLIPPED + '[0]'),
        ('clipped_minimize(minimize_d, vars_d,', 'clipped_minimize(minimize_d, vars_d[:-1],',
         CLIPPED + '[0]'),
        # EMA
        ("tf.train.ExponentialMovingAverage(settings['average'], step // settings['d_steps'])",
         "tf.train.ExponentialMovingAverage(settings['average'], step)", EMA + '[5-0]'),
        ("tf.train.ExponentialMovingAverage(settings['average'], step // settings['d_steps'])",
         "tf.train.ExponentialMovingAverage(settings['average'])", EMA + '[1-0]'),
        ("tf.train.ExponentialMovingAverage(settings['average'], step // settings['d_steps'])",
         "tf.train.ExponentialMovingAverage(0.999, step // settings['d_steps'])",
         EMA + '[1-0]'),
        ('averaged_minimize(minimize_g, ema, vars_g)',
         'averaged_minimize(minimize_g, ema, vars_g[1:])',
         EMA + '[1-0]'),
        ('model._replace(samples=generator(is_training=False))',
         'model._replace(samples=generator(is_training=True))',
         SAMPLES + '[fused]'),
        # workers
        ("worker if settings['sync_batch_norm'] and", 'worker if', SYNC + '[False]'),
        ("worker if settings['sync_batch_norm'] and", 'None if', SYNC + '[True]'),
    ],
    'dcgan/variants.py': [
        # DiffAugment and instance noise
        ("if settings['diffaugment']:", "if settings['diffaugment'] and stream == 0:",
         CUTOUT + '[0]',
         CUTOUT + '[1]', THROUGH + '[0]', THROUGH + '[1]'),
        ("if settings['diffaugment']:", "if settings['diffaugment'] and stream == 1:",
         CUTOUT + '[0]',
         CUTOUT + '[1]'),
        ("if settings['diffaugment']:", 'if False:', CUTOUT + '[0]', CUTOUT + '[1]'),
        ('random_seed(seed, step, stream, worker))\n    if',
         'random_seed(seed, step, 0, worker))\n    if',
         CUTOUT + '[0]'),
        ("apply(settings['diffaugment'], images,",
         "apply(settings['diffaugment'], tf.stop_gradient(images),", THROUGH + '[0]',
         THROUGH + '[1]'),
        ("apply(settings['diffaugment'], images,", "apply(settings['diffaugment'][:1], images,",
         CUTOUT + '[0]'),
        ('d_input(g, FAKE, settings, step, worker)', 'g', CUTOUT + '[1]', NOISE + '[1]'),
        ('d_input(g, FAKE, settings', 'd_input(g, REAL, settings', CUTOUT + '[1]'),
        ('d_input(g, FAKE, settings', 'd_input(g, number, settings', FUSED + '[diffaugment-2]'),
        ("if settings['instance_noise']:", "if settings['instance_noise'] and stream == 0:",
         NOISE + '[0]'),
        ("if settings['instance_noise']:", "if settings['instance_noise'] and stream == 1:",
         NOISE + '[0]'),
        ("step // settings['d_steps'],", 'step,', NOISE + '[0]'),
        ('NOISE + stream', 'NOISE', NOISE + '[0]'),
        ('NOISE + stream', 'stream', SEEDS),
        ('HALVE_NOISE_EVERY = 1000', 'HALVE_NOISE_EVERY = 500', NOISE + '[0]'),
        ('stddev *= 0.5 **', 'stddev *= 2 **', NOISE + '[0]'),
        ('return images + stddev *', 'return images + 2 * stddev *', NOISE + '[0]'),
        ('stateless_normal(tf.shape(images), seed)', 'stateless_normal(tf.shape(images)[1:], seed)',
         NOISE + '[0]'),
        # seeds
        ('tf.stack([seed, 8 *', 'tf.stack([0, 8 *', SEEDS),
        ('8 * (step', '4 * (step', SEEDS),
        ('(step * worker.size + worker.task)', '(step + worker.task)', SEEDS),
        ('(step * worker.size + worker.task)', '(step * worker.size)', SEEDS),
        ('(step * worker.size + worker.task)', 'step', SEEDS),
        ('step, MIX, worker)', 'step, REAL, worker)', SEEDS),
        # the penalty's points
        ('return share * real + (1 - share) * fake', 'return real + share * fake',
         'test_graph.py::test_interpolation_draws_one_share_for_each_image'),
        ('[tf.shape(real)[0], 1, 1, 1]', '[1, 1, 1, 1]',
         'test_graph.py::test_interpolation_draws_one_share_for_each_image'),
        # updates
        ('optimizer.compute_gradients(loss * loss_scale, variables)',
         'optimizer.compute_gradients(loss, variables)', OBJECTIVE + '[scaled]'),
        ('[gradient / loss_scale for', '[gradient for', OBJECTIVE + '[scaled]'),
        ('with tf.control_dependencies(tf.get_collection(SPECTRAL_UPDATES)):',
         'with tf.control_dependencies([]):', SPECTRAL),
        ('with tf.control_dependencies([minimize(loss)]):\n            return tf.group',
         'minimize(loss)\n        if True:\n            return tf.group', CLIPPED + '[0]'),
        ('-limit, limit),', '0, limit),', CLIPPED + '[0]'),
        ("for number in range(settings['g_steps']):", "for number in range(1):",
         FUSED + '[smooth-2]'),
        ('        with tf.control_dependencies([optimizer_g]):\n            done',
         '        with tf.control_dependencies([]):\n            done', FUSED + '[smooth-1]'),
        ('loss_g = loss_of_g(logits)', 'loss_g = -loss_of_g(logits)', FUSED + '[smooth-1]'),
        ('if number:', 'if True:', FORWARD_PASSES + '[1]'),
        ('if number:', 'if False:', FORWARD_PASSES + '[2]'),
        ("                if settings['spectral_norm']:\n", '                if False:\n',
         FUSED + '[spectral-1]'),
        ('with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)[done:]):',
         'with tf.control_dependencies([]):', FORWARD_PASSES + '[1]'),
        # EMA
        ('with tf.control_dependencies([minimize(loss)]):\n            return ema',
         'minimize(loss)\n        if True:\n            return ema', EMA + '[1-0]'),
        ('averages[name]):\n', 'getter(name)):\n',
         'test_graph.py::test_recalibration_gives_ema_weights_their_own_statistics'),
        ('1 - 1 / recalibration_batch', '0.9', MEAN),
        ('1 - 1 / recalibration_batch', '1 / recalibration_batch', MEAN),
        ('1 - 1 / recalibration_batch', '1 - 1 / (recalibration_batch + 1)', MEAN),
        ('*[v.initializer for v in statistics.values()]', '', MEAN),
        ("if v.op.name.endswith(('/moving_mean', '/moving_variance'))}",
         "if v.op.name.endswith('/moving_mean')}", MEAN),
        ('samples = generator(is_training=False)', 'samples = generator(is_training=True)',
         SAMPLES + '[average]'),
        ('samples = generator(is_training=False)',
         'generator(is_training=False)\n    with scope(reuse=True):\n'
         '        samples = generator(is_training=False)',
         'test_graph.py::test_recalibration_gives_ema_weights_their_own_statistics'),
        # workers
        ('gradients = worker.all_reduce_mean(gradients)', 'pass', WORKERS),
        ('return model._replace(optimizer_d=optimizer_d, ', 'return model._replace(', WORKERS),
        ('optimizer_d=optimizer_d, optimizer_g=optimizer_g,', 'optimizer_d=optimizer_d,', WORKERS),
        ('model.loss_d, tf.reduce_mean(model.d_real), tf.reduce_mean(model.d_fake)',
         'model.loss_d, tf.reduce_mean(model.d_fake), tf.reduce_mean(model.d_real)', WORKERS),
        ('loss_g, = worker.all_reduce_mean([model.loss_g])', 'loss_g = model.loss_g', WORKERS),
        ('tf.cast(stop, tf.float32)', '1 - tf.cast(stop, tf.float32)', WORKERS),
        ('with tf.control_dependencies([optimizer]):', 'with tf.control_dependencies([]):',
         WORKERS),
        ("(('/moving_mean', '/moving_variance', '/u'))]", "(('/moving_mean', '/u'))]", WORKERS),
        ("(('/moving_mean', '/moving_variance', '/u'))]",
         "(('/moving_mean', '/moving_variance'))]", WORKERS),
        ("for network in ('discriminator/', 'generator/')", "for network in ('discriminator/',)",
         WORKERS),
        (', sync=None)', ')', SYNC + '[True]'),
    ],
    'losses.py': [
        ('_cross_entropy(d_real_logits, 1 - smooth)', '_cross_entropy(d_real_logits, 1)',
         OBJECTIVE + '[smooth]'),
        ('_cross_entropy(d_real_logits, 1 - smooth)', '_cross_entropy(d_real_logits, smooth)',
         OBJECTIVE + '[smooth]'),
        ('+ _cross_entropy(d_fake_logits, 0)', '+ _cross_entropy(d_fake_logits, smooth)',
         OBJECTIVE + '[smooth]'),
        ('+ _cross_entropy(d_fake_logits, 0)', '', OBJECTIVE + '[gan]'),
        ('return _cross_entropy(d_fake_logits, 1)', 'return -_cross_entropy(d_fake_logits, 0)',
         OBJECTIVE + '[gan]'),
        ('tf.reduce_mean(d_fake) - tf.reduce_mean(d_real)',
         'tf.reduce_mean(d_real) - tf.reduce_mean(d_fake)',
         'test_graph.py::test_losses_of_a_critic'),
        ("'wgan': Loss(critic_loss_d, critic_loss_g", "'wgan': Loss(critic_loss_d, loss_g",
         OBJECTIVE + '[wgan]'),
        ('return -tf.reduce_mean(d_fake)', 'return tf.reduce_mean(d_fake)',
         'test_graph.py::test_losses_of_a_critic'),
        ('norms - 1', 'norms', 'test_graph.py::test_gradient_penalty_of_a_linear_critic'),
        ('tf.square(norms - 1)', 'tf.nn.relu(norms - 1)',
         'test_graph.py::test_gradient_penalty_of_a_linear_critic'),
        ('tf.reduce_sum(squares, [1, 2, 3])', 'tf.reduce_sum(squares)',
         'test_graph.py::test_gradient_penalty_of_a_linear_critic'),
        (' + 1e-12', '', 'test_graph.py::test_the_penalty_has_a_finite_gradient_at_slope_0'),
        ('[1, 2, 3])) / 2', '[1, 2, 3]))', 'test_graph.py::test_r1_of_a_linear_critic'),
        ('tf.reduce_sum(tf.square(gradient), [1, 2, 3])', 'tf.reduce_sum(tf.square(gradient))',
         'test_graph.py::test_r1_of_a_linear_critic'),
        ('labels *= label', 'labels -= label', OBJECTIVE + '[smooth]'),
    ],
    'dcgan/diffaugment.py': [
        ('seed + [number * 2 ** 20, 0]', 'seed',
         'test_diffaugment.py::test_each_augmentation_has_its_own_random_numbers'),
        ('for number, name in enumerate(names):', 'for number, name in enumerate(names[:1]):',
         CUTOUT + '[0]'),
        ('tf.shape(images)[0], 1, 1, 1], seed)', '1, 1, 1, 1], seed)',
         'test_diffaugment.py::test_changes_are_a_function_of_the_seed_and_differ_by_image[color]'),
    ],
    'dcgan/batches.py': [
        ("'augment'), self.strengths)", "'augment'), {})",
         'test_batches.py::test_augmentations_have_the_strength_of_the_settings'),
        ("rng(self.seed, step, 'augment')", "rng(self.seed, 0, 'augment')", AUGMENTED),
        ("rng(self.seed, step, 'augment')", "rng(0, step, 'augment')", AUGMENTED),
        ('noise(self.seed, step, self.step_size', 'noise(self.seed, 0, self.step_size', BATCHES),
        ('range(self.task * self.batch_size,', 'range(0,', BATCHES),
        ('self.all_workers)\n', 'self.batch_size)\n', BATCHES),
        ('feed[model.X] = scaled(feed[model.X])', 'feed[model.X] = scaled(feed[model.X][::-1])',
         BATCHES),
        ('feed[model.is_training] = True', 'feed[model.is_training] = False', BATCHES),
        ('step * len(feeds) + number', 'step + number', BATCHES),
        ('step * len(feeds) + number', 'step * len(feeds)', BATCHES),
    ],
    'dcgan/recorder.py': [
        ('RECALIBRATION_BATCHES = 20', 'RECALIBRATION_BATCHES = 15', ENOUGH),
        ('model.recalibration_batch: number + 1', 'model.recalibration_batch: number', RECALIBRATE),
        ('        self.sess.run(model.start_recalibration)\n', '', RECALIBRATE),
        ("(self.config['seed'], number, size,", "(self.config['seed'], 0, size,", RECALIBRATE),
        ('model, size = self.model, self.batches.all_workers',
         'model, size = self.model, self.batches.batch_size', RECALIBRATE),
        ('or self.recalibrated_step == step:', 'or False:', RECALIBRATE),
        ('        self.recalibrated_step = step\n', '        pass\n', RECALIBRATE),
    ],
}


def main(words):
    rows = [(file, *row) for file, table in MUTATIONS.items() for row in table]
    rows = [row for row in rows if not words or any(word in ' '.join(row) for word in words)]
    with tempfile.TemporaryDirectory() as copy:
        for folder in ('', 'dcgan', 'tests'):
            os.makedirs(os.path.join(copy, folder), exist_ok=True)
            for path in glob.glob(os.path.join(ROOT, folder, '*.py')):
                shutil.copy(path, os.path.join(copy, folder))
        shutil.copytree(os.path.join(ROOT, 'tests/golden'), os.path.join(copy, 'tests/golden'))
        failed, output = run(copy, sorted({test for _, _, _, *tests in rows for test in tests}))
        if failed is None or failed:
            sys.exit(f'{output}\nthe tests fail on the unchanged copy')
        verdicts = [mutate(copy, *row) for row in rows]
    print(f'{len(rows)} mutations', *(f'{verdicts.count(v)} {v}' for v in sorted(set(verdicts))),
          sep=', ')
    return int(set(verdicts) != {'caught'})


def mutate(copy, file, text, replacement, *tests):
    """Runs the tests on the copy with one mutation; prints and returns the verdict."""
    path = os.path.join(copy, file)
    with open(path, encoding='utf-8') as f:
        source = f.read()
    if source.count(text) != 1:
        verdict, passed = 'not found', []
    else:
        with open(path, 'w', encoding='utf-8') as f:
            f.write(source.replace(text, replacement))
        failed, _ = run(copy, tests)
        passed = [test for test in tests if test not in (failed or [])]
        verdict = 'broken' if failed is None else 'survived' if passed else 'caught'
        with open(path, 'w', encoding='utf-8') as f:
            f.write(source)
    print(f'{verdict:9} {file}: {text.strip()!r} -> {replacement.strip()!r}; '
          + ', '.join(passed or tests), flush=True)
    return verdict


def run(copy, tests):
    """(failed tests, pytest's output); the first is None if pytest can't run the tests."""
    process = subprocess.run(
        [sys.executable, '-B', '-W', 'ignore', '-m', 'pytest', '-q', '-rf', '--tb=short',
         '-p', 'no:cacheprovider'] + ['tests/' + test for test in tests],
        cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = re.findall(r'^FAILED tests/(\S+)', process.stdout, re.M)
    return failed if process.returncode in (0, 1) else None, process.stdout


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
