"""One run of training: its batches, graph and session, the steps, what is kept of them."""
import collections
import concurrent.futures
import contextlib
import shlex
import shutil
import signal
import sys

import numpy as np

from dcgan import augment, checkpoint, cli, data, log, metrics, pictures, session, signals

# Those settings that graph.build is given.
OF_GRAPH = ('image_size', 'z_dim', 'lr', 'lr_d', 'beta1', 'init', 'average', 'diffaugment',
            'smooth', 'instance_noise', 'spectral_norm', 'r1', 'condition', 'loss', 'optimizer',
            'beta2', 'clip', 'gradient_penalty', 'norm_d', 'd_steps', 'sync_batch_norm', 'seed')
EVALUATED = 512         # images that a checkpoint is measured by
# Batches of noise over which the batch-norm statistics of the EMA weights are averaged. Those of
# dcgan_lfw, 64 images each, against 400 of them: 20 leave the means off by 0.7 % of the standard
# deviation, the variances by 1.2 %, images by 1.3 levels of 255; 10 by 1.0 %, 1.5 %, 1.8; 60 by
# 0.4 %, 0.6 %, 0.7. Twenty take as long as three fused steps.
RECALIBRATION_BATCHES = 20
SHEET = 64              # images on a sheet of samples

# What is to be done. name: of the checkpoints, without the step. facts: the dict that goes beside
# each of them. prefix: of the checkpoint that it goes on from at step, or None. unmeasured: whether
# that one was stopped before it was measured. end: the last step.
Plan = collections.namedtuple('Plan', 'name samples_dir settings facts step prefix unmeasured '
                              'per_epoch end')


class Batches:
    """What a run is fed, as a function of (seed, step): this worker's share of it.

    A step takes d_steps batches of batch_size photographs from each of the workers; all of them
    together see what one worker sees whose batches are as large as all of theirs.
    """

    def __init__(self, images, labels, settings, task=0):
        """images: as data.load has them. labels: int8 [n, l], or None. task: which worker's."""
        self.images, self.labels, self.settings, self.task = images, labels, settings, task
        self.seed, self.batch_size = settings['seed'], settings['batch_size']
        self.all_workers = self.batch_size * settings['workers']
        self.step_size = step_size(settings)
        self.strengths = {key[len('augment_'):]: settings[key]
                          for key in settings if 'augment_' in key}

    def photographs(self, step):
        """All workers' of a step, augmented, uint8 [step_size, h, w, 3]."""
        batch = data.batch(self.images, self.step_size, self.seed, step)
        return augment.apply(self.settings['augment'], batch,
                             data.rng(self.seed, step, 'augment'), self.strengths)

    def feeds(self, step, p):
        """What D's d_steps runs of a step are fed, a list; G's are fed the last one."""
        values = {p.X: self.photographs(step),
                  p.noise: data.noise(self.seed, step, self.step_size, self.settings['z_dim'])}
        if p.labels is not None:
            values[p.labels] = self.labels[data.rows(len(self.images), self.step_size, self.seed,
                                                     step)]
        starts = range(self.task * self.batch_size, self.step_size, self.all_workers)
        feeds = [{key: value[start:start + self.batch_size] for key, value in values.items()}
                 for start in starts]
        for number, feed in enumerate(feeds):
            feed[p.X] = data.scaled(feed[p.X])
            feed[p.is_training] = True
            if p.step is not None:
                feed[p.step] = step * len(feeds) + number
        return feeds

    def asked(self, p, count, number, stream):
        """A feed of labels [count, l] drawn from the photographs', empty where there are none."""
        if p.labels is None:
            return {}
        rows = data.rng(self.seed, number, stream).randint(len(self.labels), size=count)
        return {p.labels: self.labels[rows]}

    def reference(self):
        """(swd_profile, MS-SSIM) of EVALUATED photographs, which samples are measured against."""
        photographs = self.images[data.rng(self.seed, 0, 'evaluate').choice(
            len(self.images), EVALUATED, replace=len(self.images) < EVALUATED)]
        return metrics.swd_profile(photographs), metrics.ms_ssim(*np.split(photographs, 2))


def step_size(settings):
    """Photographs that all workers together see in a step."""
    return settings['d_steps'] * settings['batch_size'] * settings['workers']


