"""What is due after a step: status line, tables, sheets, measures, checkpoints."""
import concurrent.futures
import shutil

import numpy as np

from dcgan import checkpoint, cli, log, metrics, pictures
from dcgan.batches import noise, rng

EVALUATED = 512         # images that a checkpoint is measured by
# Batches of noise over which the batch-norm statistics of the EMA weights are averaged. Those of
# dcgan_lfw, 64 images each, against 400 of them: 20 leave the means off by 0.7 % of the standard
# deviation, the variances by 1.2 %, images by 1.3 levels of 255; 10 by 1.0 %, 1.5 %, 1.8; 60 by
# 0.4 %, 0.6 %, 0.7. Twenty take as long as three fused steps.
RECALIBRATION_BATCHES = 20
SHEET = 64              # images on a sheet of samples


def measure_real(images, seed):
    """(swd_profile, MS-SSIM) of EVALUATED real images, which samples are measured against."""
    rows = rng(seed, 0, 'evaluate').choice(len(images), EVALUATED,
                                           replace=len(images) < EVALUATED)
    chosen = images[rows]
    return metrics.swd_profile(chosen), metrics.ms_ssim(*np.split(chosen, 2))


class Recorder:
    """Draws, measures, writes and saves what is due after a step.

    The training thread draws and saves, since it runs the session. Sheets are written and samples
    measured on a background thread while it goes on, and are complete before the next checkpoint:
    so a run that resumes from a checkpoint finds all records up to it.
    """

    def __init__(self, tf, sess, model, saver, plan, args, batches, real_measures, stop):
        """real_measures: those of measure_real. stop: not empty when the run is to end."""
        self.background, self.pending = concurrent.futures.ThreadPoolExecutor(1), None
        self.tf, self.sess, self.model, self.saver = tf, sess, model, saver
        self.real_profile, self.real_ms_ssim = real_measures
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
        self.sheet_noise = rng(seed, 0, 'sheet').uniform(-1, 1, (SHEET, z_dim))
        self.sheet_labels = batches.sample_labels(model, SHEET, 0, 'sheet labels')
        self.evaluated_noise = noise(seed, 0, EVALUATED, z_dim, 'evaluate')

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
        model = self.model
        return self.sess.run(model.samples,
                             {model.noise: noise, model.is_training: False, **labels})

    def recalibrate(self, step):
        """Recalibrates the batch-norm statistics of the EMA weights, which are those of step."""
        model, size = self.model, self.batches.all_workers
        if not model.recalibrate or self.recalibrated_step == step:
            return
        self.recalibrated_step = step
        self.sess.run(model.start_recalibration)
        for number in range(RECALIBRATION_BATCHES):
            latents = noise(self.settings['seed'], number, size, self.settings['z_dim'],
                            'recalibration')
            self.sess.run(model.recalibrate, {
                model.noise: latents, model.recalibration_batch: number + 1,
                **self.batches.sample_labels(model, size, number, 'recalibration labels')})

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
        parts = np.split(self.evaluated_noise, EVALUATED // SHEET)
        fakes = pictures.to_uint8(np.concatenate([
            self.draw(part, self.batches.sample_labels(self.model, SHEET, number,
                                                       'evaluate labels'))
            for number, part in enumerate(parts)]))
        self.in_background(self.record_metrics, fakes, self.saved_step, self.prefix)

    def record_metrics(self, fakes, step, prefix):
        """Measures a checkpoint's samples, uint8 [EVALUATED, h, w, 3], and notes the figures."""
        distances = metrics.swd(self.real_profile, metrics.swd_profile(fakes))
        figures = {'swd': float(np.mean(list(distances.values()))),
                   'ms_ssim': metrics.ms_ssim(*np.split(fakes, 2)),
                   'ms_ssim_photographs': self.real_ms_ssim}
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
