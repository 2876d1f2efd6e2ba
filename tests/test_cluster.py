"""Several workers on this machine: equal results, resume, and the errors that end them."""
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from conftest import ROOT, costly
from dcgan import cache, cluster, datasets
from dcgan.cluster import HELLO
from running import free_addresses, refused, refused_here, rows, tensors

STEPS = 12
RUN = ['--dataset', 'toy', '--image-size', 32, '--batch-size', 8, '--augment', 'flip', '--average',
       0.9, '--spectral-norm', '--sync-batch-norm', '--deterministic', '--log-every', 1,
       '--save-every', 4, '--max-steps', STEPS]
WORKER, PEER, SERVERS = (os.path.join(ROOT, 'tests', f'cluster_{name}.py')
                         for name in ('worker', 'peer', 'servers'))


@pytest.fixture
def started():
    """A list of processes; all of them end with the test."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope='module')
def start_all(tmp_path_factory):
    """A function that starts train.py as several workers, one for each command.

    Each worker has its own folders. The images are decoded once for all.
    """
    decoded = tmp_path_factory.mktemp('datasets')
    cache.load(datasets.find('toy'), 32, data_dir=str(decoded))
    return functools.partial(start_workers, decoded)


def start_workers(decoded, started, home, *commands, python=(sys.executable,) * 3):
    cluster = ','.join(free_addresses(len(commands)))
    for task, command in enumerate(commands):
        folder = home / f'worker{task}'
        folder.mkdir(exist_ok=True)
        if not (home / f'datasets{task}').exists():
            shutil.copytree(str(decoded), str(home / f'datasets{task}'))
        command = [python[task], os.path.join(ROOT, 'train.py'), *command, '--data-dir',
                   home / f'datasets{task}', '--cluster', cluster, '--task', task]
        started.append(subprocess.Popen(
            list(map(str, command)), cwd=str(folder), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True))
    return started[-len(commands):]


def ends(processes):
    """[(exit code, stdout, stderr)] of the processes; waits for their ends."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs)]


def assert_done(processes):
    for code, out, err in ends(processes):
        assert code == 0, out + err


def assert_same(home, other):
    actual, expected = (tensors(folder / 'worker0' / 'model' / f'dcgan_toy-{STEPS}')
                        for folder in (home, other))
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name


@pytest.fixture(scope='module')
def undisturbed(start_all, tmp_path_factory):
    """The folder of an undisturbed run of two workers."""
    home = tmp_path_factory.mktemp('undisturbed')
    assert_done(start_all([], home, RUN, RUN))
    return home


@pytest.mark.parametrize('count, settings', [
    (2, {'sync_batch_norm': True}),
    pytest.param(3, {'sync_batch_norm': True, 'fused_step': True, 'augment': ['flip', 'crop']},
                 marks=costly),
    (2, {'fused_step': True, 'd_steps': 2, 'average': 0.9, 'spectral_norm': True, 'r1': 1.0,
         'diffaugment': ['color'], 'instance_noise': 0.1})])
