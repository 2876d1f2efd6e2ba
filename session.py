"""The one place where TensorFlow is set up: graph mode, what it prints, its sessions' precision.

The programs call `set_up` once their options are checked, and import what needs TensorFlow after
it: so `--help` and a mistyped option answer at once, and the chatter is off before it begins.
"""
import contextlib
import os
import platform
import shutil
import sys
import tempfile
import warnings

BFLOAT16_REWRITER = 'auto_mixed_precision_onednn_bfloat16'     # of RewriterConfig, in TensorFlow 2
REWRITER_ON = 1                                                # RewriterConfig.ON
BFLOAT16_UNITS = {'avx512_bf16', 'amx_bf16'}                   # as /proc/cpuinfo names them


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


def choose_precision(asked):
    """(precision, why) for `float32`, `bfloat16` or `auto`.

    auto takes bfloat16 where the processor multiplies matrices in it; elsewhere it is slower than
    float32. Raises ValueError where bfloat16 is asked of a TensorFlow that lacks it.
    """
    import tensorflow.compat.v1 as tf
    units = sorted(BFLOAT16_UNITS & _processor_flags())
    if not hasattr(tf.ConfigProto().graph_options.rewrite_options, BFLOAT16_REWRITER):
        able, why = False, f'TensorFlow {tf.__version__} has no bfloat16 for the processor'
    elif tf.test.is_gpu_available():
        able, why = False, 'on a GPU only float32 is offered'
    else:
        able, why = True, ('the processor has ' + ', '.join(units) if units else
                           'the processor has none of ' + ', '.join(sorted(BFLOAT16_UNITS)))
    if asked == 'bfloat16' and not able:
        raise ValueError(why)
    if asked == 'auto':
        return ('bfloat16' if able and units else 'float32'), why
    return asked, 'as asked'


def has_onednn():
    """Whether convolutions run in oneDNN on an x86-64 processor."""
    import tensorflow.compat.v1 as tf
    return (not tf.__version__.startswith('1.') and platform.machine() in ('x86_64', 'AMD64')
            and os.environ.get('TF_ENABLE_ONEDNN_OPTS', '1') != '0'
            and not tf.test.is_gpu_available())


def _processor_flags():
    try:
        with open('/proc/cpuinfo') as f:
            return set(f.read().split())
    except OSError:
        return set()


def open_session(graph, precision='float32'):
    """A tf.Session. In bfloat16 TensorFlow's graph rewriter casts what multiplies matrices.

    Variables, batch norm's statistics and Adam stay float32. A GPU's memory is taken as needed.
    """
    import tensorflow.compat.v1 as tf
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    if precision == 'bfloat16':
        setattr(config.graph_options.rewrite_options, BFLOAT16_REWRITER, REWRITER_ON)
    return tf.Session(graph=graph, config=config)


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
