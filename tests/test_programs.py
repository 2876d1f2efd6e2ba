"""train.py and generate.py as a user runs them, on the toy set."""
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import numpy as np
import pytest
import requests
import tensorflow.compat.v1 as tf
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

import generate
import models
import recording
import train
from conftest import ROOT, costly, has_bfloat16
from dcgan import checkpoint, recorder, session, settings
from running import (
    TINY,
    TOY,
    pixels,
    refused,
    refused_here,
    rows,
    run,
    run_here,
    started,
    steps_of,
    tensors,
    without_tensorflow,
)


def test_a_run_saves_checkpoints_tables_and_sheets(home):
    samples = home / 'samples' / 'dcgan_toy'
    assert sorted(os.listdir(str(home / 'model'))) == ['best', 'checkpoint'] + [
        f'dcgan_toy-{step}.{ending}' for step in (4, 6)
        for ending in ('data-00000-of-00001', 'index', 'json')]
    assert sorted(os.listdir(str(samples))) == [
        'events', 'loss.csv', 'loss.png', 'quality.csv', 'quality.png', 'run', 'samples.gif',
        'step_0000003.png', 'step_0000006.png']
    measured = rows(samples / 'quality.csv')
    assert [row['step'] for row in measured] == ['2', '4', '6']
    assert all(float(row['swd']) > 0 and 0 < float(row['ms_ssim']) < 1 for row in measured)
    best = min(measured, key=lambda row: float(row['swd']))['step']
    assert checkpoint.checkpoints_of(str(home / 'model' / 'best'), 'dcgan_toy') == [
        (int(best), str(home / 'model' / 'best' / f'dcgan_toy-{best}'))]
    table = rows(samples / 'loss.csv')
    assert list(table[0]) == ['step', 'epoch', 'images', 'seconds', 'd_loss', 'g_loss']
    assert [(r['step'], r['epoch'], r['images']) for r in table] == [
        ('2', '1', '32'), ('4', '1', '64'), ('6', '1', '96')]
    assert all(float(r['d_loss']) > 0 and float(r['g_loss']) > 0 for r in table)
    with Image.open(str(samples / 'step_0000006.png')) as sheet:
        assert sheet.size == (8 * 32, 8 * 32)
    with Image.open(str(samples / 'samples.gif')) as gif:
        assert gif.n_frames == 2
    details = json.loads((home / 'model' / 'dcgan_toy-6.json').read_text())
    assert details['settings'] == dict(settings.DEFAULTS, dataset='toy', image_size=32, crop=0,
                                       batch_size=16, augment=['flip'])
    assert (details['step'], details['images'], details['data']['photographs']) == (6, 96, 4000)


def test_tensorboard_reads_the_events(home):
    accumulator = event_accumulator.EventAccumulator(
        str(home / 'samples' / 'dcgan_toy' / 'events'))
    accumulator.Reload()
    assert sorted(accumulator.Tags()['scalars']) == ['D(G(z))', 'D(x)', 'loss_d', 'loss_g',
                                                     'ms_ssim', 'swd']
    assert [event.step for event in accumulator.Scalars('loss_d')] == [2, 4, 6]
    assert [event.step for event in accumulator.Images('samples')] == [3, 6]


@pytest.fixture
def tensorboard():
    """The command, as pip installed it beside this Python."""
    return os.path.join(sysconfig.get_path('scripts'), 'tensorboard')


def test_the_command_tensorboard_inspects_a_run(tensorboard, home):
    out = subprocess.check_output([tensorboard, '--inspect', '--logdir', str(home / 'samples')],
                                  stderr=subprocess.STDOUT, timeout=120, text=True)
    assert 'loss_d' in out and 'samples' in out


