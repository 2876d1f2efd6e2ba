"""Puts the project's folder and the golden figures' scripts on the path, and sets TensorFlow up."""
import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests', 'golden')]

import session  # noqa: E402  found by the line above

session.set_up()

# A shell that runs the tests in the background has them ignore it, and the programs they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
