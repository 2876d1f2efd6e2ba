"""Several workers on this machine: equal to one, to each other, and what ends them."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import ROOT
from test_faults import tensors
from test_programs import refused, rows, start

RUN = ['--dataset', 'toy', '--image-size', '32', '--batch-size', '8', '--augment', 'flip',
       '--average', '0.9', '--spectral-norm', '--deterministic', '--log-every', '1']
WORKER = os.path.join(ROOT, 'tests', 'cluster_worker.py')


def addresses(count):
    """So many with free ports."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(('127.0.0.1', 0))
    found = [f'127.0.0.1:{probe.getsockname()[1]}' for probe in probes]
    for probe in probes:
        probe.close()
    return found


def start_all(cwd, *arguments, count=2, others=()):
    """train.py as so many workers; others: what the last one is told instead."""
    cluster = ','.join(addresses(count))
    said = [arguments] * (count - 1) + [others or arguments]
    return [start('train.py', *said[task], '--data-dir', cwd / 'datasets', '--cluster', cluster,
                  '--task', task, cwd=cwd) for task in range(count)]


def ends(processes):
    """[(exit code, stdout, stderr)]."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said)]


def first_epoch(process):
    for line in process.stdout:
        if line.startswith('epoch'):
            return


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run of two workers that nothing happened to."""
    home = tmp_path_factory.mktemp('whole')
    for code, out, err in ends(start_all(home, *RUN, '--max-steps', 6, '--save-every', 3)):
        assert code == 0, out + err
    return home


@pytest.mark.parametrize('count, settings', [
    (2, {}), (3, {}), (3, {'fused_step': True, 'augment': ['flip', 'crop']})])
