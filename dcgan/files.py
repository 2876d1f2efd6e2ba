"""The one way in which files are written and replaced.

Whoever reads a file, and whoever comes after a kill, finds the old content or the new one.
"""
import contextlib
import json
import os
import re
import shutil
import socket

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None

HOST = re.sub(r'[^\w-]', '_', socket.gethostname())
# A folder beside the files that it replaces: while it is written, and once its content counts.
STAGED = re.compile(r'\..+\.' + HOST + r'\.(\d+)\.new')     # of this host's processes
READY = re.compile(r'\..+\.ready')
REMOVED, OLD = '.removed', '.old'       # in such a folder: names to remove, what was replaced


@contextlib.contextmanager
def atomic_write(path, shared=False, ending=''):
    """Yields a path to write to; the file there becomes `path` in one rename.

    An error leaves what was at `path`; an OSError names it. shared: whether other processes may
    write the same file at the same time. ending: of the path to write to, for a library that tells
    the format by it.
    """
    partial = path + (partial_ending() if shared else '.part') + ending
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, partial):       # a full disk names no file
            error.filename = path
        raise
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def partial_ending():
    """The ending of a file that several processes may write, while this one writes it."""
    return f'.{HOST}.{os.getpid()}.part'


def write_json(path, content):
    """Writes a dict as JSON."""
    with atomic_write(path) as partial, open(partial, 'w', encoding='utf-8') as f:
        json.dump(content, f, indent=1)
        f.write('\n')


@contextlib.contextmanager
def replacing(path, removed=list):
    """Yields a folder; what the block writes there replaces the files of the same names.

    They lie beside `path` and are replaced together, all or none, folders too. When the block
    ends, one rename makes the new ones count; what a kill then leaves undone, finish_replacing
    does. removed: gives names beside `path` that go away, unless the block writes them anew.
    """
    place = os.path.dirname(path) or '.'
    stem = os.path.join(place, f'.{os.path.basename(path)}.{HOST}.{os.getpid()}')
    os.makedirs(place, exist_ok=True)
    finish_replacing(place)
    shutil.rmtree(stem + '.new', ignore_errors=True)
    os.mkdir(stem + '.new')
    try:
        yield stem + '.new'
        without = sorted(set(removed()) - set(os.listdir(stem + '.new')))
        with open(os.path.join(stem + '.new', REMOVED), 'w', encoding='utf-8') as f:
            json.dump(without, f)
        os.rename(stem + '.new', stem + '.ready')
    finally:
        shutil.rmtree(stem + '.new', ignore_errors=True)
    _move(stem + '.ready')


def finish_replacing(place):
    """Completes in a folder what a killed process began to replace; removes what it staged."""
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        staged = STAGED.fullmatch(name)
        if staged and not is_running(int(staged.group(1))):
            shutil.rmtree(os.path.join(place, name), ignore_errors=True)
        elif READY.fullmatch(name) and os.path.exists(os.path.join(place, name, REMOVED)):
            _move(os.path.join(place, name))


def _move(ready):
    """Moves a folder's content beside it; several processes may do so, one after the other."""
    place, old = os.path.dirname(ready), os.path.join(ready, OLD)
    with contextlib.suppress(FileNotFoundError), _locked(ready):
        with open(os.path.join(ready, REMOVED), encoding='utf-8') as f:
            removed = json.load(f)
        os.makedirs(old, exist_ok=True)
        for name in removed:
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(place, name), os.path.join(old, name))
        for name in sorted(set(os.listdir(ready)) - {REMOVED, OLD}):
            target = os.path.join(place, name)
            if os.path.isdir(target) and not os.path.islink(target):    # os.replace takes files
                os.replace(target, os.path.join(old, name))
            os.replace(os.path.join(ready, name), target)
        done = ready[:-len('.ready')] + '.new'
        os.rename(ready, done)      # half removed it must not be taken for one to complete
        shutil.rmtree(done, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder):
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):      # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_running(pid):
    """Whether a process of this host runs; on Windows, which has no harmless question, True."""
    if os.name == 'nt':     # there os.kill would send Ctrl-C or end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
