"""Tables, warnings and progress of a run."""
import csv
import io
import itertools
import os
import re
import sys
import types

import pytest
import tensorflow.compat.v1 as tf
import tqdm.std

import train
from dcgan import cli, log


@pytest.fixture
def records(tmp_path):
    """The Log of a new run of 100 steps, 10 an epoch."""
    records = log.Log(tf, str(tmp_path), 0, 100, 10, 64)
    records.line = ''
    yield records
    records.close()


def lines(capsys):
    """The lines printed on standard error."""
    return capsys.readouterr().err.splitlines()


def test_a_d_that_always_wins_is_warned_of_once(records, capsys):
    for step in range(1, 60):
        records.losses(step, 0.4, 8.0, 1.0, 0.01)
    sentence, = lines(capsys)
    assert sentence.startswith('step 20: D tells all drawings (takes them for photographs at 1.0%)')
    for step in range(60, 160):
        records.losses(step, 0.4, 8.0, 1.0, 0.3 if step < 100 else 0.01)
    sentence, = lines(capsys)       # D wins again
    assert sentence.startswith('step 1')


def test_outputs_of_a_critic_are_not_taken_for_probabilities(tmp_path, capsys):
    records = log.Log(tf, str(tmp_path), 0, 100, 10, 64, critic=True)
    records.line = ''
    for step in range(1, 60):
        records.losses(step, -3.0, 5.0, -2.0, -5.0)
    records.close()
    assert lines(capsys) == []


def test_balanced_training_gives_no_warning(records, capsys):
    for step in range(1, 60):
        records.losses(step, 0.4, 7.0, 0.9, 0.1)
        records.quality(step, 20.0 + step % 7, 0.3, 0.2)
    assert lines(capsys) == []


def test_mode_collapse_is_warned_of(records, capsys):
    for step, ms_ssim in ((1, 1.0), (50, 0.6), (100, 0.25), (200, 0.3), (300, 0.5), (400, 0.5)):
        records.quality(step, 20.0, ms_ssim, 0.2)
    sentence, = lines(capsys)
    assert sentence.startswith('step 300: the faces are alike (MS-SSIM 0.50 between them, 0.20 ')


def test_a_worse_swd_is_warned_of_with_the_best_step(records, capsys):
    for step, swd in ((100, 30.0), (200, 10.0), (300, 15.0), (400, 21.0)):
        records.quality(step, swd, 0.2, 0.2)
    sentence, = lines(capsys)
    assert 'step 400: the faces are worse than at step 200 (SWD 21.0 against 10.0)' in sentence


def test_options_named_in_warnings_exist():
    with open(log.__file__, encoding='utf-8') as f:
        options = re.findall(r'--[a-z][a-z-]+(?: [\d.]+| best)?', f.read())
    assert {'--recipe best', '--average 0.999'} <= set(options)
    for option in options:
        name, _, value = option.partition(' ')
        train.parse([name, value or '0.00001'])


def test_invalid_rows_of_tables_are_dropped(tmp_path):
    (tmp_path / 'loss.csv').write_text(
        'step,epoch,images,seconds,d_loss,g_loss\n10,1,640,3.5,1.2,0.8\n,,,,,\n'
        '20,1,1280,x,1.2,0.8\n30,1,1920,9.5,1.1\n40,1,2560,12.5,nan,1\n')
    (tmp_path / 'quality.csv').write_text('step,swd,ms_ssim,ms_ssim_photographs\n10,?,0.3,0.2\n')
    records = log.Log(tf, str(tmp_path), 50, 100, 10, 64)
    assert records.loss_table.rows == [['10', '1', '640', '3.5', '1.2', '0.8']]
    assert records.best is None
    records.close()


