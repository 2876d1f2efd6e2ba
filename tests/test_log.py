"""The tables and warnings of a run."""
import csv
import re

import pytest
import tensorflow.compat.v1 as tf

import log
import train


@pytest.fixture
def records(tmp_path):
    made = log.Log(tf, str(tmp_path), 0, 100, 10, 64)
    made.line = ''
    yield made
    made.close()


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_d_that_has_won_is_told_once(records, capsys):
    for step in range(1, 60):
        records.losses(step, 0.4, 8.0, 1.0, 0.01)
    sentence, = lines(capsys)
    assert sentence.startswith('step 20: D tells all drawings (takes them for photographs at 1.0%)')
    for step in range(60, 160):
        records.losses(step, 0.4, 8.0, 1.0, 0.3 if step < 100 else 0.01)
    sentence, = lines(capsys)       # it came back
    assert sentence.startswith('step 1')


def test_a_fair_game_is_not_warned_of(records, capsys):
    for step in range(1, 60):
        records.losses(step, 0.4, 7.0, 0.9, 0.1)
        records.quality(step, 20.0 + step % 7, 0.3, 0.2)
    assert lines(capsys) == []


def test_collapse_is_told(records, capsys):
    for step, ms_ssim in ((1, 1.0), (50, 0.6), (100, 0.25), (200, 0.3), (300, 0.5), (400, 0.5)):
        records.quality(step, 20.0, ms_ssim, 0.2)
    sentence, = lines(capsys)
    assert sentence.startswith('step 300: the faces are alike (MS-SSIM 0.50 between them, 0.20 ')


def test_a_fall_is_told_with_the_best_step(records, capsys):
    for step, swd in ((100, 30.0), (200, 10.0), (300, 15.0), (400, 21.0)):
        records.quality(step, swd, 0.2, 0.2)
    sentence, = lines(capsys)
    assert 'step 400: the faces are worse than at step 200 (SWD 21.0 against 10.0)' in sentence


def test_what_a_warning_says_to_try_is_there():
    with open(log.__file__, encoding='utf-8') as f:
        options = re.findall(r'--[a-z][a-z-]+(?: [\d.]+| best)?', f.read())
    assert {'--recipe best', '--average 0.999'} <= set(options)
    for option in options:
        name, _, value = option.partition(' ')
        train.parse([name, value or '0.00001'])


def test_tables_go_on_after_the_step_of_a_checkpoint(tmp_path, capsys):
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
