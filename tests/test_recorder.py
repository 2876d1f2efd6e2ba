"""Sheets and metrics are computed in the background, are complete, and end a run if they fail."""
import threading

import pytest

from conftest import costly
from dcgan import checkpoint, log
from running import rows, run_here

RUN = ['--max-steps', 4, '--sample-every', 1, '--save-every', 2]


@costly
def test_sheets_and_metrics_run_outside_the_training_thread(toy, tmp_path, monkeypatch):
    threads = []

    def recording_thread(method):
        def recorded(*args, **options):
            threads.append(threading.current_thread())
            method(*args, **options)
        return recorded

    for name in ('sheet', 'quality'):
        monkeypatch.setattr(log.Log, name, recording_thread(getattr(log.Log, name)))
    run_here('train.py', *toy, *RUN, cwd=tmp_path)
    assert len(threads) == 4 + 2 and threading.main_thread() not in threads
    assert [row['step'] for row in rows(tmp_path / 'samples' / 'dcgan_toy' / 'quality.csv')] == [
        '2', '4']


@costly
def test_records_are_complete_before_the_next_checkpoint(toy, tmp_path, monkeypatch):
    """A kill after a checkpoint must not lose the sheets and metrics of earlier steps."""
    samples, saves = tmp_path / 'samples' / 'dcgan_toy', []
    never_set = threading.Event()

    def sheet(self, step, images, inner=log.Log.sheet):
        never_set.wait(1)
        inner(self, step, images)

    def save(session, saver, folder, name, step, *args, inner=checkpoint.save):
        saves.append((step, sorted(path.name for path in samples.glob('step_*'))))
        return inner(session, saver, folder, name, step, *args)

    monkeypatch.setattr(log.Log, 'sheet', sheet)
    monkeypatch.setattr(checkpoint, 'save', save)
    run_here('train.py', *toy, *RUN, cwd=tmp_path)
    sheets = [f'step_{step:07d}.png' for step in range(1, 5)]
    assert saves == [(2, sheets[:2]), (4, sheets)]


@costly
@pytest.mark.parametrize('name', ['sheet', 'quality'])
def test_an_error_in_the_background_ends_the_run(toy, tmp_path, monkeypatch, name):
    def failing(self, step, *args, **options):
        if step >= 3:
            raise OSError(28, 'No space left on device', f'{name}.file')
    monkeypatch.setattr(log.Log, name, failing)
    _, err = run_here('train.py', *toy, *RUN, cwd=tmp_path, code=2)
    assert err.endswith(f'error: {name}.file: No space left on device\n')
    checkpoint.verify(checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy')[-1][1])
