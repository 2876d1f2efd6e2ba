"""Faults that a run survives: kills, damaged checkpoints, a second run, a full disk.

    RUNS=7 python -m pytest tests/test_faults.py -k "killed_run or random_moments"     more runs
"""
import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

import export
import train
from conftest import ROOT, costly
from dcgan import checkpoint, datasets, files, run_dir
from running import TOY, refused, refused_here, rows, run, run_here, started, tensors

SEEDS = range(int(os.environ.get('RUNS', '1')))


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """The command of a run; its images are decoded once for all tests."""
    return ['train.py', *TOY, '--data-dir', tmp_path_factory.mktemp('datasets'), '--max-steps', 12,
            '--log-every', 1, '--save-every', 4, '--sample-every', 3, '--recipe', 'best',
            '--fused-step', '--precision', 'auto', '--diffaugment', 'color', '--deterministic',
            '--resume']


@pytest.fixture(scope='module')
def undisturbed(command, tmp_path_factory):
    """The folder of an undisturbed run."""
    home = tmp_path_factory.mktemp('undisturbed')
    run(*command, cwd=home)
    return home


@pytest.fixture
def run_copy(undisturbed, tmp_path):
    """A copy of the undisturbed run."""
    for folder in ('model', 'samples'):
        shutil.copytree(str(undisturbed / folder), str(tmp_path / folder))
    return tmp_path


def assert_same_run(home, undisturbed):
    """The last two checkpoints, tables, sheets and names of files are equal to the bit."""
    for step in (8, 12):
        actual, expected = (tensors(folder / 'model' / f'dcgan_toy-{step}')
                            for folder in (home, undisturbed))
        assert sorted(actual) == sorted(expected)
        for name, value in expected.items():
            assert actual[name].tobytes() == value.tobytes(), name
    for table in ('loss.csv', 'quality.csv'):
        actual, expected = ([{key: value for key, value in row.items() if key != 'seconds'}
                             for row in rows(folder / 'samples' / 'dcgan_toy' / table)]
                            for folder in (home, undisturbed))
        assert actual == expected
    actual, expected = ({name: (folder / 'samples' / 'dcgan_toy' / name).read_bytes()
                         for name in os.listdir(str(folder / 'samples' / 'dcgan_toy'))
                         if name.endswith(('.png', '.gif')) and name != 'loss.png'}
                        for folder in (home, undisturbed))
    assert actual == expected
    assert sorted(os.listdir(str(home / 'model'))) == sorted(os.listdir(str(undisturbed / 'model')))
    actual, expected = (os.listdir(str(folder / 'model' / 'best'))
                        for folder in (home, undisturbed))
    assert sorted(actual) == sorted(expected)


@costly
@pytest.mark.parametrize('seed', SEEDS)
def test_a_killed_run_resumes_bit_identically(command, undisturbed, tmp_path, seed):
    chance = random.Random(seed)
    killed = 0
    for number, first in enumerate((1, 5, 9)):
        # In or after a step, while a checkpoint is written or measured, while the GIF is made, or
        # while the graph is built.
        after = first + chance.randint(0, 3)
        with started(*command, cwd=tmp_path) as process:
            for line in process.stdout:
                if f'step {after}/' in line or (not number and line.startswith('computes in')):
                    break
            time.sleep(chance.uniform(0, 0.7))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        for _, prefix in checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy'):
            checkpoint.verify(prefix)
    assert killed >= 2      # the last kill may come after the end
    run(*command, cwd=tmp_path)
    assert_same_run(tmp_path, undisturbed)


@costly
@pytest.mark.parametrize('seed', SEEDS)
def test_a_run_stopped_at_random_moments_resumes_bit_identically(
        command, undisturbed, tmp_path, seed):
    chance = random.Random(seed)
    stopped = 0
    signals = chance.sample([(signal.SIGINT, 'interrupted'), (signal.SIGTERM, 'terminated')], 2)
    for longest, (number, word) in zip((4, 8), signals):    # seconds; the run may end before
        with started(*command, cwd=tmp_path) as process:
            for line in process.stdout:
                if line.startswith('checkpoints'):
                    break
            time.sleep(chance.uniform(0, longest))
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        if process.returncode:
            stopped += 1
            assert process.returncode == 128 + number, err
            assert err.splitlines()[-1].startswith((word, 'stopped at step ')), err
        assert 'Traceback' not in err
    assert stopped
    run(*command, cwd=tmp_path)
    actual, expected = (tensors(folder / 'model' / 'dcgan_toy-12')
                        for folder in (tmp_path, undisturbed))
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name


