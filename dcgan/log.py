"""The records of a run: status line, tables, TensorBoard events, sheets, warnings."""
import collections
import contextlib
import csv
import itertools
import math
import os
import re
import sys
import time

import numpy as np

from dcgan import cli, pictures
from dcgan.files import atomic_write

LOSSES = ['step', 'epoch', 'images', 'seconds', 'd_loss', 'g_loss']       # columns of loss.csv
QUALITY = ['step', 'swd', 'ms_ssim', 'ms_ssim_photographs']               # columns of quality.csv
RUN = 'run'                                 # file that identifies the run of the records
GIF, GIF_FRAMES = 'samples.gif', 100        # maximum number of frames

# A run is warned if the mean of D(G(z)) over ROWS rows is below D_HAS_WON, if MS-SSIM is more than
# ALIKE above that of real images and above its own lowest value so far, or if SWD is more than
# WORSE times its lowest value so far.
ROWS, D_HAS_WON, ALIKE, WORSE = 20, 0.02, 0.15, 2.0


def begin(samples_dir, run):
    """Moves the records of another run in samples_dir to a folder of their own.

    run: a text that identifies this run.
    """
    path = os.path.join(samples_dir, RUN)
    try:
        with open(path, encoding='utf-8') as f:
            owner = f.read()
    except FileNotFoundError:
        owner = None
    if owner == run:
        return
    records = [name for name in os.listdir(samples_dir)
               if re.fullmatch(r'step_\d{7}\.png|(loss|quality)\.(csv|png)|samples\.gif|events|'
                               + RUN, name)]
    if records:
        folders = (os.path.join(samples_dir, f'earlier-{n}') for n in itertools.count(1))
        archive = next(folder for folder in folders if not os.path.exists(folder))
        os.mkdir(archive)
        for name in records:
            os.rename(os.path.join(samples_dir, name), os.path.join(archive, name))
        print(f'another run\'s records in {samples_dir} are now in {archive}')
    with atomic_write(path) as partial, open(partial, 'w', encoding='utf-8') as f:
        f.write(run)