def test_workers_are_bit_equal_and_match_one_worker(started, tmp_path, count, settings):
    cluster = free_addresses(count)
    commands = [[f'worker{task}', '10,50', 12 // count, json.dumps(settings), task, *cluster]
                for task in range(count)]
    one = dict(settings, sync_batch_norm=False)
    for at_once in (commands, [['one', '10,10', 12, json.dumps(one)]]):
        started.extend(subprocess.Popen([sys.executable, WORKER, *map(str, command)],
                                        cwd=str(tmp_path)) for command in at_once)
        assert [process.wait(timeout=200) for process in started] == [0] * len(started)
    for step in (0, 10, 50):
        first, *others = (np.load(str(tmp_path / f'worker{task}-{step}.npz'))
                          for task in range(count))
        for name in first.files:
            for other in others:
                assert other[name].tobytes() == first[name].tobytes(), (step, name)
    if not settings.get('sync_batch_norm'):
        return
    # After more steps a leaky ReLU whose input is near 0 may change sides through rounding.
    one, several = (np.load(str(tmp_path / f'{name}-10.npz')) for name in ('one', 'worker0'))
    # A bias before batch norm has no effect, and its gradient is only rounding, which Adam turns
    # into steps. The moving mean after it contains this bias.
    layers = {'discriminator': [('conv2d_1', 'BatchNorm'), ('conv2d_2', 'BatchNorm_1'),
                                ('conv2d_3', 'BatchNorm_2')],
              'generator': [('conv2d_transpose', 'BatchNorm_1'),
                            ('conv2d_transpose_1', 'BatchNorm_2'),
                            ('conv2d_transpose_2', 'BatchNorm_3')]}
    without_effect = {name for network, pairs in layers.items() for layer, norm in pairs
                      for name in (f'{network}/{layer}/bias', f'{network}/{norm}/moving_mean')}
    assert without_effect < set(one.files)
    for name in set(one.files) - without_effect:
        assert np.abs(several[name] - one[name]).max() < 1e-5, name


@costly
def test_only_worker_0_writes_files(undisturbed):
    assert os.listdir(str(undisturbed / 'worker1')) == []
    assert sorted(os.listdir(str(undisturbed / 'worker0'))) == ['model', 'samples']
    table = rows(undisturbed / 'worker0' / 'samples' / 'dcgan_toy' / 'loss.csv')
    assert [int(row['step']) for row in table] == list(range(1, STEPS + 1))
    assert table[-1]['images'] == str(16 * STEPS)
    path = undisturbed / 'worker0' / 'model' / f'dcgan_toy-{STEPS}.json'
    details = json.loads(path.read_text())
    assert (details['settings']['workers'], details['images'], details['epoch']) == (
        2, 16 * STEPS, STEPS / 250)


@costly
def test_resume_after_stopped_frozen_and_killed_workers_is_bit_identical(
        start_all, started, undisturbed, tmp_path):
    processes = start_all(started, tmp_path, RUN, RUN)
    for line in processes[0].stdout:
        if line.startswith('epoch'):
            break
    processes[1].send_signal(signal.SIGTERM)
    (code0, _, err0), (code1, _, err1) = ends(processes)
    assert (code0, code1) == (143, 143)
    step = int(err1.splitlines()[-1][len('stopped at step '):-len('; --resume goes on')])
    assert step < STEPS
    assert err0.splitlines()[-1] == (
        f'stopped at step {step} and saved model/dcgan_toy-{step}; --resume goes on')
    # Worker 1 has no checkpoint: it takes worker 0's settings and weights.
    resume = ['--dataset', 'toy', '--resume', '--log-every', 1, '--save-every', 4]
    for task, number in ((1, signal.SIGSTOP), (0, signal.SIGKILL)):
        processes = start_all(started, tmp_path, resume, resume)
        for line in processes[0].stdout:
            if line.startswith('epoch'):
                break
        processes[task].send_signal(number)
        began = time.time()
        if number == signal.SIGSTOP:
            processes[1 - task].send_signal(signal.SIGINT)
        (code, _, err), = ends([processes[1 - task]])
        print(time.time() - began)
        assert time.time() - began < 60
        assert code == 2
        processes[task].kill()
        assert err.splitlines()[-1].startswith(f'error: worker {task} (127.0.0.1:')
        assert 'ended, hanging or out of reach' in err.splitlines()[-1]
    assert not (tmp_path / 'worker0' / 'model' / f'dcgan_toy-{STEPS}.index').exists()
    assert_done(start_all(started, tmp_path, resume, resume))
    assert_same(tmp_path, undisturbed)


@costly
def test_worker_0_completes_a_run_stopped_at_its_end(start_all, started, undisturbed, tmp_path):
    shutil.copytree(str(undisturbed / 'worker0'), str(tmp_path / 'worker0'))
    gif = tmp_path / 'worker0' / 'samples' / 'dcgan_toy' / 'samples.gif'
    gif.unlink()
    (_, _, _), (code, out, _) = ends(start_all(started, tmp_path, *[[*RUN, '--resume']] * 2))
    assert gif.exists()
    assert code == 0 and out.endswith('nothing left to do\n')


def test_different_settings_are_refused_by_all_workers(start_all, started, tmp_path):
    for code, _, err in ends(start_all(started, tmp_path, RUN, [*RUN, '--lr', 0.0001])):
        assert code == 2
        assert err.splitlines()[-1].startswith(
            'error: all workers need the same: --lr is 0.0001 at worker 1 (127.0.0.1:')
        assert err.splitlines()[-1].endswith(', 0.0002 at worker 0')


def test_different_images_are_refused_by_all_workers(start_all, started, tmp_path):
    for name, green in (('one', 0), ('other', 1)):
        (tmp_path / name / 'faces').mkdir(parents=True)
        for number in range(40):
            Image.new('RGB', (40, 40), (number, green, 0)).save(
                str(tmp_path / name / 'faces' / f'{number}.png'))
    commands = [['--dataset', tmp_path / name / 'faces', *RUN[2:-1], 2]
                for name in ('one', 'other')]
    for code, _, err in ends(start_all(started, tmp_path, *commands)):
        assert code == 2
        assert "all workers need the same: the photographs' checksum is " in err.splitlines()[-1]


@pytest.mark.skipif('TF115_PYTHON' not in os.environ or tf.__version__.startswith('1.'),
                    reason='TF115_PYTHON names no Python with it')
def test_different_tensorflow_versions_are_refused_by_all_workers(start_all, started, tmp_path):
    results = ends(start_all(started, tmp_path, RUN, RUN,
                             python=(sys.executable, os.environ['TF115_PYTHON'])))
    for (code, _, err), version, other in zip(results, ('1.15.5', tf.__version__), (1, 0)):
        assert code == 2
        assert (f'all workers need the same: TensorFlow is {version} at worker {other} (' in
                err.splitlines()[-1])


def test_a_worker_answers_only_at_its_own_address(started, tmp_path):
    cluster = free_addresses(2)
    command = [sys.executable, os.path.join(ROOT, 'train.py'), *map(str, RUN), '--cluster',
               ','.join(cluster), '--task', '0']
    process = subprocess.Popen(command, cwd=str(tmp_path), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, universal_newlines=True)
    started.append(process)
    for line in process.stderr:
        if line.startswith('waiting for'):
            break
    assert line == f'waiting for worker 1 ({cluster[1]})\n'
    port, other_port = (int(address.rpartition(':')[2]) for address in cluster)
    socket.create_connection(('127.0.0.1', port), 5).close()
    for elsewhere in ('127.0.0.2', '::1'):
        with pytest.raises(OSError):
            socket.create_connection((elsewhere, port), 1)
    assert f'{cluster[0]}: can\'t be listened on here (Address already in use)' in refused(
        'train.py', *RUN, '--model-dir', 'other', '--samples-dir', 'others', '--cluster',
        ','.join(cluster), '--task', 0, cwd=tmp_path)


def test_nobody_gets_in_at_another_address_while_a_server_starts(started):
    """Two clients connect to 127.0.0.2 without a pause while each server starts."""
    ports = [int(address.rpartition(':')[2]) for address in free_addresses(50)]
    server = subprocess.Popen([sys.executable, SERVERS, *map(str, ports)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, universal_newlines=True, bufsize=1)
    started.append(server)
    let_in, answered = 0, 0
    for port in ports:
        assert server.stdout.readline() == f'next: {port}\n'
        with knocking(('127.0.0.2', port)) as connections:
            server.stdin.write('\n')
            assert server.stdout.readline() == 'started\n'
            assert cluster._answers(('127.0.0.1', port), 5)
        let_in += len(connections)
        for connection in connections:
            with connection, contextlib.suppress(OSError):
                answered += bool(connection.recv(1))
    assert answered == 0
    # TensorFlow 2 reads requests before it starts and obeys them later, so closing is too late.
    assert let_in == 0 or tf.__version__.startswith('1.')
    # Clients that ask whether the server is alive leave no open file or connection.
    for _ in range(100):
        assert cluster._answers(('127.0.0.1', ports[-1]), 5)
    time.sleep(1)
    server.stdin.write('\n')
    assert int(server.stdout.readline()) < 50


@contextlib.contextmanager
def knocking(address):
    """Yields a list of connections that two clients make without a pause within the block."""
    over, connections = threading.Event(), []

    def knock():
        while not over.is_set():
            connection = socket.socket()
            connection.settimeout(0.1)
            try:
                connection.connect(address)
                connection.sendall(HELLO)
                connections.append(connection)
            except OSError:
                connection.close()

    clients = [threading.Thread(target=knock) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield connections
    finally:
        over.set()
        for client in clients:
            client.join()


@pytest.fixture
def start_peers(started):
    """A function that starts cluster_peer.py as several workers and waits until they are ready."""
    def start(*tasks):
        cluster = free_addresses(len(tasks))
        processes = [subprocess.Popen([sys.executable, PEER, what, str(number), *cluster],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      universal_newlines=True)
                     for number, what in enumerate(tasks)]
        started.extend(processes)
        for process in processes:
            assert process.stdout.readline() == 'ready\n', process.stderr.read()
        return processes
    return start


@pytest.mark.parametrize('what, expected', [('gather', 2), ('reduce', 2), ('barrier', 0)])
def test_a_hanging_worker_does_not_block_the_others(start_peers, what, expected):
    first, _ = start_peers(what, 'stop')
    began = time.time()
    (code, _, err), = ends([first])
    print(time.time() - began)
    assert time.time() - began < 20
    assert code == expected, err
    assert ('ended, hanging or out of reach' in err) == (code == 2)


def test_the_error_names_the_hanging_worker(start_peers):
    first, second, _ = start_peers('reduce', 'reduce', 'stop')
    # The worker that ends later may name the other one, which has ended too.
    assert any(err.startswith('error: worker 2 (') for _, _, err in ends([first, second]))


def test_ctrl_c_ends_the_wait_for_a_hanging_worker(start_peers):
    first, _ = start_peers('gather', 'stop')
    time.sleep(1)
    first.send_signal(signal.SIGINT)
    (code, _, err), = ends([first])
    assert (code, err) == (130, 'interrupted\n')


def test_the_others_wait_for_a_busy_worker_until_a_second_signal(start_peers):
    first, _ = start_peers('reduce', 'hold the GIL')
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(timeout=15)
    first.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):      # the first signal waits for the step's end
        first.wait(timeout=5)
    first.send_signal(signal.SIGTERM)
    began = time.time()
    (code, _, err), = ends([first])
    assert time.time() - began < 10
    assert code == 143 and '--resume on all workers goes on' in err


def test_a_worker_that_hangs_from_the_beginning_is_named(started, tmp_path):
    """One worker answers nothing, the other one only the first words of a server."""
    own, other, *both = free_addresses(4)
    for name, pair, greeting in [('mute', [own, other], b''), ('hung', both, HELLO[-9:])]:
        (tmp_path / name).mkdir()
        command = [sys.executable, os.path.join(ROOT, 'train.py'), *map(str, RUN), '--cluster',
                   ','.join(pair), '--task', '0']
        threading.Thread(target=greet, args=(pair[1], greeting), daemon=True).start()
        started.append(subprocess.Popen(command, cwd=str(tmp_path / name), universal_newlines=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    mute, hung = started
    assert mute.stderr.readline() == f'waiting for worker 1 ({other})\n'
    mute.send_signal(signal.SIGTERM)
    began = time.time()
    assert ends([mute]) == [(143, None, 'terminated\n')]
    assert time.time() - began < 10
    (code, _, err), = ends([hung])
    assert code == 2
    assert err.startswith(f'error: worker 1 ({both[1]}): ')


def greet(address, greeting):
    """Accepts connections at an address; sends the greeting to each and nothing more."""
    host, _, port = address.rpartition(':')
    connections = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen()
        while True:
            connections.append(listener.accept()[0])
            connections[-1].sendall(greeting)


def test_resume_of_a_cluster_needs_the_dataset(tmp_path):
    assert '--resume with --cluster: --dataset says which photographs' in refused_here(
        'train.py', '--cluster', 'a:1,b:2', '--task', 0, '--resume', cwd=tmp_path)


@pytest.mark.parametrize('options, sentence', [
    (['--cluster', 'a:1,b:2'], '--cluster goes with --task'),
    (['--task', 1], '--cluster goes with --task'),
    (['--cluster', 'a:1,b:2', '--task', 2], '--task 2: the --cluster has 0 to 1'),
    (['--cluster', 'a:1', '--task', 0], 'a:1 is one address'),
    (['--cluster', 'a:1,b:2,a:1', '--task', 0], 'a:1 is there twice'),
    (['--cluster', 'a:1,b', '--task', 0], 'b is no host:port'),
    (['--cluster', 'a:1,b:65536', '--task', 0], 'b:65536 is no host:port'),
    ([], '--sync-batch-norm: goes with --cluster')])
def test_bad_options(tmp_path, options, sentence):
    assert sentence in refused_here('train.py', *RUN, *options, cwd=tmp_path)


def test_bad_addresses():
    for addresses, sentence in [
            (['192.0.2.1:2222', '127.0.0.1:2223'], "192.0.2.1:2222: can't be listened on here"),
            (['127.0.1.1:2222', '192.0.2.1:2222'], '127.0.1.1:2222: is 127.0.1.1 on this machine'),
            (['0.0.0.0:2222', '127.0.0.1:2223'], '0.0.0.0:2222: is 0.0.0.0 on this machine'),
            (['a..b:1', '127.0.0.1:2223'], '--cluster a..b:1: '),
            (['::1:2222', '127.0.0.1:2223'], '--cluster ::1:2222: ')]:
        with pytest.raises(cluster.ClusterError, match=sentence.replace('.', r'\.')):
            cluster.Cluster(addresses, 0)


@costly
def test_a_run_of_two_workers_does_not_continue_with_one(undisturbed):
    assert 'was trained by 2 workers, not by 1' in refused_here(
        'train.py', '--dataset', 'toy', '--resume', cwd=undisturbed / 'worker0')