def test_another_runs_records_are_moved_aside(tmp_path):
    files = ['loss.csv', 'quality.png', 'run', 'samples.gif', 'step_0000200.png']
    for run in ('a', 'a', 'b'):
        log.begin(str(tmp_path), run)
        for name in files:
            if name != 'run':
                (tmp_path / name).write_text(run)
    (tmp_path / 'notes').write_text('')
    assert sorted(os.listdir(str(tmp_path))) == ['earlier-1', *files[:1], 'notes', *files[1:]]
    assert sorted(os.listdir(str(tmp_path / 'earlier-1'))) == files
    assert (tmp_path / 'earlier-1' / 'run').read_text() == 'a'


def test_tables_continue_after_the_step_of_the_checkpoint(tmp_path, capsys):
    first = log.Log(tf, str(tmp_path), 0, 100, 10, 64)
    first.line = ''
    for step in (10, 20, 30):
        first.losses(step, 1.0, 1.0, 0.5, 0.5)
        first.quality(step, float(step), 0.2, 0.2)
    first.close()
    second = log.Log(tf, str(tmp_path), 20, 100, 10, 64)
    assert second.best == (10.0, 10)
    second.close()
    for name in ('loss.csv', 'quality.csv'):
        with open(str(tmp_path / name), newline='') as f:
            assert [row['step'] for row in csv.DictReader(f)] == ['10', '20']


@pytest.fixture
def clock(monkeypatch):
    """The clocks that log and cli read; clock.pass_(seconds) moves them on."""
    clock = types.SimpleNamespace(wall=1e9, monotonic_=50.0)

    def pass_(seconds, set_back=0):
        clock.monotonic_ += seconds
        clock.wall += seconds - set_back

    clock.pass_ = pass_
    for module in (log, cli):
        monkeypatch.setattr(module, 'time', types.SimpleNamespace(
            time=lambda: clock.wall, monotonic=lambda: clock.monotonic_))
    monkeypatch.setattr(tqdm.std, 'time', lambda: clock.wall)
    return clock


def test_a_clock_that_is_set_back_does_not_change_the_seconds(clock, tmp_path):
    records = log.Log(tf, str(tmp_path), 0, 100, 10, 64)
    for step in range(1, 4):
        clock.pass_(2, set_back=3600 if step == 2 else 0)
        records.status(step, 1.0, 1.0)
        assert records.line.endswith('32 img/s')
        records.losses(step, 1.0, 1.0, 0.5, 0.5)
    records.close()
    clock.pass_(1000, set_back=-1e6)        # the time until it is resumed does not count
    records = log.Log(tf, str(tmp_path), 3, 100, 10, 64)
    clock.pass_(2)
    records.status(4, 1.0, 1.0)
    records.losses(4, 1.0, 1.0, 0.5, 0.5)
    records.close()
    with open(str(tmp_path / 'loss.csv'), newline='') as f:
        assert [row['seconds'] for row in csv.DictReader(f)] == ['2.00', '4.00', '6.00', '8.00']


def test_a_clock_that_is_set_back_does_not_stop_progress_lines(clock, capsys):
    with cli.Progress(10, 'images') as progress:
        for number in range(10):
            clock.pass_(6, set_back=3600 if number == 3 else 0)
            progress.update(1)
    assert lines(capsys) == [f'{done} of 10 images' for done in (2, 4, 6, 8, 10)]


@pytest.mark.parametrize('kind', ['progress', 'status'])
def test_a_clock_that_is_set_back_does_not_stop_a_progress_bar(clock, tmp_path, monkeypatch, kind):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, 'stderr', Terminal())
    if kind == 'progress':
        pattern, update = r'(\d+)/100 ', cli.Progress(100, 'images').update
    else:
        records = log.Log(tf, str(tmp_path), 0, 100, 10, 64)
        pattern, steps = r'step (\d+)/100 ', itertools.count(1)

        def update(_):
            records.status(next(steps), 1.0, 1.0)
    for number in range(40):
        clock.pass_(1, set_back=3600 if number == 20 else 0)
        update(1)
    shown = list(map(int, re.findall(pattern, sys.stderr.getvalue())))
    assert max(b - a for a, b in zip(shown, shown[1:])) <= 12 and shown[-1] > 28
