"""The one place where TensorFlow is set up: graph mode and what it prints.

The programs call `set_up` once their options are checked, and import what needs TensorFlow after
it: so `--help` and a mistyped option answer at once, and the chatter is off before it begins.
"""
import contextlib
import os
import shutil
import sys
import tempfile
import warnings


def set_up(verbose=False):
    """Imports TensorFlow for graphs in the manner of version 1 and returns `tf.compat.v1`.

    Without verbose its deprecations, processor flags and other log lines are not shown; errors
    are raised as ever.
    """
    if verbose:
        import tensorflow.compat.v1 as tf
    else:
        os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter('ignore', category)
        # TensorFlow 1.15 reads the variable in time, and may have to say that the processor is
        # too old before it aborts.
        old = sys.version_info < (3, 8)
        with contextlib.nullcontext() if old else _held_back_stderr():
            import tensorflow.compat.v1 as tf
        tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    return tf


@contextlib.contextmanager
def _held_back_stderr():
    """Keeps what C++ writes to standard error from being seen, unless the block raises.

    TensorFlow 2.21 logs before it reads TF_CPP_MIN_LOG_LEVEL, so while it is imported only the
    file descriptor helps.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            with os.fdopen(os.dup(kept), 'wb') as stderr:
                shutil.copyfileobj(held, stderr)
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