def test_the_command_tensorboard_serves_a_run(tensorboard, home):
    process = subprocess.Popen([tensorboard, '--logdir', str(home / 'samples'), '--host',
                                '127.0.0.1', '--port', '0'], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        out = ''
        while ' at http' not in out:
            line = process.stdout.readline()
            assert line, out            # it has ended
            out += line
        address = re.search(r'http://127\.0\.0\.1:\d+/', out)[0]
        for _ in range(120):            # it reads the events while it serves
            tags = requests.get(f'{address}data/plugin/scalars/tags', timeout=10).json()
            if tags:
                break
            time.sleep(0.5)
        run, = tags.values()
        assert {'loss_d', 'loss_g', 'swd', 'ms_ssim'} <= set(run)
        assert requests.get(address, timeout=10).text.startswith('<!doctype html>')
    finally:
        process.kill()
        process.wait()


def test_a_resumed_run_equals_an_uninterrupted_one(home, toy, tmp_path):
    for steps in (2, 6):
        out, _ = run('train.py', *toy, '--max-steps', steps, '--log-every', 1, '--augment', 'flip',
                     '--resume', cwd=tmp_path)
    assert 'steps            2 done of 6' in out
    actual, expected = (tensors(folder / 'model' / 'dcgan_toy-6') for folder in (tmp_path, home))
    for name, value in expected.items():
        # Often equal to the bit. But threads may add in another order, and where a gradient is only
        # rounding, Adam turns it into steps.
        if not recording.NOISE.match(name):
            assert np.abs(actual[name] - value).mean() <= 0.01 * np.abs(value).mean(), name
    table, expected_table = (rows(folder / 'samples' / 'dcgan_toy' / 'loss.csv')
                             for folder in (tmp_path, home))
    assert [r['step'] for r in table] == ['1', '2', '3', '4', '5', '6']
    seconds = [float(r['seconds']) for r in table]
    assert seconds == sorted(seconds)
    for row, expected_row in zip(table[1::2], expected_table):
        # Another batch or other noise would change the first digit.
        assert float(row['d_loss']) == pytest.approx(float(expected_row['d_loss']), rel=1e-2)
        assert float(row['g_loss']) == pytest.approx(float(expected_row['g_loss']), rel=1e-2)
    # Without options the saved settings count; finished steps are not repeated.
    out, _ = run('train.py', '--dataset', 'toy', '--resume', '--data-dir', home / 'datasets',
                 cwd=tmp_path)
    assert 'image_size       32' in out and '6 done of 6\nnothing left to do' in out


def test_rows_after_the_checkpoint_are_dropped_on_resume(home, toy, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    shutil.copytree(str(home / 'samples'), str(tmp_path / 'samples'))
    for ending in ('.index', '.json', '.data-00000-of-00001'):
        os.remove(str(tmp_path / 'model' / ('dcgan_toy-6' + ending)))
    run('train.py', *toy, '--max-steps', 8, '--log-every', 2, '--resume', cwd=tmp_path)
    table = rows(tmp_path / 'samples' / 'dcgan_toy' / 'loss.csv')
    assert [r['step'] for r in table] == ['2', '4', '6', '8']


def test_max_to_keep_keeps_the_newest_on_resume(home, toy, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    run('train.py', *toy, '--max-steps', 8, '--max-to-keep', 1, '--resume', cwd=tmp_path)
    assert steps_of(tmp_path / 'model') == [8]


@pytest.mark.skipif(not has_bfloat16(), reason='no bfloat16 on this processor')
def test_resume_keeps_fused_step_and_bfloat16(toy, tmp_path):
    fast = [*toy, '--log-every', 1, '--g-steps', 2]
    out, _ = run('train.py', *fast, '--max-steps', 2, '--fused-step', '--precision', 'bfloat16',
                 cwd=tmp_path)
    assert 'computes in      bfloat16: as asked' in out
    out, _ = run('train.py', *fast, '--max-steps', 4, '--resume', cwd=tmp_path)
    assert 'fused_step       True' in out and 'computes in      bfloat16: as asked' in out
    table = rows(tmp_path / 'samples' / 'dcgan_toy' / 'loss.csv')
    assert [r['step'] for r in table] == ['1', '2', '3', '4']
    message = refused_here('train.py', '--dataset', 'toy', '--resume', '--precision', 'float32',
                           cwd=tmp_path)
    assert '--precision float32: ' in message and 'trained with --precision bfloat16' in message


@costly
def test_generate_draws_with_the_ema_unless_raw(toy, tmp_path):
    for folder, steps in (('model', 2), ('model', 4), ('at-once', 4)):
        run('train.py', *toy, '--max-steps', steps, '--average', 0.9, '--log-every', 1,
            '--resume', '--model-dir', folder, '--samples-dir', folder, cwd=tmp_path)
    prefix = str(tmp_path / 'model' / 'dcgan_toy-4')
    resumed, at_once = (tensors(tmp_path / folder / 'dcgan_toy-4')
                        for folder in ('model', 'at-once'))
    assert len(at_once) == 99 + 22
    for name, value in at_once.items():
        # Often equal to the bit. A decay that begins again makes 2e-5. The mean is compared,
        # because rounding in threads can change a single number by more.
        if name.endswith('kernel' + checkpoint.EMA_SUFFIX):
            assert np.abs(resumed[name] - value).mean() < 2e-6, name
    drawn = {}
    for out, raw in (('averaged', []), ('raw', ['--raw'])):
        text, _ = run_here('generate.py', '--ckpt', prefix, '--out', out, '--num', 4, *raw,
                           '--save-generator', os.path.join(out, 'dcgan'), cwd=tmp_path)
        assert ('averaged weights' in text) == (not raw)
        name = 'faces_seed0' + raw[0].replace('--', '_') if raw else 'faces_seed0'
        drawn[out] = pixels(tmp_path / out / f'{name}.png').astype(int)
    assert np.abs(drawn['averaged'] - drawn['raw']).max() > 0
    # The saved generator has the plain names and draws the same.
    again, _ = run_here('generate.py', '--ckpt', os.path.join('averaged', 'dcgan'), '--out',
                        'again', '--num', 4, cwd=tmp_path)
    assert 'averaged weights' in again
    assert (pixels(tmp_path / 'again' / 'faces_seed0.png') == drawn['averaged']).all()
    assert 'dcgan: holds averaged weights alone, --raw has none to draw with' in refused_here(
        'generate.py', '--ckpt', os.path.join('averaged', 'dcgan'), '--raw', cwd=tmp_path)


@pytest.mark.parametrize('option, value, saved', [
    ('--batch-size', '8', '16'), ('--lr', '0.001', '0.0002'), ('--augment', '', 'flip'),
    ('--image-size', '64', '32'), ('--seed', '1', '0'), ('--crop', '100', '0'),
    ('--g-steps', '2', '1'), ('--beta1', '0.9', '0.5'), ('--z-dim', '64', '100'),
    ('--average', '0.9', '0.0'), ('--init', 'normal', 'glorot'),
])
def test_a_changed_setting_is_named_on_resume(home, option, value, saved):
    message = refused_here('train.py', '--dataset', 'toy', '--resume', option, value, cwd=home)
    assert f'{option} {value or "none"}: ' in message
    assert f'was trained with {option} {saved}' in message


@pytest.mark.parametrize('options, message', [
    (['--lr-d', '0.1'], '--lr-d 0.1: model/dcgan_toy-6 was trained without it'),
    (['--fused-step'], '--fused-step: model/dcgan_toy-6 was trained without it'),
    (['--plain-convolutions'], '--plain-convolutions: model/dcgan_toy-6 was trained without it'),
    (['--recipe', 'best'], '--recipe best, --average 0.999: model/dcgan_toy-6 was trained with '
                           '--average 0.0')])
def test_an_added_setting_is_named_on_resume(home, options, message):
    assert message in refused_here('train.py', '--dataset', 'toy', '--resume', *options, cwd=home)


@pytest.mark.parametrize('options, message', [
    (['--loss', 'wgan', '--smooth', '0.1'], '--smooth 0.1: does not apply to --loss wgan: a'),
    (['--loss', 'wgan', '--beta1', '0.9'], '--beta1, --beta2: rmsprop has none'),
    (['--loss', 'wgan-gp', '--norm-d', 'batch'], '--gradient-penalty 10.0: goes with --norm-d'),
    (['--loss', 'wgan-gp', '--norm-d', 'scaled'], '--gradient-penalty 10.0: goes with --norm-d'),
    (['--condition', 'maps'], '--condition maps: goes with --attributes'),
    (['--augment-crop', '2'], '--augment-crop 2: goes with --augment crop'),
    (['--loss', 'wgan', '--recipe', 'best'], '--clip 0.01: goes without --spectral-norm'),
    (['--sync-batch-norm'], '--sync-batch-norm: goes with --cluster')])
def test_conflicting_options_are_refused(tmp_path, options, message):
    assert message in refused_here('train.py', *TOY, *options, '--dry-run', cwd=tmp_path)


@pytest.mark.parametrize('loss', settings.LOSSES)
def test_losses_set_the_options_that_the_docs_list(tmp_path, loss):
    with open(os.path.join(ROOT, 'docs', 'options.md'), encoding='utf-8') as f:
        row, = re.findall(rf'^\| `{loss}` \|.*\| `(--.*)` \|$', f.read(), re.MULTILINE)
    documented = {key: value for key, value in vars(train.parse(shlex.split(row))).items()
                  if key in settings.DEFAULTS and key != 'workers' and value is not None}
    assert set(documented) >= set(settings.LOSSES[loss]) and len(documented) >= 4
    out, _ = run_here('train.py', *TOY, '--loss', loss, '--dry-run', cwd=tmp_path)
    printed = dict(line.split(None, 1) for line in out.splitlines() if ' ' in line)
    assert {key: printed[key] for key in documented} == {
        key: str(value) for key, value in documented.items()}
    out, _ = run_here('train.py', *TOY, '--loss', loss, '--lr', 0.5, '--dry-run', cwd=tmp_path)
    assert 'lr               0.5\n' in out


@costly
def test_a_critic_is_trained_on_five_batches_a_step(toy, tmp_path):
    out, err = run('train.py', *toy, '--loss', 'wgan-gp', '--max-steps', 1, cwd=tmp_path)
    assert 'photographs      4,000 of toy: 50 steps an epoch\n' in out and not err
    details = json.loads((tmp_path / 'model' / 'dcgan_toy-1.json').read_text())
    assert (details['images'], details['settings']['loss']) == (5 * 16, 'wgan-gp')


def test_resume_finds_the_only_run(home, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    out, _ = run_here('train.py', '--resume', '--dry-run', cwd=tmp_path)
    assert 'dataset          toy' in out and 'steps            6 done of 6' in out
    (tmp_path / 'model' / 'dcgan_toy-6.json').write_text('{"settings": ')
    out, _ = run_here('train.py', '--resume', '--dry-run', cwd=tmp_path)
    assert 'dataset          toy' in out and 'steps            4 done of 6' in out
    for ending in ('.index', '.data-00000-of-00001'):
        shutil.copy(str(tmp_path / 'model' / f'dcgan_toy-6{ending}'),
                    str(tmp_path / 'model' / f'dcgan_mine-6{ending}'))
    message = refused_here('train.py', '--resume', '--dry-run', cwd=tmp_path)
    assert 'model holds more than one run, dcgan_mine, dcgan_toy; --dataset says which' in message
    run_here('train.py', '--resume', '--dry-run', '--dataset', 'toy', cwd=tmp_path)


@pytest.mark.parametrize('text, names', [
    ('none', []), ('', []), (' flip , crop,flip', ['flip', 'crop'])])
def test_lists_are_parsed_as_they_are_printed(text, names):
    assert train.parse([f'--augment={text} ']).augment == names


def test_a_recipe_sets_several_settings(tmp_path):
    out, _ = run_here('train.py', '--dataset', 'toy', '--recipe', 'best', '--average', 0.5,
                      '--dry-run', cwd=tmp_path)
    printed = dict(line.split(None, 1) for line in out.splitlines() if ' ' in line)
    for name, value in dict(settings.RECIPES['best'], average=0.5).items():
        assert printed[name] == str(settings.format_setting(value))


def test_a_new_run_does_not_overwrite_an_old_one(home):
    message = refused('train.py', *TOY, '--max-steps', 6, cwd=home)
    assert 'dcgan_toy-6 is there already' in message and '--resume' in message


@costly
def test_a_run_from_the_best_checkpoint_keeps_the_old_records(home, toy, tmp_path):
    shutil.copytree(str(home), str(tmp_path / 'home'))
    here = tmp_path / 'home'
    shutil.copytree(str(here / 'model' / 'best'), str(here / 'other'))
    out, _ = run('train.py', *toy, '--max-steps', 7, '--log-every', 1, '--resume', '--model-dir',
                 'other', cwd=here)
    earlier = here / 'samples' / 'dcgan_toy' / 'earlier-1'
    assert f'are now in {os.path.join("samples", "dcgan_toy", "earlier-1")}' in out
    assert [row['step'] for row in rows(earlier / 'loss.csv')] == ['2', '4', '6']
    assert (earlier / 'samples.gif').exists()


@costly
def test_a_folder_with_only_the_best_checkpoint_is_refused(home, toy, tmp_path):
    shutil.copytree(str(home / 'model' / 'best'), str(tmp_path / 'model' / 'best'))
    for resume in ([], ['--resume']):
        message = refused_here('train.py', *TOY, '--max-steps', 6, *resume, cwd=tmp_path)
        assert 'is all that is left of a run: a copy of it in another --model-dir' in message
    shutil.copytree(str(tmp_path / 'model' / 'best'), str(tmp_path / 'other'))
    out, _ = run('train.py', *toy, '--max-steps', 8, '--resume', '--model-dir', 'other',
                 cwd=tmp_path)
    assert 'step 8/8' in out


@pytest.mark.parametrize('variable, what', [
    ('generator/g/bias:', 'the loss is'), ('generator/BatchNorm/moving_mean:', 'its images are')])
def test_a_diverged_run_is_not_saved(home, toy, tmp_path, variable, what):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    prefix = str(tmp_path / 'model' / 'dcgan_toy-6')
    with tf.Graph().as_default(), tf.Session() as sess:
        for name, shape in tf.train.NewCheckpointReader(prefix).get_variable_to_shape_map().items():
            tf.get_variable(name, shape)
        saver = tf.train.Saver()
        saver.restore(sess, prefix)
        sess.run([v.assign(v * float('nan')) for v in tf.global_variables(variable)])
        saver.save(sess, prefix, write_meta_graph=False)
    _, err = run('train.py', *toy, '--max-steps', 7, '--resume', cwd=tmp_path, code=2)
    kept = os.path.join('model', 'dcgan_toy-6')
    assert f'step 7: {what} no longer finite; {kept} is kept, begin anew with ' in err
    assert steps_of(tmp_path / 'model') == [4, 6]


def test_values_that_are_not_finite_end_a_run(capsys):
    recorder.check_finite(np.ones(3), 'the loss is', 1, None)
    with pytest.raises(SystemExit) as stop:
        recorder.check_finite(np.array([1, np.inf]), 'the loss is', 1, None)
    assert stop.value.code == 2
    assert 'step 1: the loss is no longer finite; begin anew with ' in capsys.readouterr().err


def test_a_checkpoint_without_metadata_is_not_used(home, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    resume = ['--dataset', 'toy', '--resume', '--dry-run']
    (tmp_path / 'model' / 'dcgan_toy-6.json').unlink()
    out, err = run_here('train.py', *resume, cwd=tmp_path)
    assert err == f'{os.path.join("model", "dcgan_toy-6")}.json is missing: it is not used\n'
    assert 'steps            4 done of 6' in out
    (tmp_path / 'model' / 'dcgan_toy-4.json').unlink()      # as by the original program
    out, err = run_here('train.py', *resume, cwd=tmp_path)
    assert 'dcgan_toy-6: has no metadata, so the run goes on with the options given' in err
    assert 'image_size       64' in out


def test_the_folder_of_the_best_is_refused_as_model_dir(home):
    best = os.path.join('model', 'best')
    message = refused_here('train.py', '--dataset', 'toy', '--resume', '--model-dir', best,
                           cwd=home)
    assert f'--model-dir {best}: the run in ' in message and 'a copy of it elsewhere' in message


def test_out_of_memory_names_the_options(capsys):
    with pytest.raises(SystemExit) as stop, session.explained_memory_errors(64, 64):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating\ntrace')
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        'error: --batch-size 64, --image-size 64: OOM when allocating\n')


@costly
def test_runs_do_not_mix_their_records(home, tmp_path):
    shutil.copytree(str(home), str(tmp_path / 'home'))
    home, samples = tmp_path / 'home', tmp_path / 'home' / 'samples' / 'dcgan_toy'
    out, _ = run('train.py', *TOY, '--max-steps', 2, '--seed', 1, '--model-dir', 'other',
                 '--log-every', 1, cwd=home)
    assert f'are now in {os.path.join("samples", "dcgan_toy", "earlier-1")}' in out
    assert (samples / 'earlier-1' / 'step_0000003.png').exists()
    assert not (samples / 'step_0000003.png').exists()
    out, _ = run('train.py', '--dataset', 'toy', '--resume', '--max-steps', 7, '--log-every', 1,
                 cwd=home)
    assert os.path.join('dcgan_toy', 'earlier-2') in out
    steps = {place: [row['step'] for row in rows(samples / place / 'loss.csv')]
             for place in ('earlier-1', 'earlier-2', '.')}
    assert steps == {'earlier-1': ['2', '4', '6'], 'earlier-2': ['1', '2'], '.': ['7']}


def test_missing_lfw_is_downloaded(tmp_path, monkeypatch, capsys):
    commands = []

    def fetch(command):
        commands.append(command)
        folder = tmp_path / 'lfw' / 'A_B'
        folder.mkdir(parents=True)
        Image.new('RGB', (250, 250)).save(str(folder / 'A_B_0001.jpg'))
        return 0
    monkeypatch.setattr(train.subprocess, 'call', fetch)
    source = train.find_photographs(train.parse(['--dataset', 'lfw', '--data-dir', str(tmp_path)]))
    assert source.names == ['A_B/A_B_0001.jpg']
    assert commands == [[sys.executable, os.path.join(ROOT, 'download_lfw.py'), '--data-dir',
                         str(tmp_path)]]
    assert 'holds 1 of the 13,233 photographs' in capsys.readouterr().out
    monkeypatch.setattr(train.subprocess, 'call', lambda command: 130)
    with pytest.raises(SystemExit) as stop:
        train.main(['--data-dir', str(tmp_path / 'none')])      # lfw is the default
    assert stop.value.code == 130


def test_a_checkpoint_of_another_size_is_named_on_resume(home, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    for step in (4, 6):
        os.remove(str(tmp_path / 'model' / f'dcgan_toy-{step}.json'))
    _, err = run('train.py', '--dataset', 'toy', '--resume', cwd=tmp_path, code=2)
    assert 'dcgan_toy-6: is of another network' in err.splitlines()[-1]
    assert '[100, 2048] there, [100, 8192] here' in err.splitlines()[-1]


@pytest.mark.parametrize('number, code', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_ends(toy, tmp_path, number, code):
    with started('train.py', *toy, '--log-every', 1, cwd=tmp_path) as process:
        for line in process.stdout:
            if 'step 2/' in line:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    name, = (name[:-len('.index')] for name in os.listdir(str(tmp_path / 'model'))
             if name.endswith('.index'))
    step = int(name.split('-')[1])
    assert f'stopped at step {step} and saved {os.path.join("model", name)}' in err
    assert step == int(rows(tmp_path / 'samples' / 'dcgan_toy' / 'loss.csv')[-1]['step'])


@costly
def test_closing_the_terminal_saves_and_ends(toy, tmp_path):
    child, terminal = pty.fork()
    if not child:
        os.chdir(str(tmp_path))
        os.execv(sys.executable, [sys.executable, os.path.join(ROOT, 'train.py'),
                                  *map(str, toy), '--max-steps', '100000', '--save-every', '2'])
    deadline = time.monotonic() + 200
    while not checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy'):
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)
    os.close(terminal)      # from now on writing to it fails
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 129
    checkpoint.verify(checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy')[-1][1])


@costly
def test_ignored_hangup_stays_ignored_and_a_scheduler_s_signal_saves(toy, tmp_path):
    command = ['train.py', *toy, '--log-every', 1, '--max-steps', 100000]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)      # as nohup does
    with started(*command, cwd=tmp_path) as process:
        signal.signal(signal.SIGHUP, before)
        step_lines = (line for line in process.stdout if 'step ' in line)
        next(step_lines)
        process.send_signal(signal.SIGHUP)
        next(step_lines)
        process.send_signal(signal.SIGUSR1)
        while not checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy'):
            next(step_lines)
        next(step_lines)            # the run continues
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert len(checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy')) == 2


@costly
def test_a_scheduler_s_signal_before_the_first_step_does_not_end_the_run(toy, tmp_path):
    with started('train.py', *toy, '--max-steps', 1, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('checkpoints'):
                break
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=120)
    assert process.returncode == 0


def test_a_dry_run_only_prints(tmp_path):
    out = without_tensorflow('train.py', '--dataset', 'toy', '--epochs', 3, '--dry-run',
                             cwd=tmp_path)
    assert '4,000 of toy: 62 steps an epoch' in out and '0 done of 186' in out
    assert 'batch_size       64' in out
    assert os.listdir(str(tmp_path)) == []


def test_the_sheet_of_a_dry_run_shows_augmented_images(toy, tmp_path):
    for options in ([], ['--augment', 'crop,rotate,color', '--augment-rotate', 30]):
        out, _ = run_here('train.py', *toy, '--dry-run', *options, '--sheet',
                          'changed.png' if options else 'plain.png', cwd=tmp_path)
    assert out.splitlines()[-1] == 'changed.png'
    plain, changed = (pixels(tmp_path / f'{name}.png').astype(int) for name in ('plain', 'changed'))
    assert plain.shape == changed.shape == (4 * 32, 4 * 32, 3)
    assert np.abs(plain - changed).mean() > 5


@pytest.mark.parametrize('arguments, message', [
    (['--dataset', 'toy', '--sheet', 'a.png'], '--sheet goes with --dry-run'),
    (['--dataset', 'nowhere'], '--dataset nowhere: neither lfw, celeba, toy nor a folder'),
    (['--dataset', 'toy', '--image-size', '50'], 'argument --image-size: invalid choice'),
    (['--dataset', 'toy', '--batch-size', '0'], 'argument --batch-size: 0 is not from 1 to'),
    ([*TOY, '--batch-size', '5000'], 'too few: at least 5000 are needed'),
    (['--dataset', 'toy', '--lr', 'fast'], 'argument --lr: invalid number value'),
    (['--dataset', 'toy', '--augment', 'flip,spin'], 'argument --augment: spin is none of flip'),
    (['--dataset', 'toy', '--samples-dir', 'file'], 'file: File exists'),
    (['--dataset', 'toy', '--model-dir', 'file'], 'file: File exists'),
    (['--dataset', 'toy', '--model-dir', 'a[b]'], 'a[b]: TensorFlow takes *, ? and ['),
    (['--dataset', 'toy', '--device', 'tpu'], 'argument --device: tpu is neither cpu nor gpu:N'),
    ([*TOY, '--device', 'gpu:77'], '--device gpu:77: '),
    (['--dataset', 'toy', '--augment', 'flip', '--augment-rotate', '30'],
     '--augment-rotate 30.0: goes with --augment rotate'),
    (['--whatever'], 'unrecognized arguments: --whatever'),
])
def test_train_refuses_invalid_options(home, tmp_path, arguments, message):
    (tmp_path / 'file').write_text('')
    # --device hides GPUs from TensorFlow for the rest of a process.
    out, err = (run if 'gpu:77' in arguments else run_here)(
        'train.py', *arguments, '--data-dir', home / 'datasets', cwd=tmp_path, code=2)
    errors = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and message in errors[0]
    assert 'Traceback' not in err


def test_missing_celeba_is_explained(tmp_path):
    _, err = run_here('train.py', '--dataset', 'celeba', cwd=tmp_path, code=2)
    assert 'img_align_celeba.zip' in err and os.path.join('datasets', 'celeba') in err


def test_image_sizes_are_those_of_the_models():
    for size in models.IMAGE_SIZES:
        assert train.parse(['--image-size', str(size)]).image_size == size


# generate.py

def test_the_same_seed_draws_the_same_sheet(home, tmp_path):
    for out, draw in (('a', run_here), ('b', run)):
        text, _ = draw('generate.py', '--ckpt', home / 'model', '--out', out, '--num', 7,
                       '--seed', 3, cwd=tmp_path)
    assert 'dcgan_toy-6: 32x32, trained on 4,000 photographs of toy for 6 steps' in text
    assert (tmp_path / 'a' / 'faces_seed3.png').read_bytes() == (
        tmp_path / 'b' / 'faces_seed3.png').read_bytes()
    sheet = pixels(tmp_path / 'a' / 'faces_seed3.png')
    assert sheet.shape == (3 * 32, 3 * 32, 3)
    assert (sheet[64:, 32:] == 255).all() and not (sheet[64:, :32] == 255).all()


def test_separate_images_are_those_of_the_sheet(home, tmp_path):
    run_here('generate.py', '--ckpt', home / 'model' / 'dcgan_toy-4.index', '--out', 'sheet',
             '--num', 4, cwd=tmp_path)
    run_here('generate.py', '--ckpt', home / 'model' / 'dcgan_toy-4', '--out', 'each', '--num', 4,
             '--separate', '--batch-size', 3, cwd=tmp_path)
    sheet = pixels(tmp_path / 'sheet' / 'faces_seed0.png').astype(int)
    names = sorted(os.listdir(str(tmp_path / 'each')))
    assert names == [f'face_seed0_{number:04d}.png' for number in range(4)]
    for number, name in enumerate(names):
        top, left = 32 * (number // 2), 32 * (number % 2)
        # Rounding may depend on the size of the batch: by one grey level at most.
        assert np.abs(pixels(tmp_path / 'each' / name) - sheet[top:top + 32, left:left + 32]
                      ).max() <= 1


@pytest.mark.parametrize('name, asked, file, height', [
    ('dcgan_celeba', ['--num', 100], 'faces_seed0.png', 640),
    ('dcgan_lfw', ['--num', 100], 'faces_seed0.png', 640),
    ('dcgan_celeba_attributes', ['--attribute-sheet'], 'attributes_seed0.png', 512)])
def test_the_sheets_in_the_readme_are_reproduced_by_their_commands(
        tmp_path, name, asked, file, height):
    run_here('generate.py', '--ckpt', os.path.join(ROOT, 'model', name), '--out', tmp_path, *asked,
             cwd=tmp_path)
    faces, expected = (pixels(path)[-height:].astype(int)      # without the headings in a font
                       for path in (tmp_path / file, os.path.join(ROOT, 'samples', name + '.png')))
    assert faces.shape == expected.shape
    # Versions of TensorFlow and processors round differently: by one grey level in few pixels.
    assert np.abs(faces - expected).max() <= 1


def test_a_checkpoint_of_the_original_program_draws(tmp_path):
    text, _ = run_here('generate.py', '--ckpt', os.path.dirname(TINY), '--out', tmp_path, '--num',
                       1, cwd=tmp_path)
    assert 'dcgan_celeba-3: 64x64, no settings beside it' in text
    assert pixels(tmp_path / 'faces_seed0.png').shape == (64, 64, 3)


def test_a_saved_generator_draws_the_same(home, tmp_path):
    prefix = str(tmp_path / 'shared' / 'dcgan_toy')
    run_here('generate.py', '--ckpt', home / 'model', '--out', 'a', '--save-generator', prefix,
             cwd=tmp_path)
    assert sorted(os.listdir(os.path.dirname(prefix))) == [
        'dcgan_toy.data-00000-of-00001', 'dcgan_toy.index', 'dcgan_toy.json']
    text, _ = run_here('generate.py', '--ckpt', os.path.dirname(prefix), '--out', 'b', cwd=tmp_path)
    assert 'trained on 4,000 photographs of toy' in text
    assert (tmp_path / 'a' / 'faces_seed0.png').read_bytes() == (
        tmp_path / 'b' / 'faces_seed0.png').read_bytes()


@pytest.mark.parametrize('prefix', ['g', './g', 'sub//g', os.path.join('{}', 'g')])
def test_a_generator_saved_again_in_the_same_place_is_complete(home, tmp_path, prefix):
    prefix = prefix.format(tmp_path)
    for step in (4, 6):
        text, _ = run_here('generate.py', '--ckpt', home / 'model' / f'dcgan_toy-{step}',
                           '--save-generator', prefix, '--out', f'{step}', '--num', 4, cwd=tmp_path)
    folder = os.path.join(str(tmp_path), os.path.dirname(prefix))
    assert sorted(name for name in os.listdir(folder) if name.startswith(('g.', '.'))) == [
        'g.data-00000-of-00001', 'g.index', 'g.json']
    again, _ = run_here('generate.py', '--ckpt', prefix, '--out', 'again', '--num', 4, cwd=tmp_path)
    assert 'for 6 steps' in again
    assert (pixels(tmp_path / 'again' / 'faces_seed0.png') == pixels(
        tmp_path / '6' / 'faces_seed0.png')).all()


def test_generate_refuses_invalid_options(home, tmp_path):
    assert 'no checkpoint in this folder' in refused('generate.py', '--ckpt', '.', cwd=tmp_path)
    assert 'looked for model/dcgan-1.index' in refused_here(
        'generate.py', '--ckpt', 'model/dcgan-1', cwd=tmp_path)
    assert '--num 10001: a sheet holds at most 10000; add --separate' in refused_here(
        'generate.py', '--ckpt', home / 'model', '--num', 10001, cwd=tmp_path)
    np.save(str(tmp_path / 'many.npy'), np.zeros((10001, 100)))
    assert 'many.npy: holds 10001; a sheet holds at most 10000; add --separate' in refused_here(
        'generate.py', '--ckpt', home / 'model', '--latents', 'many.npy', cwd=tmp_path)
    assert 'none.npy: No such file or directory' in refused_here(
        'generate.py', '--ckpt', home / 'model', '--latents', 'none.npy', cwd=tmp_path)
    (tmp_path / 'file').write_text('')
    assert 'file: ' in refused_here('generate.py', '--ckpt', home / 'model', '--num', 1,
                                    '--save-latents', 'file/a.npy', cwd=tmp_path)
    (tmp_path / 'folder').mkdir()
    assert 'folder: Is a directory' in refused_here(
        'generate.py', '--ckpt', home / 'model', '--save-latents', 'folder', cwd=tmp_path)
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    os.truncate(str(tmp_path / 'model' / 'dcgan_toy-6.data-00000-of-00001'), 5000)
    _, err = run_here('generate.py', '--ckpt', 'model', cwd=tmp_path, code=2)
    assert err.startswith('error: --ckpt model/dcgan_toy-6: is damaged') and err.count('\n') == 1


def test_a_generator_is_not_written_over_something_else(home, tmp_path):
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    (tmp_path / 'settings.json').write_text('{"mine": 1}')
    for prefix, message in [('model/dcgan_toy-6', 'names that end in -<step> belong to runs'),
                            ('model/', 'is not the name of a checkpoint'),
                            ('.', 'is not the name of a checkpoint'),
                            ('g.index', 'is not the name of a checkpoint'),
                            ('g[1]', 'TensorFlow takes *'),
                            ('settings', 'settings.json holds no settings of this program')]:
        err = refused_here('generate.py', '--save-generator', prefix, cwd=tmp_path)
        assert err.startswith(f'error: --save-generator {prefix}') and message in err
    out, _ = run_here('generate.py', '--save-generator', 'g', '--num', 1, cwd=tmp_path)
    assert out.splitlines()[1] == 'g'
    err = refused_here('generate.py', '--ckpt', 'g', '--save-generator', './g', cwd=tmp_path)
    assert './g: is the checkpoint that the generator comes from' in err
    assert sorted(os.listdir(str(tmp_path))) == ['g.data-00000-of-00001', 'g.index', 'g.json',
                                                 'model', 'samples', 'settings.json']


def test_a_generator_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    for ending in ('.index', '.data-00000-of-00001', '.json'):
        (tmp_path / f'g{ending}').write_text('before')

    def save(sess, prefix, **options):
        with open(prefix + '.data-00000-of-00001.tempstate1', 'w') as f:
            f.write('half')
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')
    saver = tf.train.Saver([tf.Variable(1.0)])
    monkeypatch.setattr(saver, 'save', save)
    with pytest.raises(checkpoint.CheckpointError, match="g: can't be written .No space left"):
        checkpoint.save_generator(None, saver, str(tmp_path / 'g'), TINY, False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ['before'] * 3


def test_a_closed_stream_does_not_end_generate(home, tmp_path):
    command = f'{sys.executable} {os.path.join(ROOT, "generate.py")} --ckpt {home / "model"}'
    for closed in ('>&-', '2>&-', '>&- 2>&-'):
        out = tmp_path / str(len(closed))
        assert subprocess.call(f'{command} --num 1 --out {out} {closed}', shell=True) == 0
        assert os.listdir(str(out)) == ['faces_seed0.png']


def test_a_run_continues_if_nobody_reads_its_output(toy, tmp_path):
    with started('train.py', *toy, '--max-steps', 6, '--log-every', 1, '--sample-every', 6,
                 cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('epoch'):
                break
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=60) == 0, err
    assert checkpoint.find(str(tmp_path / 'model')) == str(tmp_path / 'model' / 'dcgan_toy-6')


def cells(path):
    """The 32x32 images of a sheet, int [rows, columns, 32, 32, 3]."""
    sheet = pixels(path).astype(int)
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    return sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)


def face(home, folder, seed):
    """The face of a seed, drawn by generate.py, int [32, 32, 3]."""
    run_here('generate.py', '--ckpt', home / 'model', '--out', folder, '--num', 1, '--seed', seed,
             cwd=home)
    return pixels(folder / f'faces_seed{seed}.png').astype(int)


def is_near(a, b):
    """Whether images are equal except for rounding, which depends on the size of the batch."""
    return np.abs(a - b).max() <= 1


def test_slerp_keeps_the_norm_and_reaches_both_ends():
    a, b = np.random.RandomState(0).uniform(-1, 1, (2, 100))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    latents = generate.slerp(a, b, 9)
    assert (latents[0] == a).all() and (latents[-1] == b).all()
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), np.linalg.norm(a))
    steps = np.linalg.norm(np.diff(latents, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0])
    np.testing.assert_allclose(generate.slerp(a, 3 * a, 3), [a, 2 * a, 3 * a])
    np.testing.assert_allclose(generate.slerp(a, -a, 3), [a, 0 * a, -a], atol=1e-12)
    assert (generate.slerp(a, b, 2) == [a, b]).all()


def test_slerp_is_not_clipped_to_the_cube():
    pairs = np.random.RandomState(0).uniform(-1, 1, (2000, 2, 100))
    middles = np.array([generate.slerp(a, b, 3)[1] for a, b in pairs])
    assert (np.abs(middles) > 1).mean() == pytest.approx(1 / 12, abs=0.002)     # as in the README


def test_interpolation_begins_and_ends_at_the_faces_of_its_seeds(home, tmp_path):
    text, _ = run_here('generate.py', '--ckpt', home / 'model', '--out', tmp_path, '--interpolate',
                       5, 4294967295, '--frames', 7, '--batch-size', 3, cwd=tmp_path)
    name = 'interpolate_5_4294967295'
    assert sorted(os.listdir(str(tmp_path))) == [name + ending for ending in (
        '.gif', '.mp4', '.png')]
    assert all(str(tmp_path / file) in text for file in os.listdir(str(tmp_path)))
    frames = cells(tmp_path / (name + '.png')).reshape(9, 32, 32, 3)
    assert is_near(frames[0], face(home, tmp_path, 5))
    assert is_near(frames[6], face(home, tmp_path, 4294967295))
    assert (frames[7:] == 255).all()
    with Image.open(str(tmp_path / (name + '.gif'))) as gif:
        assert (gif.n_frames, gif.size, gif.info['loop']) == (12, (32, 32), 0)
    run_here('generate.py', '--ckpt', home / 'model', '--out', 'each', '--interpolate', 5,
             4294967295, '--frames', 7, '--separate', cwd=tmp_path)
    for number in range(7):
        assert is_near(pixels(tmp_path / 'each' / f'{name}_{number:04d}.png'), frames[number])


def test_arithmetic_adds_and_subtracts_the_means_of_groups(home, tmp_path):
    out, _ = run_here('generate.py', '--ckpt', home / 'model', '--out', '.', '--arithmetic',
                      'seeds:1 - 1+2,3, 4', '--save-latents', 'all.npy', cwd=tmp_path)
    name = 'arithmetic_seeds1-1+2,3,4.png'
    assert name in out
    sheet, latents = cells(tmp_path / name), np.load(str(tmp_path / 'all.npy'))
    assert sheet.shape == (4, 4, 32, 32, 3) and latents.shape == (2 + 2 + 4 + 4, 100)
    assert (sheet[:2, 1:3] == 255).all()
    one = face(home, tmp_path, 1)
    assert all(is_near(sheet[row, column], one) for row in (0, 1) for column in (0, 3))
    assert is_near(sheet[2, 1], face(home, tmp_path, 3))
    assert is_near(sheet[3, 3], sheet[2, 3])
    np.testing.assert_allclose(latents[-1], latents[4:7].mean(axis=0), atol=1e-6)
    noise = latents[8:11] - latents[-1]
    assert 0.2 < np.abs(noise).max() <= 0.25 + 1e-6
    # The result of one group is its mean. A sign may come first, and --seed changes the noise.
    run_here('generate.py', '--ckpt', home / 'model', '--out', '.', '--arithmetic', '+2,3,4',
             '--seed', 1, cwd=tmp_path)
    mean = cells(tmp_path / 'arithmetic_seeds2,3,4_seed1.png')
    assert is_near(mean[0], sheet[2]) and is_near(mean[1, 3], mean[0, 3])
    assert not is_near(mean[1, 0], sheet[3, 0])


@pytest.mark.parametrize('text, terms', [
    ('1', [(1, [1])]), (' seeds: -1,2 +3 ', [(-1, [1, 2]), (1, [3])]),
    ('seeds:1,2,3 - 4,5,6 + 7,8,9', [(1, [1, 2, 3]), (-1, [4, 5, 6]), (1, [7, 8, 9])])])
def test_sums_of_seeds_are_parsed(text, terms):
    assert generate.sum_of_seeds(text) == terms


def test_saved_latents_draw_the_same_faces(home, tmp_path):
    kept = str(tmp_path / 'some' / 'kept.npy')
    run_here('generate.py', '--ckpt', home / 'model', '--out', '.', '--num', 5, '--truncate', 0.3,
             '--save-latents', kept, cwd=tmp_path)
    assert os.listdir(str(tmp_path / 'some')) == ['kept.npy']
    latents = np.load(kept)
    expected = 0.3 * np.random.RandomState(0).uniform(-1, 1, (5, 100))
    assert latents.dtype == np.float32 and (latents == expected.astype(np.float32)).all()
    run_here('generate.py', '--ckpt', home / 'model', '--out', '.', '--latents', kept,
             '--save-latents', 'again.npy', cwd=tmp_path)
    assert (tmp_path / 'faces_kept.png').read_bytes() == (
        tmp_path / 'faces_seed0_truncate=0.3.png').read_bytes()
    assert (tmp_path / 'again.npy').read_bytes() == (tmp_path / 'some' / 'kept.npy').read_bytes()
    np.save(str(tmp_path / 'wide.npy'), latents.astype('>f8'))
    run_here('generate.py', '--ckpt', home / 'model', '--out', 'each', '--latents', 'wide.npy',
             '--separate', cwd=tmp_path)
    each = [pixels(tmp_path / 'each' / f'face_wide_{number:04d}.png') for number in range(5)]
    assert is_near(np.array(each), cells(tmp_path / 'faces_kept.png').reshape(6, 32, 32, 3)[:5])


@pytest.mark.parametrize('first, second', [
    (['--arithmetic', '+'.join(map(str, range(100)))],
     ['--arithmetic', '+'.join(map(str, range(101)))]),
    (['--latents', 'é' * 120 + '.npy'], ['--latents', 'é' * 121 + '.npy']),
    (['--truncate', '0.12345678'], ['--truncate', '0.12345679'])])
def test_different_drawings_have_different_names(first, second, tmp_path):
    names = []
    for arguments in (first, second, first):
        args = generate.parse(arguments)
        name = os.path.splitext(os.path.basename(args.latents or 'seed0'))[0]
        names.append(generate.named(name + str(args.arithmetic or ''), args))
    assert names[0] == names[2] != names[1]
    for name in names[:2]:      # the longest name of a file that is written
        (tmp_path / f'faces_{name}_000123.png.part').write_text('')


def test_a_name_of_any_length_is_written(tmp_path):
    for ending in 'ab':
        name = str(tmp_path / ('é' * 100 + 'x' * 40 + ending + '.npy'))
        z_dim = checkpoint.read_generator(TINY)[1]
        np.save(name, np.random.RandomState(ord(ending)).uniform(-1, 1, (1, z_dim)))
        run_here('generate.py', '--ckpt', TINY, '--out', 'out', '--latents', name, cwd=tmp_path)
    first, second = sorted(os.listdir(str(tmp_path / 'out')))
    assert re.fullmatch('faces_é+x*_[0-9a-f]{8}.png', first)
    assert (pixels(tmp_path / 'out' / first) != pixels(tmp_path / 'out' / second)).any()


def test_truncated_faces_are_less_varied(home, tmp_path):
    spread = {}
    for truncate in ([], ['--truncate', 1], ['--truncate', 0.5], ['--truncate', 0.1]):
        run_here('generate.py', '--ckpt', home / 'model', '--out', '.', '--num', 16, *truncate,
                 cwd=tmp_path)
        name = f'_truncate={truncate[-1]}' if truncate and truncate[-1] != 1 else ''
        images = cells(tmp_path / f'faces_seed0{name}.png').reshape(16, 32, 32, 3)
        spread[truncate[-1] if truncate else None] = images.std(axis=0).mean()
    assert spread[None] == spread[1] > spread[0.5] > spread[0.1]


@pytest.mark.parametrize('arguments, message', [
    (['--interpolate', '1'], '--interpolate: expected 2 arguments'),
    (['--interpolate', '1', 'x'], "--interpolate: invalid whole number value: 'x'"),
    (['--truncate', 'x'], "--truncate: invalid number value: 'x'"),
    (['--latents', ''], '--latents: is given nothing'),
    (['--interpolate', '1', '-1'], '--interpolate: -1 is not from 0 to 4294967295'),
    (['--interpolate', '1', '2', '--frames', '1'], '--frames: 1 is not from 2 to 10000'),
    (['--interpolate', '1', '2', '--seed', '3'], '--seed has no effect on --interpolate'),
    (['--interpolate', '1', '2', '--num', '3'], '--num: not allowed with argument --interpolate'),
    (['--interpolate', '1', '2', '--latents', 'a.npy'], 'not allowed with argument --interpolate'),
    (['--frames', '9'], '--frames belongs to --interpolate'),
    (['--arithmetic', '1', '--separate'], '--separate: what --arithmetic draws is one picture'),
    (['--arithmetic', ''], "'' is no sum of seeds from '' on; one is \"seeds:1,2,3 - 4,5,6 + "),
    (['--arithmetic', 'seeds:'], "'seeds:' is no sum of seeds from '' on"),
    (['--arithmetic', '1 + 2,,3'], "'1 + 2,,3' is no sum of seeds from ',,3' on"),
    (['--arithmetic', '1 2'], "from '2' on"),
    (['--arithmetic', '1 + - 2'], "from '+ - 2' on"),
    (['--arithmetic', '1 - man'], "from '- man' on"),
    (['--arithmetic', '4294967296'], '--arithmetic: 4294967296 is not from 0 to 4294967295'),
    (['--truncate', '0'], '--truncate: 0 is not above 0 and up to 1'),
    (['--truncate', '1.1'], '--truncate: 1.1 is not above 0 and up to 1'),
    (['--truncate', 'nan'], '--truncate: nan is not above 0'),
])
def test_invalid_options_of_latents_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        generate.parse(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert message in err


def test_invalid_files_of_latents_are_refused(tmp_path, capsys):
    latents = np.zeros((3, 100))
    kinds = {'flat': latents[0], 'narrow': latents[:, :99], 'none': latents[:0],
             'one': latents[0, 0], 'whole': latents.astype(int), 'objects': latents.astype(object)}
    for name, array in kinds.items():
        np.save(str(tmp_path / f'{name}.npy'), array)
    with open(str(tmp_path / 'several.npy'), 'wb') as f:
        np.savez(f, latents)
    for row, name, value in ((0, 'nan', np.nan), (1, 'infinite', -np.inf), (2, 'huge', 1e300)):
        array = latents.copy()
        array[row, 7] = value
        np.save(str(tmp_path / f'{name}.npy'), array)
    content = (tmp_path / 'flat.npy').read_bytes()
    (tmp_path / 'cut.npy').write_bytes(content[:-8])
    (tmp_path / 'header.npy').write_bytes(content[:20])
    (tmp_path / 'quote.npy').write_bytes(content.replace(b')', b"'", 1))
    (tmp_path / 'digits.npy').write_bytes(content.replace(b'(100,), }' + b' ' * 20,
                                                          b'(1' + b'0' * 20 + b',), }  ', 1))
    (tmp_path / 'empty.npy').write_bytes(b'')
    (tmp_path / 'text.npy').write_text('1 2 3')
    messages = {
        'flat': 'holds float64 [100], not floating-point numbers [n, 100]',
        'narrow': 'holds float64 [3, 99], not', 'none': 'holds float64 [0, 100], not',
        'one': 'holds float64 [], not', 'whole': 'holds int64 [3, 100], not',
        'nan': 'row 0 holds a number that is not finite', 'infinite': 'row 1 holds',
        'huge': 'row 2 holds'}
    for name in ('objects', 'several', 'cut', 'header', 'quote', 'digits', 'empty', 'text'):
        messages[name] = 'is no whole npy file of floating-point numbers [n, 100]'
    for name, message in messages.items():
        path = str(tmp_path / f'{name}.npy')
        with pytest.raises(SystemExit) as stop:
            generate.load_latents(path, 100)
        err = capsys.readouterr().err
        assert stop.value.code == 2 and err.count('\n') == 1
        assert err.startswith(f'error: --latents {path}: ') and message in err


@pytest.mark.parametrize('program', ['train.py', 'generate.py', 'download_lfw.py'])
def test_help_does_not_import_tensorflow(program):
    assert without_tensorflow(program, '--help', cwd=ROOT).startswith(f'usage: {program}')