def damage(prefix, harm):
    data, index, settings = (prefix.parent / (prefix.name + ending) for ending in (
        '.data-00000-of-00001', '.index', '.json'))
    content = data.read_bytes()
    if harm == 'truncated':
        data.write_bytes(content[:len(content) // 2])
    elif harm == 'flipped':
        data.write_bytes(content[:4321] + bytes([content[4321] ^ 8]) + content[4322:])
    elif harm == 'index':
        index.write_bytes(index.read_bytes()[:200])
    elif harm == 'settings':
        settings.write_text('{"settings": ')
    elif harm == 'newer':
        settings.write_text(json.dumps(dict(json.loads(settings.read_text()), format=2)))


@pytest.mark.parametrize('harm', ['truncated', 'flipped', 'index', 'settings', 'newer'])
def test_a_damaged_checkpoint_is_not_readable(run_copy, capsys, harm):
    prefix = run_copy / 'model' / 'dcgan_toy-12'
    assert run_dir.is_readable(str(prefix))
    damage(prefix, harm)
    assert not run_dir.is_readable(str(prefix))
    assert capsys.readouterr().err.startswith(str(prefix))


@costly
def test_resume_falls_back_to_the_previous_checkpoint(command, undisturbed, run_copy):
    damage(run_copy / 'model' / 'dcgan_toy-12', 'flipped')
    _, err = run(*command, cwd=run_copy)
    assert f'{os.path.join("model", "dcgan_toy-12")}: is damaged' in err
    assert ': it is not used' in err
    assert_same_run(run_copy, undisturbed)
    for _, prefix in checkpoint.checkpoints_of(str(run_copy / 'model' / 'best'), 'dcgan_toy'):
        checkpoint.verify(prefix)


def test_resume_ends_if_all_are_damaged(command, run_copy):
    for name in os.listdir(str(run_copy / 'model')):
        if name.endswith('.index'):
            (run_copy / 'model' / name).write_bytes(b'nothing')
    best = run_copy / 'model' / 'best'
    (_, prefix), = checkpoint.checkpoints_of(str(best), 'dcgan_toy')
    damage(best / os.path.basename(prefix), 'newer')        # a newer version must not be removed
    before = sorted(os.listdir(str(best)))
    _, err = run(*command, cwd=run_copy, code=2)
    assert sorted(os.listdir(str(best))) == before
    assert 'error: model: none of the 3 checkpoints dcgan_toy-<step> is whole' in err


def test_a_second_run_into_the_same_folders_is_refused(command, tmp_path):
    with started(*command, '--max-steps', 100000, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('epoch'):
                break
        message = refused(*command, cwd=tmp_path)
        assert f'model: another run trains into it (process {process.pid} on ' in message
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert run_dir.LOCK in os.listdir(str(tmp_path / 'model'))
    with run_dir.lock(str(tmp_path / 'model')):      # a killed run locks nobody out
        pass
    assert run_dir.LOCK not in os.listdir(str(tmp_path / 'model'))


@pytest.mark.parametrize('number, code, sentence', [
    (signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 143, 'terminated')])
def test_a_signal_before_the_first_step_ends_the_run_with_one_sentence(
        command, tmp_path, number, code, sentence):
    with started(*command, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('checkpoints'):      # while TensorFlow is imported
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == sentence
    assert os.listdir(str(tmp_path / 'model')) == []


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    leftovers = [f'dcgan_toy-4.{ending}' for ending in (
        'json.part', 'index.tempstate123', 'data-00000-of-00001.tempstate123')]
    others = ['dcgan_lfw-4.index.tempstate123', 'dcgan_toy-4.index', 'my.json.part', 'notes']
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b'half')
    run_dir.remove_leftovers(str(tmp_path), 'dcgan_toy')
    assert sorted(os.listdir(str(tmp_path))) == others


@costly
def test_a_run_stopped_at_its_end_is_completed_on_resume(command, undisturbed, run_copy):
    samples = run_copy / 'samples' / 'dcgan_toy'
    path = run_copy / 'model' / 'dcgan_toy-12.json'
    details = json.loads(path.read_text())
    del details['figures']
    path.write_text(json.dumps(details))
    table = (samples / 'quality.csv').read_text().splitlines(True)
    (samples / 'quality.csv').write_text(''.join(table[:-1]))
    (samples / 'samples.gif').unlink()
    run(*command, cwd=run_copy)
    assert_same_run(run_copy, undisturbed)
    assert 'nothing left to do' in run(*command, cwd=run_copy)[0]


def test_model_dir_and_samples_dir_may_be_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, 'find_labels', lambda *_: sys.exit(7))     # both are locked
    with pytest.raises(SystemExit) as end:
        train.main(['--dataset', 'toy', '--model-dir', 'out', '--samples-dir', './out/'])
    assert end.value.code == 7


def test_too_little_free_space_is_refused(tmp_path, monkeypatch, capsys):
    args = train.parse(['--model-dir', str(tmp_path), '--max-to-keep', '3'])
    variables = {'v': tf.zeros([1000, 1000])}
    monkeypatch.setattr(run_dir.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 20 * 10 ** 6))
    run_dir.check_free_space(args, variables, 3)      # 5 of 4 MB
    run_dir.check_free_space(args, variables, 100, present=1)
    with pytest.raises(SystemExit):     # Saver removes one only after it has written one
        monkeypatch.setattr(run_dir.shutil, 'disk_usage',
                            lambda folder: shutil._ntuple_diskusage(0, 0, 7 * 10 ** 6))
        run_dir.check_free_space(args, variables, 3, present=10)
    assert '7 MB are free, up to 8 are needed for 2' in capsys.readouterr().err
    monkeypatch.setattr(run_dir.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 20 * 10 ** 6))
    with pytest.raises(SystemExit):
        run_dir.check_free_space(train.parse(
            ['--model-dir', str(tmp_path), '--max-to-keep', '5']), variables, 9)
    message = capsys.readouterr().err
    assert f'{tmp_path}: 20 MB are free, up to 28 are needed for 7 checkpoints' in message