def test_workers_are_equal_and_together_as_one(tmp_path, count, settings):
    shared = json.dumps(dict(settings, sync_batch_norm=True))
    cluster = addresses(count)
    several = [[f'worker{task}', '10,50', str(12 // count), shared, str(task), *cluster]
               for task in range(count)]
    for at_once in (several, [['one', '10,10', '12', json.dumps(settings)]]):
        processes = [subprocess.Popen([sys.executable, WORKER, *command], cwd=str(tmp_path))
                     for command in at_once]
        assert [process.wait(timeout=200) for process in processes] == [0] * len(processes)
    for step in ('0', '10', '50'):
        first, *others = (np.load(str(tmp_path / f'worker{task}-{step}.npz'))
                          for task in range(count))
        for name in first.files:
            for other in others:
                assert other[name].tobytes() == first[name].tobytes(), (step, name)
    # Later a leaky ReLU that is all but at 0 may fall to one side here, to the other there.
    one, several = (np.load(str(tmp_path / f'{name}-10.npz')) for name in ('one', 'worker0'))
    for name in one.files:
        # Before batch norm a bias has no effect and no gradient but rounding, which Adam makes
        # steps of; a moving mean contains it.
        if not name.endswith(('conv2d_1/bias', 'conv2d_2/bias', 'conv2d_3/bias', 'moving_mean',
                              'transpose/bias', 'transpose_1/bias', 'transpose_2/bias')):
            np.testing.assert_allclose(several[name], one[name], rtol=0, atol=1e-5, err_msg=name)


def test_worker_0_alone_keeps_what_comes_of_it(whole):
    assert sorted(os.listdir(str(whole))) == ['datasets', 'model', 'samples']
    assert [row['step'] for row in rows(whole / 'samples' / 'dcgan_toy' / 'loss.csv')] == [
        '1', '2', '3', '4', '5', '6']
    assert rows(whole / 'samples' / 'dcgan_toy' / 'loss.csv')[-1]['images'] == '96'
    facts = json.loads((whole / 'model' / 'dcgan_toy-6.json').read_text())
    assert (facts['settings']['workers'], facts['images'], facts['epoch']) == (2, 96, 6 / 250)


def test_a_stopped_run_goes_on_exactly(whole, tmp_path):
    processes = start_all(tmp_path, *RUN, '--max-steps', 100000)
    first_epoch(processes[0])
    processes[1].send_signal(signal.SIGTERM)
    said = ends(processes)
    assert [code for code, _, _ in said] == [143, 143]
    step = said[1][2].splitlines()[-1].split()[3].rstrip(';')
    assert said[0][2].splitlines()[-1] == (
        f'stopped at step {step} and saved model/dcgan_toy-{step}; --resume goes on')
    # The others have no checkpoint: they take worker 0's settings.
    for code, out, err in ends(start_all(tmp_path, '--dataset', 'toy', '--resume', '--log-every', 1,
                                         '--max-steps', max(6, int(step)))):
        assert code == 0, out + err
    if int(step) <= 6:      # a machine so slow that more were done compares nothing
        mine, theirs = (tensors(home / 'model' / 'dcgan_toy-6') for home in (whole, tmp_path))
        for name, value in theirs.items():
            assert mine[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize('task', [0, 1])
def test_a_worker_that_dies_ends_the_others_and_all_go_on(whole, tmp_path, task):
    processes = start_all(tmp_path, *RUN, '--max-steps', 100000, '--save-every', 3)
    while not (tmp_path / 'model' / 'dcgan_toy-3.index').exists():
        assert processes[0].poll() is None
        time.sleep(0.1)
    processes[task].kill()
    killed = time.time()
    code, _, err = ends(processes)[1 - task]
    assert time.time() - killed < 60
    assert code == 2
    assert err.splitlines()[-1].startswith(f'error: worker {task} (127.0.0.1:')
    assert err.splitlines()[-1].endswith('--resume on all workers goes on from the last checkpoint')
    step = max(6, *(int(name[len('dcgan_toy-'):-len('.index')]) for name in
                    os.listdir(str(tmp_path / 'model')) if name.endswith('.index')))
    for code, out, err in ends(start_all(tmp_path, *RUN, '--resume', '--max-steps', step)):
        assert code == 0, out + err
    if step == 6:
        mine, theirs = (tensors(home / 'model' / 'dcgan_toy-6') for home in (whole, tmp_path))
        for name, value in theirs.items():
            assert mine[name].tobytes() == value.tobytes(), name


def test_another_setting_is_refused_by_all(tmp_path):
    processes = start_all(tmp_path, *RUN, others=RUN + ['--lr', '0.0001'])
    for code, _, err in ends(processes):
        assert code == 2
        assert err.splitlines()[-1].startswith('error: worker 1 (127.0.0.1:')
        assert err.splitlines()[-1].endswith(
            'has --lr 0.0001, worker 0 0.0002: all need the same')


def test_other_photographs_are_refused_by_all(tmp_path):
    folder = tmp_path / 'other' / 'toy'
    folder.mkdir(parents=True)
    from PIL import Image
    for number in range(40):
        Image.new('RGB', (40, 40), (number, 0, 0)).save(str(folder / f'{number}.png'))
    one = ['--dataset', folder, '--crop', 0, *RUN[2:]]
    other = tmp_path / 'another' / 'toy'
    other.mkdir(parents=True)
    for number in range(40):
        Image.new('RGB', (40, 40), (number, 1, 0)).save(str(other / f'{number}.png'))
    for code, _, err in ends(start_all(tmp_path, *one, others=['--dataset', other, *one[2:]])):
        assert code == 2
        assert ' has crc32 ' in err.splitlines()[-1]


@pytest.mark.skipif('TF115_PYTHON' not in os.environ, reason='TF115_PYTHON names no Python with it')
def test_another_tensorflow_is_refused_by_all(tmp_path):
    cluster = ','.join(addresses(2))
    processes = [subprocess.Popen(
        [python, os.path.join(ROOT, 'train.py'), *RUN, '--data-dir', str(tmp_path / python[-9:-1]),
         '--cluster', cluster, '--task', str(task)], cwd=str(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True)
        for task, python in enumerate([sys.executable, os.environ['TF115_PYTHON']])]
    for code, _, err in ends(processes):
        assert code == 2
        assert ' has TensorFlow 1.15.5, worker 0 2.' in err.splitlines()[-1]


def test_it_answers_at_its_own_address_only(tmp_path):
    cluster = addresses(2)
    process = start('train.py', *RUN, '--cluster', ','.join(cluster), '--task', 0, cwd=tmp_path)
    for line in process.stderr:
        if line.startswith('waiting for'):
            break
    assert line == f'waiting for worker 1 ({cluster[1]})\n'
    port = int(cluster[0].rpartition(':')[2])
    socket.create_connection(('127.0.0.1', port), 5).close()
    for elsewhere in ('127.0.0.2', '::1'):
        with pytest.raises(OSError):
            socket.create_connection((elsewhere, port), 1)
    assert 'no worker can be reached there on this machine (Address already in use)' in refused(
        'train.py', *RUN, '--model-dir', 'other', '--samples-dir', 'others', '--cluster',
        ','.join(cluster), '--task', 0, cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_bad_options(tmp_path):
    for options, sentence in [
            (['--cluster', 'a:1,b:2'], '--cluster goes with --task'),
            (['--task', 1], '--cluster goes with --task'),
            (['--cluster', 'a:1,b:2', '--task', 2], '--task 2: the --cluster has 0 to 1'),
            (['--cluster', 'a:1', '--task', 0], 'a:1 is one address'),
            (['--cluster', 'a:1,b', '--task', 0], 'b is no host:port'),
            (['--cluster', 'a:1,b:65536', '--task', 0], 'b:65536 is no host:port'),
            (['--sync-batch-norm'], '--sync-batch-norm: goes with --cluster'),
            (['--cluster', '192.0.2.1:2222,127.0.0.1:2223', '--task', 0],
             '192.0.2.1:2222: no worker can be reached there on this machine')]:
        assert sentence in refused('train.py', *RUN, *options, cwd=tmp_path)


def test_a_run_of_two_does_not_go_on_as_one(whole):
    assert 'model/dcgan_toy-6 was trained by 2 in a --cluster, not by 1' in refused(
        'train.py', '--dataset', 'toy', '--resume', cwd=whole)
