"""Puts the project's folder and the golden figures' scripts on the path, and sets TensorFlow up."""
import os
import signal
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests', 'golden')]

import session  # noqa: E402  found by the line above

tf = session.set_up()

# A shell that runs the tests in the background has them ignore it, and the programs they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

costly = pytest.mark.skipif(
    tf.__version__.startswith('1.') and 'RUNS' not in os.environ,
    reason='four minutes on TensorFlow 1.15; RUNS=1 has it run')