def test_a_nearly_full_disk_is_named_before_a_run(command, tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 10 ** 6))
    # 12 steps need 5: 3 saves, the best one, and one while it is written.
    message = refused_here(*command, cwd=tmp_path)
    assert '--model-dir model: 1 MB are free, up to ' in message
    assert ' are needed for 5 checkpoints; --max-to-keep 1 needs the least' in message


@contextlib.contextmanager
def mounted(folder, size):
    """Mounts a new file system at a folder; skips the test if that is not allowed."""
    folder.mkdir()
    if os.system(f'mount -t tmpfs -o size={size} none {folder} 2>/dev/null'):
        pytest.skip('may not mount')
    try:
        yield
    finally:
        os.system(f'umount {folder}')


@costly
def test_a_full_disk_leaves_the_last_checkpoint(command, tmp_path):
    full = tmp_path / 'full'
    with mounted(full, '400m'):
        command = [*command, '--model-dir', str(full), '--max-to-keep', 1]
        with started(*command, cwd=tmp_path) as process:
            for line in process.stdout:
                if 'step 5/' in line:       # after the first checkpoint
                    with contextlib.suppress(OSError), open(str(full / 'other'), 'wb', 0) as f:
                        while f.write(bytes(10 ** 6)):
                            pass
                    break
            _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert err.splitlines()[-1].startswith('error: ') and 'are needed' not in err, err
        step, prefix = checkpoint.checkpoints_of(str(full), 'dcgan_toy')[-1]
        checkpoint.verify(prefix)
        (full / 'other').unlink()
        run(*command, cwd=tmp_path)
        assert checkpoint.checkpoints_of(str(full), 'dcgan_toy')[-1][0] == 12


