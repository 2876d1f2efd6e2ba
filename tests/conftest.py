"""Puts the project and tests/golden on the path, sets TensorFlow up, and has shared fixtures."""
import argparse
import glob
import os
import runpy
import signal
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests', 'golden')]

from dcgan import session  # noqa: E402  found by the line above

tf = session.set_up()
TF1 = tf.__version__.startswith('1.')

# A shell that runs the tests in the background, or nohup, makes them and the programs that they
# start ignore these signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def has_bfloat16():
    """Whether --precision bfloat16 is accepted here."""
    try:
        return bool(session.choose_precision('bfloat16'))
    except ValueError:
        return False


costly = pytest.mark.skipif(
    (TF1 or 'SKIP_COSTLY' in os.environ) and 'RUNS' not in os.environ,
    reason='slow and hardly about TensorFlow; RUNS=1 runs it')


# Files that take minutes, the longest first: begun last, one of them would run alone at the end.
SLOW = ['test_cluster.py', 'test_programs.py', 'test_faults.py', 'test_parity.py', 'test_graph.py',
        'test_resume.py', 'test_evaluate.py', 'test_attributes.py', 'test_hosts.py',
        'test_notebook.py', 'test_streams.py', 'test_recorder.py', 'test_tf115.py']


def pytest_configure(config):
    if hasattr(config.option, 'loadscopereorder'):      # by the number of tests, in newer xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.fspath.basename)
               if item.fspath.basename in SLOW else len(SLOW))


@pytest.fixture(scope='session')
def parsers():
    """{program: its argparse parser}; each program is run only up to its parser."""
    by_program = {}

    def record(parser, *_):
        by_program[program] = parser
        sys.exit()

    paths = [path for folder in ('.', 'benchmarks', 'web')
             for path in sorted(glob.glob(os.path.join(ROOT, folder, '*.py')))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_known_args', record)
        patch.setattr(sys, 'path', list(sys.path))
        for path in paths:
            with open(path, encoding='utf-8') as f:
                is_program = "__name__ == '__main__'" in f.read()
            if is_program:
                program = os.path.relpath(path, ROOT)
                with pytest.raises(SystemExit):
                    runpy.run_path(path, run_name='__main__')
    return by_program


@pytest.fixture(scope='session')
def toy(home):
    """The options of TOY, and the --data-dir of home, where the toy set is decoded."""
    from running import TOY
    return [*TOY, '--data-dir', home / 'datasets']


@pytest.fixture(scope='session')
def home(tmp_path_factory):
    """A folder with a run of 6 steps on the toy set."""
    from running import TOY, run
    folder = tmp_path_factory.mktemp('home')
    out, err = run('train.py', *TOY, '--max-steps', 6, '--log-every', 2, '--sample-every', 3,
                   '--save-every', 2, '--max-to-keep', 2, '--augment', 'flip', cwd=folder)
    assert 'epoch 1/1 step 6/6 · d ' in out
    first, *progress = err.splitlines()         # and no message of TensorFlow
    assert first == 'reading 4,000 photographs of toy'
    assert all(line.endswith(' of 4,000 photographs') for line in progress)     # every ten seconds
    return folder


@pytest.fixture(scope='module')
def attribute_checkpoint(tmp_path_factory):
    """The prefix of a small generator's checkpoint with two attributes."""
    import attribute_generator
    return attribute_generator.write(tmp_path_factory.mktemp('attribute_generator'))
