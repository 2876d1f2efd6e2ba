"""Atomic writing and replacing of files, for all programs.

A reader finds either the old content or the new one, also after a kill.
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
# Names of a folder beside the files that it replaces.
STAGED = re.compile(r'\..+\.' + HOST + r'\.(\d+)\.new')     # while a process of this host fills it
READY = re.compile(r'\..+\.ready')                         # once its content counts
REMOVED, OLD = '.removed', '.old'       # in that folder: list of names to remove, replaced files


@contextlib.contextmanager
def atomic_write(path, shared=False, ending=''):
    """Yields a path to write to; the file there becomes `path` in one rename.

    An error leaves the file at `path` as it was; an OSError names `path`. shared: whether other
    processes may write the same file at the same time. ending: ending of the yielded path, for a
    library that derives the format from it.
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
    """Returns the ending of a shared file while this process writes it."""
    return f'.{HOST}.{os.getpid()}.part'


def write_json(path, content):
    """Writes a dict to a JSON file."""
    with atomic_write(path) as partial, open(partial, 'w', encoding='utf-8') as f:
        json.dump(content, f, indent=1)
        f.write('\n')


@contextlib.contextmanager
def replacing(path, removed=list):
    """Yields a folder; the files that the block writes there replace those of the same names.

    The replaced files lie beside `path`. All are replaced together or none, folders too. When the
    block ends, one rename makes the new files count. If a kill interrupts the moves after it,
    finish_replacing completes them. removed: a function that returns names beside `path` to
    remove, except those that the block writes.
    """
    parent = os.path.dirname(path) or '.'
    stem = os.path.join(parent, f'.{os.path.basename(path)}.{HOST}.{os.getpid()}')
    os.makedirs(parent, exist_ok=True)
    finish_replacing(parent)
    shutil.rmtree(stem + '.new', ignore_errors=True)
    os.mkdir(stem + '.new')
    try:
        yield stem + '.new'
        removed_names = sorted(set(removed()) - set(os.listdir(stem + '.new')))
        with open(os.path.join(stem + '.new', REMOVED), 'w', encoding='utf-8') as f:
            json.dump(removed_names, f)
        os.rename(stem + '.new', stem + '.ready')
    finally:
        shutil.rmtree(stem + '.new', ignore_errors=True)
    _move(stem + '.ready')


def finish_replacing(folder):
    """Completes a killed process's replacements in a folder; removes unfinished staged folders."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        staged = STAGED.fullmatch(name)
        if staged and not is_running(int(staged.group(1))):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        elif READY.fullmatch(name) and os.path.exists(os.path.join(folder, name, REMOVED)):
            _move(os.path.join(folder, name))


def _move(ready):
    """Moves a ready folder's content beside it; a lock lets one process at a time do so."""
    parent, old = os.path.dirname(ready), os.path.join(ready, OLD)
    with contextlib.suppress(FileNotFoundError), _locked(ready):
        with open(os.path.join(ready, REMOVED), encoding='utf-8') as f:
            removed_names = json.load(f)
        os.makedirs(old, exist_ok=True)
        for name in removed_names:
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(parent, name), os.path.join(old, name))
        for name in sorted(set(os.listdir(ready)) - {REMOVED, OLD}):
            target = os.path.join(parent, name)
            if os.path.isdir(target) and not os.path.islink(target):  # os.replace can't replace it
                os.replace(target, os.path.join(old, name))
            os.replace(os.path.join(ready, name), target)
        finished = ready[:-len('.ready')] + '.new'
        os.rename(ready, finished)      # a half-removed ready folder would be completed again
        shutil.rmtree(finished, ignore_errors=True)


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
    """Whether a process of this host runs; always True on Windows, which has no safe check."""
    if os.name == 'nt':     # os.kill would send Ctrl-C or end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