@costly
def test_a_read_only_disk_is_named(command, undisturbed, tmp_path):
    disk = tmp_path / 'disk'
    with mounted(disk, '1m'):
        assert os.system(f'mount -o remount,ro {disk}') == 0
        reason = os.strerror(errno.EROFS)
        for folder in ('--model-dir', '--samples-dir', '--data-dir'):
            given = [*command, folder, disk / 'new']
            assert refused(*given, cwd=tmp_path) == f'error: {disk}/new: {reason}\n'
        given = ['generate.py', '--ckpt', undisturbed / 'model']
        assert refused(*given, '--out', disk, cwd=tmp_path).endswith(
            f'{disk}/faces_seed0.png: {reason}\n')


@costly
@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='Linux only')
def test_a_lack_of_file_handles_leaves_the_last_checkpoint(command, undisturbed, tmp_path):
    with started(*command, cwd=tmp_path) as process:
        for line in process.stdout:
            if 'step 5/' in line:       # after the first checkpoint
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 3))
                break
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.splitlines()[-1].endswith(os.strerror(errno.EMFILE)), err
    assert 'Traceback' not in err
    checkpoint.verify(checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy')[-1][1])
    run(*command, cwd=tmp_path)
    assert_same_run(tmp_path, undisturbed)


@costly
def test_a_deleted_folder_leaves_the_last_checkpoint(command, tmp_path):
    with started(*command, '--max-steps', 100000, cwd=tmp_path) as process:
        for line in process.stdout:
            if 'step 5/' in line:
                os.rename(str(tmp_path / 'samples'), str(tmp_path / 'away'))      # at once
                break
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert 'Traceback' not in err and err.splitlines()[-1].startswith('error: ')
    checkpoint.verify(checkpoint.checkpoints_of(str(tmp_path / 'model'), 'dcgan_toy')[-1][1])


# A program whose process is killed right after its n-th rename.
KILLED = '''
import os, runpy, signal, sys
count = int(sys.argv[1])
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))

def killing(rename):
    def renamed(*args):
        global count
        rename(*args)
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
    return renamed

os.rename, os.replace = killing(os.rename), killing(os.replace)
runpy.run_path(sys.argv[0], run_name='__main__')
'''


@costly
@pytest.mark.parametrize('program, options', [
    ('generate.py', ['--num', 1, '--out', 'faces', '--save-generator', 'g']),
    ('export.py', ['--format', 'savedmodel', '--out', 'g'])])
def test_a_program_killed_at_any_rename_leaves_all_old_files_or_all_new(
        home, tmp_path, program, options):
    def saved(step):
        return [program, '--ckpt', home / 'model' / f'dcgan_toy-{step}', *options]

    def drawing():
        """Checks that the files can draw; returns their metadata."""
        if program == 'export.py':
            export.draw_savedmodel(str(tmp_path / 'g'), [{'noise': [[0.5] * 100]}])
            return (tmp_path / 'g' / 'assets.extra' / 'generator.json').read_text()
        checkpoint.verify(str(tmp_path / 'g'))
        return (tmp_path / 'g.json').read_text()

    states = []
    for step in (6, 4):
        run_here(*saved(step), cwd=tmp_path)
        states.append(drawing())
    new, old = states
    states = []
    for count in range(1, 20):
        run_here(*saved(4), cwd=tmp_path)
        code = subprocess.call([sys.executable, '-c', KILLED, str(count), os.path.join(
            ROOT, program), *map(str, saved(6)[1:])], cwd=str(tmp_path), stdout=subprocess.DEVNULL)
        files.finish_replacing(str(tmp_path))
        states.append(drawing())
        if not code:
            break
        assert code == -signal.SIGKILL
    assert states[-1] == new and old in states[:-1] and new in states[:-1]
    assert states == sorted(states, key=[old, new].index)
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith('.')]


def test_data_without_an_index_is_removed_on_resume(run_copy):
    data = run_copy / 'model' / 'dcgan_toy-16.data-00000-of-00001'
    best = run_copy / 'model' / 'best' / 'dcgan_toy-16.json'
    others = run_copy / 'model' / 'dcgan_lfw-16.data-00000-of-00001'
    for path in (data, best, others):
        path.write_bytes(b'left by a kill')
    run_dir.remove_leftovers(str(run_copy / 'model'), 'dcgan_toy')
    assert [path.exists() for path in (data, best, others)] == [False, False, True]
    for _, prefix in checkpoint.checkpoints_of(str(run_copy / 'model'), 'dcgan_toy'):
        checkpoint.verify(prefix)