class Log:
    """The records of a run in a folder.

    On resume the rows after the step that the run continues from are dropped: from the tables
    and, by a session log entry, from TensorBoard.
    """

    def __init__(self, tf, folder, step, last_step, per_epoch, step_size, critic=False,
                 measured_step=None):
        """step_size: real images per step. critic: whether D outputs values, not probabilities.
        measured_step: last step of quality.csv whose row is kept; by default `step`.
        """
        self.tf, self.folder, self.critic = tf, folder, critic
        self.last_step, self.per_epoch, self.step_size = last_step, per_epoch, step_size
        self.loss_table = _Table(os.path.join(folder, 'loss.csv'), LOSSES, step)
        self.quality_table = _Table(os.path.join(folder, 'quality.csv'), QUALITY,
                                    step if measured_step is None else measured_step)
        self.events = tf.summary.FileWriter(os.path.join(folder, 'events'))
        if step < last_step:        # the GIF of an earlier end
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, GIF))
        # TensorBoard drops its records from this step on.
        self.events.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step + 1)
        self.bar = cli.progress_bar(total=last_step, initial=step,
                                    bar_format='{desc} · {elapsed} < {remaining}')
        loss_rows, quality_rows = self.loss_table.rows, self.quality_table.rows
        self.start_time = time.monotonic() - (
            float(loss_rows[-1][LOSSES.index('seconds')]) if loss_rows else 0)
        self.rate_from = (step, time.monotonic())
        self.rate = 0.0
        self.recent_d_fake = collections.deque(maxlen=ROWS)
        self.best = min(((float(row[1]), int(float(row[0]))) for row in quality_rows),
                        default=None)
        self.most_varied = min((float(row[2]) for row in quality_rows), default=1.0)
        self.warned = set()

    def status(self, step, loss_d, loss_g):
        """Updates the status line: a terminal shows each, a file one for each row of loss.csv."""
        seconds = time.monotonic() - self.rate_from[1]
        if seconds > 1:
            self.rate = (step - self.rate_from[0]) * self.step_size / seconds
            self.rate_from = (step, time.monotonic())
        self.line = (f'epoch {(step - 1) // self.per_epoch + 1}/'
                     f'{math.ceil(self.last_step / self.per_epoch)} step {step}/{self.last_step}'
                     f' · d {loss_d:.2f} g {loss_g:.2f} · {self.rate:.0f} img/s')
        self.bar.set_description_str(self.line, refresh=False)
        self.bar.update()
        if seconds > 1:
            self.bar.refresh()      # tqdm alone would wait if the wall clock was set back

    def losses(self, step, loss_d, loss_g, d_real, d_fake):
        """Writes a row of loss.csv, also to TensorBoard, and warns if D has won."""
        self.loss_table.write([
            step, (step - 1) // self.per_epoch + 1, step * self.step_size,
            f'{time.monotonic() - self.start_time:.2f}', f'{loss_d:.6g}', f'{loss_g:.6g}'])
        self._scalars(step, {'loss_d': loss_d, 'loss_g': loss_g, 'D(x)': d_real,
                             'D(G(z))': d_fake})
        if self.bar.disable:
            self._print(self.line)
        self.recent_d_fake.append(float(d_fake))
        mean = np.mean(self.recent_d_fake)
        self._warn('won', not self.critic and len(self.recent_d_fake) == ROWS and mean < D_HAS_WON,
                   f'step {step}: D tells all drawings (takes them for photographs at {mean:.1%}), '
                   'so G learns little; try --recipe best, --g-steps 2 or a smaller --lr-d')

    def quality(self, step, swd, ms_ssim, ms_ssim_photographs):
        """Writes a row of quality.csv, also to TensorBoard, and warns if the run fails."""
        self.quality_table.write([step] + [f'{value:.6g}' for value in (
            swd, ms_ssim, ms_ssim_photographs)])
        self._scalars(step, {'swd': swd, 'ms_ssim': ms_ssim})
        # An untrained G draws the same image for every noise; that is no collapse.
        self.most_varied = min(self.most_varied, ms_ssim)
        self._warn('alike', ms_ssim > max(ms_ssim_photographs, self.most_varied) + ALIKE,
                   f'step {step}: the faces are alike (MS-SSIM {ms_ssim:.2f} between them, '
                   f'{ms_ssim_photographs:.2f} between photographs): G collapses; begin anew with '
                   '--recipe best or a smaller --lr, or go back to a copy of best/')
        self.best = min(self.best or (swd, step), (swd, step))
        self._warn('worse', swd > WORSE * self.best[0],
                   f'step {step}: the faces are worse than at step {self.best[1]} (SWD {swd:.1f} '
                   f'against {self.best[0]:.1f}), whose checkpoint is kept in best/; if that goes '
                   'on, begin anew with --average 0.999 or a smaller --lr')

    def sheet(self, step, images):
        """Writes a sheet, also to TensorBoard. images: float [n, h, w, 3] in [-1, 1]."""
        path = self._sheet_path(step)
        pictures.write(path, pictures.sheet(pictures.to_uint8(images)))
        with open(path, 'rb') as f:
            image = self.tf.Summary.Image(encoded_image_string=f.read(), colorspace=3)
        self.events.add_summary(self.tf.Summary(value=[
            self.tf.Summary.Value(tag='samples', image=image)]), step)
        self._plot()

    def gif(self, sample_every):
        """Writes samples.gif of the run's sheets so far: at most GIF_FRAMES, evenly spaced.

        The last one is shown for two seconds.
        """
        steps = sorted({*range(sample_every, self.last_step, sample_every), self.last_step})
        paths = [path for path in map(self._sheet_path, steps) if os.path.exists(path)]
        if not paths:
            return
        indices = np.linspace(0, len(paths) - 1, min(len(paths), GIF_FRAMES)).astype(int)
        pictures.write_gif(os.path.join(self.folder, GIF),
                           (pictures.read(paths[i]) for i in indices),
                           [200] * (len(indices) - 1) + [2000])

    def close(self):
        """Closes the tables and the events, and plots the curves."""
        self.bar.close()
        self.loss_table.close()
        self.quality_table.close()
        self.events.close()
        self._plot()

    def _plot(self):
        pictures.plot_losses(self.loss_table.path, os.path.join(self.folder, 'loss.png'))
        rows = self.quality_table.read()
        if rows:
            steps, swd, ms_ssim, ms_ssim_photographs = zip(*rows)
            pictures.plot_measures(os.path.join(self.folder, 'quality.png'), steps, {
                'sliced Wasserstein · 10³': (swd, None),
                'MS-SSIM of pairs': (ms_ssim, ms_ssim_photographs[-1])})

    def _sheet_path(self, step):
        return os.path.join(self.folder, f'step_{step:07d}.png')

    def _scalars(self, step, values):
        self.events.add_summary(self.tf.Summary(value=[
            self.tf.Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in values.items()]), step)

    @staticmethod
    def _print(text, stream=None):
        """Prints a line; a reader that is gone, as after `| head`, does not end the run."""
        stream = stream or sys.stdout
        try:
            print(text, file=stream, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def _warn(self, kind, is_failing, sentence):
        """Prints the sentence when a failure begins, not each time that it continues."""
        if is_failing and kind not in self.warned:
            self._print(sentence, sys.stderr)
        (self.warned.add if is_failing else self.warned.discard)(kind)


class _Table:
    """A CSV file with a heading, to which rows are appended.

    rows: the rows of an earlier file up to a step, which are kept.
    """

    def __init__(self, path, columns, step):
        self.path, self.rows = path, self._rows(path, columns, step)
        with atomic_write(path) as partial, open(partial, 'w', newline='') as f:
            csv.writer(f).writerows([columns] + self.rows)
        self.file = open(path, 'a', newline='')      # noqa: SIM115, closed in close

    @staticmethod
    def _rows(path, columns, step):
        try:
            with open(path, newline='') as f:
                return [row for row in list(csv.reader(f))[1:]
                        if len(row) == len(columns) and _are_numbers(row) and float(row[0]) <= step]
        except FileNotFoundError:
            return []

    def write(self, row):
        csv.writer(self.file).writerow(row)
        self.file.flush()

    def read(self):
        """Returns all rows as numbers."""
        with open(self.path, newline='') as f:
            return [[float(value) for value in row] for row in list(csv.reader(f))[1:]]

    def close(self):
        self.file.close()


def _are_numbers(texts):
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False
