"""Puts the project's folder and the golden figures' scripts on the path, and sets TensorFlow up."""
import os
import signal
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests', 'golden')]

from dcgan import session  # noqa: E402  found by the line above

tf = session.set_up()

# A shell that runs the tests in the background, or nohup, has them ignore these, and the programs
# that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

costly = pytest.mark.skipif(
    tf.__version__.startswith('1.') and 'RUNS' not in os.environ,
    reason='four minutes on TensorFlow 1.15; RUNS=1 has it run')


@pytest.fixture(scope='session')
def toy(home):
    """The options of TOY with the photographs that home has decoded."""
    from running import TOY
    return [*TOY, '--data-dir', home / 'datasets']


@pytest.fixture(scope='session')
def home(tmp_path_factory):
    """A folder in which the toy set was trained on for 6 steps."""
    from running import TOY, run
    folder = tmp_path_factory.mktemp('home')
    out, err = run('train.py', *TOY, '--max-steps', 6, '--log-every', 2, '--sample-every', 3,
                   '--save-every', 2, '--max-to-keep', 2, '--augment', 'flip', cwd=folder)
    assert 'epoch 1/1 step 6/6 · d ' in out
    assert err == 'reading 4,000 photographs of toy\n'        # nothing of TensorFlow's
    return folder
