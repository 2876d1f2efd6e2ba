"""A kill at any moment leaves the old content of files or the new one, never a mixture."""
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT
from dcgan import files

# Code that runs after it is killed right before or after its n-th operation on a file name.
KILLER = '''
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from dcgan import files
count, moment = int(sys.argv[2]), sys.argv[3]

def killing(change):
    def changed(*args, **options):
        global count
        count -= 1
        if count == 0 and moment == 'before':
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            change(*args, **options)
        finally:
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return changed

for name in ('replace', 'rename', 'remove', 'unlink', 'rmdir', 'mkdir', 'link'):
    setattr(os, name, killing(getattr(os, name)))
'''
REPLACE = KILLER + '''
with files.replacing('set', removed=lambda: ['only_old']) as folder:
    for name in ('a', 'b', 'only_new'):
        with open(os.path.join(folder, name), 'w') as f:
            f.write('new')
    os.makedirs(os.path.join(folder, 'tree', 'sub'))
    with open(os.path.join(folder, 'tree', 'sub', 'x'), 'w') as f:
        f.write('new')
'''


def killed(code, folder, count, moment):
    """Runs code; returns whether it was killed at its count-th operation on a file name."""
    exit_code = subprocess.call([sys.executable, '-c', code, ROOT, str(count), moment],
                                cwd=str(folder))
    assert exit_code in (0, -9)
    return exit_code != 0


def content(folder):
    """{path: text} of all files in a folder."""
    return {os.path.relpath(os.path.join(top, name), str(folder)): open(
        os.path.join(top, name)).read() for top, _, names in os.walk(str(folder)) for name in names}


OLD = {'a': 'old', 'b': 'old', 'only_old': 'old', os.path.join('tree', 'y'): 'old'}
NEW = {'a': 'new', 'b': 'new', 'only_new': 'new', os.path.join('tree', 'sub', 'x'): 'new'}


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_kill_at_any_file_operation_leaves_all_old_files_or_all_new(tmp_path, moment):
    results = []
    for count in range(1, 100):
        folder = tmp_path / str(count)
        (folder / 'tree').mkdir(parents=True)
        for name, text in OLD.items():
            (folder / name).write_text(text)
        was_killed = killed(REPLACE, folder, count, moment)
        files.finish_replacing(str(folder))
        results.append(content(folder))
        assert results[-1] in (OLD, NEW), count
        if not was_killed:
            break
    assert results[-1] == NEW and OLD in results and results.count(NEW) > 5
    assert results == sorted(results, key=[OLD, NEW].index)


def test_a_kill_while_a_replacement_is_completed_loses_nothing(tmp_path):
    complete = KILLER + "files.finish_replacing('.')"
    first = next(count for count in range(1, 100)
                 if os.path.exists(str(interrupted(tmp_path / str(count), count))))
    for count in range(1, 100):
        folder = tmp_path / f'again{count}'
        interrupted(folder, first)
        was_killed = killed(complete, folder, count, 'before')
        files.finish_replacing(str(folder))
        assert content(folder) == NEW
        if not was_killed:
            assert count > 5
            return


def interrupted(folder, count):
    """The folder of the new files after a kill; it exists only if the new files count already."""
    (folder / 'tree').mkdir(parents=True)
    for name, text in OLD.items():
        (folder / name).write_text(text)
    killed(REPLACE, folder, count, 'after')
    ready = [name for name in os.listdir(str(folder)) if name.endswith('.ready')]
    return folder / (ready[0] if ready else 'none')


def test_an_error_in_replacing_leaves_the_old_files(tmp_path):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(KeyboardInterrupt), files.replacing(str(tmp_path / 'a')) as folder:
        with open(os.path.join(folder, 'a'), 'w') as f:
            f.write('half')
        raise KeyboardInterrupt
    assert content(tmp_path) == {'a': 'old'}


def test_an_error_in_atomic_write_leaves_the_old_file_and_names_it(tmp_path):
    path = str(tmp_path / 'a.json')
    files.write_json(path, {'is': 'old'})
    with pytest.raises(TypeError):
        files.write_json(path, {'is': object()})
    with pytest.raises(OSError, match='a.json') as caught, files.atomic_write(path):
        raise OSError(28, 'No space left on device')
    assert caught.value.filename == path
    assert os.listdir(str(tmp_path)) == ['a.json'] and json.loads(
        (tmp_path / 'a.json').read_text()) == {'is': 'old'}


@pytest.mark.parametrize('path', ['g', './g', 'sub//g', os.path.join('{}', 'g')])
def test_a_second_write_under_any_form_of_a_path_replaces_the_first(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = path.format(tmp_path)
    for text in ('old', 'new'):
        with files.replacing(path, removed=lambda: ['g.a', 'g.b']) as folder:
            for ending in ('.a', '.b') if text == 'old' else ('.a',):
                with open(os.path.join(folder, 'g' + ending), 'w') as f:
                    f.write(text)
        files.write_json(path + '.json', {'is': text})
    folder = tmp_path / os.path.dirname(path)
    assert sorted(os.listdir(str(folder))) == ['g.a', 'g.json']
    assert (folder / 'g.a').read_text() == 'new' and 'new' in (folder / 'g.json').read_text()


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f'.g.{files.HOST}.{pid}.new').mkdir()
    (tmp_path / '.mine.ready').mkdir()      # not of this program
    files.finish_replacing(str(tmp_path))
    assert sorted(os.listdir(str(tmp_path))) == [f'.g.{files.HOST}.{os.getpid()}.new',
                                                 '.mine.ready']


def test_on_windows_no_signal_is_sent(monkeypatch):
    monkeypatch.setattr(files.os, 'name', 'nt')
    monkeypatch.setattr(files.os, 'kill', lambda *_: pytest.fail('os.kill was called'))
    assert files.is_running(1)
