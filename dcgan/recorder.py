"""Records of a run, as they fall due after a step: status, tables, sheets, measures, saves."""
import concurrent.futures

import numpy as np

from dcgan import checkpoint, cli, log, metrics, pictures, run_dir
from dcgan.batches import noise, rng

EVALUATED = 512         # images that measure a checkpoint
# Batches of noise over which the batch-norm statistics of the EMA weights are averaged. Those of
# dcgan_lfw, 64 images each, against 400 of them: 20 leave the means off by 0.7 % of the standard
# deviation, the variances by 1.2 %, images by 1.3 levels of 255; 10 by 1.0 %, 1.5 %, 1.8; 60 by
# 0.4 %, 0.6 %, 0.7. Twenty take as long as three fused steps.
RECALIBRATION_BATCHES = 20
SHEET = 64              # images on a sheet of samples


def measure_real(images, seed):
    """(swd_profile, MS-SSIM) of EVALUATED real images, uint8 [n, h, w, 3]."""
    rows = rng(seed, 0, 'evaluate').choice(len(images), EVALUATED,
                                           replace=len(images) < EVALUATED)
    chosen = images[rows]
    return metrics.swd_profile(chosen), metrics.ms_ssim(*np.split(chosen, 2))


class Recorder:
    """Writes the records of a run after each step.

    The training thread draws and saves, since it runs the session. A background thread writes
    sheets and measures samples while training goes on. Both are complete before the next
    checkpoint, so a run that resumes from a checkpoint finds all records up to it.
    """

    def __init__(self, tf, sess, model, saver, plan, args, batches, real_measures, must_stop):
        """real_measures: of measure_real. must_stop: function that returns whether to end."""
        self.background, self.pending = concurrent.futures.ThreadPoolExecutor(1), None
        self.tf, self.sess, self.model, self.saver = tf, sess, model, saver
        self.real_profile, self.real_ms_ssim = real_measures
        self.must_stop = must_stop
        self.plan, self.args, self.batches, self.config = plan, args, batches, plan.config
        self.prefix = plan.prefix                               # of the newest checkpoint
        self.saved_step = plan.step if plan.prefix else None
        self.recalibrated_step = self.saved_step
        log.begin(plan.samples_dir, plan.metadata['run'])
        self.records = log.Log(tf, plan.samples_dir, plan.step, plan.end, plan.per_epoch,
                               batches.step_size, model.critic,
                               plan.step - plan.unmeasured)
        seed, z_dim = self.config['seed'], self.config['z_dim']
        self.sheet_noise = rng(seed, 0, 'sheet').uniform(-1, 1, (SHEET, z_dim))
        self.sheet_labels = batches.sample_labels(model, SHEET, 0, 'sheet labels')
        self.evaluated_noise = noise(seed, 0, EVALUATED, z_dim, 'evaluate')

    def after_step(self, step, loss_d, loss_g, d_real, d_fake):
        """Writes the records that are due after a step."""
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
            # Stopping a run takes no longer than its checkpoint.
            if not self.must_stop():
                self.measure()

    def draw(self, noise, labels):
        """Images that G draws from noise [n, z_dim] in use, float [n, h, w, 3]."""
        model = self.model
        return self.sess.run(model.samples,
                             {model.noise: noise, model.is_training: False, **labels})

    def recalibrate(self, step):
        """Recalibrates the batch-norm statistics of the EMA weights of a step."""
        model, size = self.model, self.batches.all_workers
        if not model.recalibrate or self.recalibrated_step == step:
            return
        self.recalibrated_step = step
        self.sess.run(model.start_recalibration)
        for number in range(RECALIBRATION_BATCHES):
            latents = noise(self.config['seed'], number, size, self.config['z_dim'],
                            'recalibration')
            self.sess.run(model.recalibrate, {
                model.noise: latents, model.recalibration_batch: number + 1,
                **self.batches.sample_labels(model, size, number, 'recalibration labels')})

    def save(self, step):
        """Writes the checkpoint of a step, unless it is there already."""
        if self.saved_step == step:
            return
        self.recalibrate(step)
        self.wait()
        # The losses that were checked are those before the update.
        check_finite(self.draw(self.sheet_noise, self.sheet_labels), 'its images are', step,
                     self.prefix)
        self.prefix = checkpoint.save(
            self.sess, self.saver, self.args.model_dir, self.plan.name, step,
            dict(self.plan.metadata, step=step, images=step * self.batches.step_size,
                 epoch=step / self.plan.per_epoch, tensorflow=self.tf.__version__),
            self.args.max_to_keep)
        self.saved_step = step

    def measure(self):
        """Measures the newest checkpoint, whose weights the session holds."""
        parts = np.split(self.evaluated_noise, EVALUATED // SHEET)
        fakes = pictures.to_uint8(np.concatenate([
            self.draw(part, self.batches.sample_labels(self.model, SHEET, number,
                                                       'evaluate labels'))
            for number, part in enumerate(parts)]))
        self.in_background(self.record_metrics, fakes, self.saved_step, self.prefix)

    def record_metrics(self, fakes, step, prefix):
        """Measures a checkpoint's samples, uint8 [EVALUATED, h, w, 3], and records the figures."""
        distances = metrics.swd(self.real_profile, metrics.swd_profile(fakes))
        figures = {'swd': float(np.mean(list(distances.values()))),
                   'ms_ssim': metrics.ms_ssim(*np.split(fakes, 2)),
                   'ms_ssim_photographs': self.real_ms_ssim}
        self.records.quality(step, **figures)
        run_dir.record_metrics(prefix, self.plan.name, figures)

    def in_background(self, function, *arguments):
        """Calls a function on the background thread, once the last call there has ended."""
        self.wait()
        self.pending = self.background.submit(function, *arguments)

    def wait(self):
        """Waits for the background thread; raises its error, if any."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def gif(self):
        """Makes samples.gif of the sheets of a finished run."""
        self.wait()
        self.records.gif(self.args.sample_every)

    def close(self):
        """Closes the tables and draws their curves."""
        try:
            self.wait()
        finally:
            self.background.shutdown()
            self.records.close()


def check_finite(values, what, step, prefix):
    """Exits if a value is not finite, before it is saved.

    prefix: of the last checkpoint, or None.
    """
    if not np.isfinite(values).all():
        kept = f'{prefix} is kept, ' if prefix else ''
        cli.fail(f'step {step}: {what} no longer finite; {kept}begin anew with --recipe best '
                 'or a smaller --lr')
