"""What a run survives: being killed, damaged checkpoints, a second run, a full disk.

    RUNS=7 python -m pytest tests/test_faults.py -k "killed_run or random_moments"     more of them
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
from dcgan import checkpoint, files, recorder, run_dir
from running import TOY, refused, refused_here, rows, run, run_here, started, tensors

SEEDS = range(int(os.environ.get('RUNS', '1')))


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """A run, its photographs decoded once for all tests."""
    return ['train.py', *TOY, '--data-dir', tmp_path_factory.mktemp('datasets'), '--max-steps', 12,
            '--log-every', 1, '--save-every', 4, '--sample-every', 3, '--recipe', 'best',
            '--fused-step', '--precision', 'auto', '--diffaugment', 'color', '--deterministic',
            '--resume']


@pytest.fixture(scope='module')
def whole(command, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    home = tmp_path_factory.mktemp('whole')
    run(*command, cwd=home)
    return home


@pytest.fixture
def another(whole, tmp_path):
    """A copy of it."""
    for folder in ('model', 'samples'):
        shutil.copytree(str(whole / folder), str(tmp_path / folder))
    return tmp_path


def assert_same_run(home, whole):
    for step in (8, 12):
        mine, theirs = (tensors(folder / 'model' / f'dcgan_toy-{step}') for folder in (home, whole))
        assert sorted(mine) == sorted(theirs)
        for name, value in theirs.items():
            assert mine[name].tobytes() == value.tobytes(), name
    for table in ('loss.csv', 'quality.csv'):
        mine, theirs = ([{key: value for key, value in row.items() if key != 'seconds'}
                         for row in rows(folder / 'samples' / 'dcgan_toy' / table)]
                        for folder in (home, whole))
        assert mine == theirs
    sheets, others = ({name: (folder / 'samples' / 'dcgan_toy' / name).read_bytes()
                       for name in os.listdir(str(folder / 'samples' / 'dcgan_toy'))
                       if name.endswith(('.png', '.gif')) and name != 'loss.png'}
                      for folder in (home, whole))
    assert sheets == others
    assert sorted(os.listdir(str(home / 'model'))) == sorted(os.listdir(str(whole / 'model')))
    best, others = (os.listdir(str(folder / 'model' / 'best')) for folder in (home, whole))
    assert sorted(best) == sorted(others)


@costly
@pytest.mark.parametrize('seed', SEEDS)
def test_a_killed_run_ends_as_if_it_had_not_been(command, whole, tmp_path, seed):
    chance = random.Random(seed)
    killed = 0
    for number, first in enumerate((1, 5, 9)):
        # In a step or after one, while a checkpoint is written, measured or the GIF is made; or
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
    assert killed >= 2      # the last one may come too late
    run(*command, cwd=tmp_path)
    assert_same_run(tmp_path, whole)


@costly
@pytest.mark.parametrize('seed', SEEDS)
def test_stopped_at_random_moments_it_saves_and_goes_on(command, whole, tmp_path, seed):
    chance = random.Random(seed)
    stopped = 0
    signals = chance.sample([(signal.SIGINT, 'interrupted'), (signal.SIGTERM, 'terminated')], 2)
    for longest, (number, word) in zip((4, 8), signals):    # seconds; by then it may have ended
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
    mine, theirs = (tensors(folder / 'model' / 'dcgan_toy-12') for folder in (tmp_path, whole))
    for name, value in theirs.items():
        assert mine[name].tobytes() == value.tobytes(), name


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
def test_a_damaged_checkpoint_is_not_whole(another, capsys, harm):
    prefix = another / 'model' / 'dcgan_toy-12'
    assert train.is_whole(str(prefix))
    damage(prefix, harm)
    assert not train.is_whole(str(prefix))
    assert capsys.readouterr().err.startswith(str(prefix))


@costly
def test_resume_falls_back_to_the_checkpoint_before(command, whole, another):
    damage(another / 'model' / 'dcgan_toy-12', 'flipped')
    _, err = run(*command, cwd=another)
    assert f'{os.path.join("model", "dcgan_toy-12")}: is damaged' in err
    assert ': it is not used' in err
    assert_same_run(another, whole)
    for _, prefix in checkpoint.checkpoints_of(str(another / 'model' / 'best'), 'dcgan_toy'):
        checkpoint.verify(prefix)


def test_where_all_are_damaged_none_is_taken(command, another):
    for name in os.listdir(str(another / 'model')):
        if name.endswith('.index'):
            (another / 'model' / name).write_bytes(b'nothing')
    best = another / 'model' / 'best'
    (_, prefix), = checkpoint.checkpoints_of(str(best), 'dcgan_toy')
    damage(best / os.path.basename(prefix), 'newer')        # of a newer version: not ours to remove
    before = sorted(os.listdir(str(best)))
    _, err = run(*command, cwd=another, code=2)
    assert sorted(os.listdir(str(best))) == before
    assert 'error: model: none of the 3 checkpoints dcgan_toy-<step> is whole' in err


def test_a_second_run_is_kept_out(command, tmp_path):
    with started(*command, '--max-steps', 100000, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('epoch'):
                break
        message = refused(*command, cwd=tmp_path)
        assert f'model: another run trains into it (process {process.pid} on ' in message
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert run_dir.LOCK in os.listdir(str(tmp_path / 'model'))
    with run_dir.lock(str(tmp_path / 'model')):      # a killed run keeps nobody out
        pass
    assert run_dir.LOCK not in os.listdir(str(tmp_path / 'model'))


@pytest.mark.parametrize('number, code, sentence', [
    (signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 143, 'terminated')])
def test_a_signal_before_the_first_step_ends_in_a_sentence(command, tmp_path, number, code,
                                                           sentence):
    with started(*command, cwd=tmp_path) as process:
        for line in process.stdout:
            if line.startswith('checkpoints'):      # while TensorFlow is imported
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == sentence
    assert os.listdir(str(tmp_path / 'model')) == []


def test_what_a_killed_save_left_is_removed(tmp_path):
    left = [f'dcgan_toy-4.{ending}' for ending in (
        'json.part', 'index.tempstate123', 'data-00000-of-00001.tempstate123')]
    others = ['dcgan_lfw-4.index.tempstate123', 'dcgan_toy-4.index', 'my.json.part', 'notes']
    for name in left + others:
        (tmp_path / name).write_bytes(b'half')
    run_dir.remove_leftovers(str(tmp_path), 'dcgan_toy')
    assert sorted(os.listdir(str(tmp_path))) == others


@costly
def test_a_run_stopped_at_its_end_is_completed(command, whole, another):
    samples = another / 'samples' / 'dcgan_toy'
    path = another / 'model' / 'dcgan_toy-12.json'
    facts = json.loads(path.read_text())
    del facts['figures']
    path.write_text(json.dumps(facts))
    table = (samples / 'quality.csv').read_text().splitlines(True)
    (samples / 'quality.csv').write_text(''.join(table[:-1]))
    (samples / 'samples.gif').unlink()
    run(*command, cwd=another)
    assert_same_run(another, whole)
    assert 'nothing left to do' in run(*command, cwd=another)[0]


def test_one_folder_for_both_does_not_keep_itself_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, 'train_on', lambda *_: 7)
    assert train.main(['--dataset', 'toy', '--model-dir', 'out', '--samples-dir', './out/']) == 7


def test_free_space_is_checked_before(tmp_path, monkeypatch, capsys):
    args = train.parse(['--model-dir', str(tmp_path), '--max-to-keep', '3'])
    variables = {'v': tf.zeros([1000, 1000])}
    monkeypatch.setattr(recorder.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 20 * 10 ** 6))
    recorder.check_free_space(args, variables, 3)      # 5 of 4 MB
    recorder.check_free_space(args, variables, 100, there=1)
    with pytest.raises(SystemExit):     # Saver removes one only after it has written one
        monkeypatch.setattr(recorder.shutil, 'disk_usage',
                            lambda folder: shutil._ntuple_diskusage(0, 0, 7 * 10 ** 6))
        recorder.check_free_space(args, variables, 3, there=10)
    assert '7 MB are free, up to 8 are needed for 2' in capsys.readouterr().err
    monkeypatch.setattr(recorder.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 20 * 10 ** 6))
    with pytest.raises(SystemExit):
        recorder.check_free_space(train.parse(['--model-dir', str(tmp_path)]), variables, 9)
    message = capsys.readouterr().err
    assert f'{tmp_path}: 20 MB are free, up to 28 are needed for 7 checkpoints' in message


def test_a_disk_that_is_nearly_full_is_named_before_a_run(command, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder.shutil, 'disk_usage',
                        lambda folder: shutil._ntuple_diskusage(0, 0, 10 ** 6))
    # Of 12 steps 3 are saved; the best one, one in the writing.
    message = refused_here(*command, cwd=tmp_path)
    assert '--model-dir model: 1 MB are free, up to ' in message
    assert ' are needed for 5 checkpoints; --max-to-keep 1 needs the least' in message


@contextlib.contextmanager
def mounted(folder, size):
    """A file system of its own in folder; where none may be mounted, the test is skipped."""
    folder.mkdir()
    if os.system(f'mount -t tmpfs -o size={size} none {folder} 2>/dev/null'):
        pytest.skip('may not mount')
    try:
        yield
    finally:
        os.system(f'umount {folder}')


@costly
def test_a_disk_that_is_full_leaves_the_last_checkpoint(command, tmp_path):
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
def test_a_read_only_disk_is_named(command, whole, tmp_path):
    disk = tmp_path / 'disk'
    with mounted(disk, '1m'):
        assert os.system(f'mount -o remount,ro {disk}') == 0
        reason = os.strerror(errno.EROFS)
        for folder in ('--model-dir', '--samples-dir', '--data-dir'):
            given = [*command, folder, disk / 'new']
            assert refused(*given, cwd=tmp_path) == f'error: {disk}/new: {reason}\n'
        given = ['generate.py', '--ckpt', whole / 'model']
        assert refused(*given, '--out', disk, cwd=tmp_path).endswith(
            f'{disk}/faces_seed0.png: {reason}\n')


@costly
@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='Linux only')
def test_without_file_handles_the_last_checkpoint_is_left(command, whole, tmp_path):
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
    assert_same_run(tmp_path, whole)


@costly
def test_a_folder_deleted_under_a_run(command, tmp_path):
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
def test_a_program_killed_at_each_rename_leaves_what_it_replaced_or_the_new(
        home, tmp_path, program, options):
    def saved(step):
        return [program, '--ckpt', home / 'model' / f'dcgan_toy-{step}', *options]

    def drawing():
        """The metadata of what is there, which must draw."""
        if program == 'export.py':
            export.draw_savedmodel(str(tmp_path / 'g'), [{'noise': [[0.5] * 100]}])
            return (tmp_path / 'g' / 'assets.extra' / 'generator.json').read_text()
        checkpoint.verify(str(tmp_path / 'g'))
        return (tmp_path / 'g.json').read_text()

    both = []
    for step in (6, 4):
        run_here(*saved(step), cwd=tmp_path)
        both.append(drawing())
    new, old = both
    found = []
    for count in range(1, 20):
        run_here(*saved(4), cwd=tmp_path)
        code = subprocess.call([sys.executable, '-c', KILLED, str(count), os.path.join(
            ROOT, program), *map(str, saved(6)[1:])], cwd=str(tmp_path), stdout=subprocess.DEVNULL)
        files.finish_replacing(str(tmp_path))
        found.append(drawing())
        if not code:
            break
        assert code == -signal.SIGKILL
    assert found[-1] == new and old in found[:-1] and new in found[:-1]
    assert found == sorted(found, key=[old, new].index)
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith('.')]


def test_data_without_an_index_is_removed_by_the_run_that_goes_on(another):
    data = another / 'model' / 'dcgan_toy-16.data-00000-of-00001'
    best = another / 'model' / 'best' / 'dcgan_toy-16.json'
    others = another / 'model' / 'dcgan_lfw-16.data-00000-of-00001'
    for path in (data, best, others):
        path.write_bytes(b'left by a kill')
    run_dir.remove_leftovers(str(another / 'model'), 'dcgan_toy')
    assert [path.exists() for path in (data, best, others)] == [False, False, True]
    for _, prefix in checkpoint.checkpoints_of(str(another / 'model'), 'dcgan_toy'):
        checkpoint.verify(prefix)