class Keeper:
    """Draws, measures, writes and saves what is due after a step.

    The training thread draws and saves, since it runs the session. Sheets are written and samples
    measured on a background thread while it goes on, and are complete before the next checkpoint:
    so a run that resumes from a checkpoint finds all records up to it.
    """

    def __init__(self, tf, sess, p, saver, plan, args, batches, reference, stop):
        """reference: what Batches.reference gave. stop: not empty when the run is to end."""
        self.background, self.pending = concurrent.futures.ThreadPoolExecutor(1), None
        self.tf, self.sess, self.p, self.saver = tf, sess, p, saver
        self.profile, self.alike = reference
        self.stop = stop
        self.plan, self.args, self.batches, self.settings = plan, args, batches, plan.settings
        self.prefix = plan.prefix                               # of the newest checkpoint
        self.saved_step = plan.step if plan.prefix else None
        self.recalibrated_step = self.saved_step
        log.begin(plan.samples_dir, plan.facts['run'])
        self.records = log.Log(tf, plan.samples_dir, plan.step, plan.end, plan.per_epoch,
                               batches.step_size, self.settings['loss'] != 'gan',
                               plan.step - plan.unmeasured)
        seed, z_dim = self.settings['seed'], self.settings['z_dim']
        self.sheet_noise = data.rng(seed, 0, 'sheet').uniform(-1, 1, (SHEET, z_dim))
        self.sheet_labels = batches.asked(p, SHEET, 0, 'sheet labels')
        self.evaluated_noise = data.noise(seed, 0, EVALUATED, z_dim, 'evaluate')

    def after_step(self, step, loss_d, loss_g, d_real, d_fake, all_stop):
        """Shows, draws, saves and measures what is due; all_stop: nothing comes after it."""
        last = step == self.plan.end
        self.records.status(step, loss_d, loss_g)
        if step % self.args.log_every == 0 or last:
            self.records.losses(step, loss_d, loss_g, np.mean(d_real), np.mean(d_fake))
        if step % self.args.sample_every == 0 or last:
            self.recalibrate(step)
            images = self.draw(self.sheet_noise, self.sheet_labels)
            self.in_background(self.records.sheet, step, images)
        if step % self.args.save_every == 0 or last:
            self.save(step)
            # Who stops it does not wait for more than the checkpoint.
            if not (self.stop or all_stop):
                self.measure()

    def draw(self, noise, labels):
        """Images of noise [n, z_dim] as G draws them in use, float [n, h, w, 3]."""
        p = self.p
        return self.sess.run(p.samples, {p.noise: noise, p.is_training: False, **labels})

    def recalibrate(self, step):
        """Recalibrates the batch-norm statistics of the EMA weights, which are those of step."""
        p, size = self.p, self.batches.all_workers
        if not p.recalibrate or self.recalibrated_step == step:
            return
        self.recalibrated_step = step
        self.sess.run(p.start_recalibration)
        for number in range(RECALIBRATION_BATCHES):
            noise = data.noise(self.settings['seed'], number, size, self.settings['z_dim'],
                               'recalibration')
            self.sess.run(p.recalibrate, {
                p.noise: noise, p.recalibration_batch: number + 1,
                **self.batches.asked(p, size, number, 'recalibration labels')})

    def save(self, step):
        """Writes the checkpoint of a step, if it is not there already."""
        if self.saved_step == step:
            return
        self.recalibrate(step)
        self.wait()
        # The losses were those before the update.
        check_finite(self.draw(self.sheet_noise, self.sheet_labels), 'its images are', step,
                     self.prefix)
        self.prefix = checkpoint.save(
            self.sess, self.saver, self.args.model_dir, self.plan.name, step,
            dict(self.plan.facts, step=step, images=step * self.batches.step_size,
                 epoch=step / self.plan.per_epoch, tensorflow=self.tf.__version__),
            self.args.max_to_keep)
        self.saved_step = step

    def measure(self):
        """Measures the newest checkpoint, which is what the session holds."""
        fakes = pictures.to_uint8(np.concatenate([
            self.draw(noise, self.batches.asked(self.p, SHEET, number, 'evaluate labels'))
            for number, noise in enumerate(np.split(self.evaluated_noise, EVALUATED // SHEET))]))
        self.in_background(self.record_metrics, fakes, self.saved_step, self.prefix)

    def record_metrics(self, fakes, step, prefix):
        """Measures a checkpoint's samples, uint8 [EVALUATED, h, w, 3], and notes the figures."""
        distances = metrics.swd(self.profile, metrics.swd_profile(fakes))
        figures = {'swd': float(np.mean(list(distances.values()))),
                   'ms_ssim': metrics.ms_ssim(*np.split(fakes, 2)),
                   'ms_ssim_photographs': self.alike}
        self.records.quality(step, **figures)
        checkpoint.record_metrics(prefix, self.plan.name, figures)

    def in_background(self, function, *arguments):
        """Calls a function on the background thread, after what was begun there before."""
        self.wait()
        self.pending = self.background.submit(function, *arguments)

    def wait(self):
        """Waits until the background thread is done; raises what it raised."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def gif(self):
        """Makes samples.gif of the sheets of a run that has reached its end."""
        self.wait()
        self.records.gif(self.args.sample_every)

    def close(self):
        """Closes the tables and draws their curves."""
        try:
            self.wait()
        finally:
            self.background.shutdown()
            self.records.close()


def run(plan, args, batches, workers=None):
    """Trains from plan.step to plan.end or until a signal; returns the exit code."""
    settings = plan.settings
    tf = session.set_up(args.verbose, args.device, settings['deterministic'])
    try:
        precision, why = session.choose_precision(settings['precision'])
    except ValueError as error:
        cli.fail(f'--precision {settings["precision"]}: {error}')
    before = plan.facts['computed_in']
    if before not in (None, precision):
        why += f'; until step {plan.step:,} it was {before}'
    plan.facts['computed_in'] = precision
    print(f'{"computes in":16} {precision}: {why}', flush=True)
    if settings['sync_batch_norm'] and precision != 'float32':
        cli.fail(f'--precision {settings["precision"]}: with --sync-batch-norm float32 only, '
                 f'as its statistics would be summed in {precision}')
    import graph
    fast_for = precision if session.has_onednn() and not settings['plain_convolutions'] else None
    p = graph.build(
        fused_g_steps=settings['g_steps'] if settings['fused_step'] else 0, fast_for=fast_for,
        loss_scale=session.LOSS_SCALES[precision], label_count=len(settings['attributes']),
        workers=workers, **{key: settings[key] for key in OF_GRAPH})
    with p.graph.as_default():
        saver = tf.train.Saver(max_to_keep=args.max_to_keep)
        variables = checkpoint.by_name(tf.global_variables())
        initializer = tf.global_variables_initializer()
        copy_first = workers and workers.copy_first(tf.global_variables())
    if workers:
        workers.agree({'what is computed in': precision, 'what kernels are for': fast_for,
                       'what is reduced': workers.reductions()})
    if batches.task == 0:
        saves = plan.end // args.save_every - plan.step // args.save_every
        check_free_space(args, variables, saves + bool(plan.end % args.save_every),
                         len(checkpoint.of_run(args.model_dir, plan.name)))
        reference = batches.reference()

    with contextlib.ExitStack() as closed:
        closed.enter_context(memory_named(tf, settings))
        if workers:
            closed.enter_context(workers.errors_named())
        sess = closed.enter_context(session.open_session(p.graph, precision, workers))
        stop, save = closed.enter_context(received_signals())
        ahead = closed.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        if plan.prefix:
            checkpoint.restore(sess, saver, plan.prefix, variables)
            saver.recover_last_checkpoints([path for step, path in
                                            checkpoint.of_run(args.model_dir, plan.name)
                                            if step <= plan.step])
        else:
            sess.run(initializer)
        if workers:
            sess.run(copy_first, options=workers.run_options)
        keeper = None
        if batches.task == 0:
            # Workers agree in the next step on whether one was asked to stop.
            keeper = closed.enter_context(contextlib.closing(Keeper(
                tf, sess, p, saver, plan, args, batches, reference, [] if workers else stop)))
            if plan.unmeasured:
                keeper.measure()

        step, all_stop = plan.step, False
        next_feeds = ahead.submit(batches.feeds, step, p)
        while step < plan.end and not (all_stop if workers else stop):
            feeds = next_feeds.result()
            next_feeds = ahead.submit(batches.feeds, step + 1, p)    # made while this step runs
            *losses, all_stop = one_step(sess, p, settings, feeds, stop, workers)
            step += 1
            if workers and (step == plan.end or all_stop):
                workers.leave()         # what is left to do is for worker 0 alone
            check_finite(losses[:2], 'the loss is', step, (keeper or plan).prefix)
            if keeper:
                keeper.after_step(step, *losses, all_stop)
                if save:
                    save.clear()
                    keeper.save(step)
        if keeper:
            keeper.save(step)
            if not (stop or all_stop):
                keeper.gif()

    if stop or all_stop:
        print(f'stopped at step {step:,}' + (f' and saved {keeper.prefix}' if keeper else '')
              + '; --resume goes on', file=sys.stderr)
        return 128 + (stop[0] if stop else signal.SIGTERM)
    if keeper:
        print(f'{keeper.prefix} is whole; python generate.py --ckpt {shlex.quote(keeper.prefix)} '
              'draws from it')
    return 0


def one_step(sess, p, settings, feeds, stop, workers):
    """(loss_d, loss_g, d_real, d_fake, whether a worker was asked to stop) of a step.

    stop: the signals that have come to this one. What is returned is the same on all.
    """
    of_d = [p.loss_d, p.d_real, p.d_fake]
    run_options = None
    if workers:
        of_d.append(p.stopping)
        run_options = workers.run_options
        feeds[-1][p.stop] = bool(stop)
    *extra, feed = feeds
    for feed_d in extra:
        sess.run(p.optimizer_d, feed_d, run_options)
    if settings['fused_step']:
        _, loss_g, (loss_d, d_real, d_fake, *stopping) = sess.run(
            [p.optimizer_g, p.loss_g, of_d], feed, run_options)
    else:
        _, (loss_d, d_real, d_fake, *stopping) = sess.run([p.optimizer_d, of_d], feed, run_options)
        for _ in range(settings['g_steps']):
            _, loss_g = sess.run([p.optimizer_g, p.loss_g], feed, run_options)
    return loss_d, loss_g, d_real, d_fake, bool(stopping and stopping[0])


def check_free_space(args, variables, saves, there=0):
    """Ends with a sentence where the checkpoints of so many saves would fill the disk.

    there: how many are already.
    """
    kept = min(saves + there, args.max_to_keep or saves + there)
    more = max(kept - there, 0) + 2         # the best one, one in the writing
    needed = more * sum(4 * v.shape.num_elements() for v in variables.values())
    free = shutil.disk_usage(args.model_dir).free
    if free < needed:
        cli.fail(f'--model-dir {args.model_dir}: {free / 1e6:,.0f} MB are free, up to '
                 f'{needed / 1e6:,.0f} are needed for {more} checkpoints'
                 + ('; --max-to-keep 1 needs the least' if args.max_to_keep != 1 else ''))


def check_finite(values, what, step, prefix):
    """Ends the run where it has run away, before that could be saved.

    prefix: of the last checkpoint, or None.
    """
    if not np.isfinite(values).all():
        kept = f'{prefix} is kept, ' if prefix else ''
        cli.fail(f'step {step}: {what} no longer finite; {kept}begin anew with --recipe best '
                 'or a smaller --lr')


@contextlib.contextmanager
def memory_named(tf, settings):
    """Ends the run with a sentence where TensorFlow has no memory left, as GPUs mostly have."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        cli.fail(f'--batch-size {settings["batch_size"]}, --image-size '
                 f'{settings["image_size"]}: {checkpoint.first_line(error)}')


@contextlib.contextmanager
def received_signals():
    """Yields two lists of signals that came: those that end the run, those that ask for a save.

    Ending, a step is finished and saved. A second signal to end does so at once.
    """
    stop, save = [], []

    def note(number):
        if number in signals.SAVE:
            save.append(number)
        elif stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        elif stop:
            sys.exit(128 + number)
        else:
            stop.append(number)

    with signals.handled(signals.STOP + signals.SAVE, note):
        yield stop, save
