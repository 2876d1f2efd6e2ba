"""The one place where TensorFlow is set up: graph mode, what it prints, its sessions' precision.

The programs call `set_up` once their options are checked, and import what needs TensorFlow after
it: so `--help` and a mistyped option answer at once, and the chatter is off before it begins.
"""
import contextlib
import itertools
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings

from dcgan import checkpoint, cli, signals
from dcgan.worker import SINGLE

REWRITERS = {                                                  # of RewriterConfig
    'bfloat16': 'auto_mixed_precision_onednn_bfloat16',        # in TensorFlow 2, on a processor
    'float16': 'auto_mixed_precision'}                         # on a GPU with tensor cores
# What losses are multiplied with for the gradients, so that float16 does not lose the small ones; a
# power of 2, exact in binary. bfloat16 has float32's range.
LOSS_SCALES = {'float32': 1, 'bfloat16': 1, 'float16': 1024}
REWRITER_ON = 1                                                # of RewriterConfig.Toggle
BFLOAT16_UNITS = {'avx512_bf16', 'amx_bf16'}                   # as /proc/cpuinfo names them
TENSOR_CORES = (7, 0)                                          # from this compute capability on
# CUDA's list of the GPUs to be used, as a scheduler sets it, before set_up narrows it; None: all.
CUDA_VISIBLE_DEVICES = os.environ.get('CUDA_VISIBLE_DEVICES')
# Words by which errors of TensorFlow's, whatever their type, tell of a GPU that can't be used.
GPU_FAULT = re.compile(r'\bcu[A-Z]|cuda|CUDA|Blas|DNN library|StreamExecutor|Dst tensor')


def set_up(verbose=False, device=None, deterministic=False):
    """Imports TensorFlow for graphs in the manner of version 1 and returns `tf.compat.v1`.

    Without verbose its deprecations, processor flags and other log lines are not shown; errors
    are raised as ever. device: `cpu` or `gpu:N`, number N of the GPUs that may be used, the only
    one that TensorFlow then sees; a GPU that is not there ends the program with a sentence.
    deterministic: whether kernels that may add up in another order each time are kept from use;
    TensorFlow 1.15, which can't, has none on a processor that did.
    """
    # TensorFlow 2 by itself takes oneDNN on processors with AVX-512 VNNI only. With AVX2 alone
    # (Zen 3, TensorFlow 2.21) a step takes six times as long without it.
    if is_x86():
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
    # Set here, since asking whether there is a GPU would otherwise take all its memory.
    os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
    if device:
        os.environ['CUDA_VISIBLE_DEVICES'] = visible_device(device)
    # Importing TensorFlow 2 imports Keras, and that matplotlib, for a quarter of the time; not so
    # for the older Keras, which comes separately.
    os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
    if verbose:
        with delayed_signals():
            import tensorflow.compat.v1 as tf
    else:
        os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter('ignore', category)
        # TensorFlow 1.15 reads the variable in time, and may have to say that the processor is
        # too old before it aborts.
        old = sys.version_info < (3, 8)
        with delayed_signals(), contextlib.nullcontext() if old else hidden_stderr():
            import tensorflow.compat.v1 as tf
        tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    if deterministic and hasattr(tf.config.experimental, 'enable_op_determinism'):
        tf.config.experimental.enable_op_determinism()
    if device not in (None, 'cpu') and not has_gpu():
        cli.fail(f'--device {device}: TensorFlow sees no such GPU')
    return tf


def visible_device(device):
    """The CUDA_VISIBLE_DEVICES that leaves `cpu` or `gpu:N` alone.

    N counts in the list that is there already: the other GPUs may be somebody else's. Ends with a
    sentence where the list is shorter.
    """
    if device == 'cpu':
        return '-1'
    number = device[len('gpu:'):]
    if CUDA_VISIBLE_DEVICES is None:
        return number
    listed = [entry.strip() for entry in CUDA_VISIBLE_DEVICES.split(',')]
    # CUDA reads the list up to the first entry that can be none: -1, or an empty one.
    listed = list(itertools.takewhile(lambda entry: entry and entry[0] != '-', listed))
    if int(number) < len(listed):
        return listed[int(number)]
    left = 'no GPU' if not listed else '1 GPU, gpu:0' if len(listed) == 1 else (
        f'{len(listed)} GPUs, gpu:0 to gpu:{len(listed) - 1}')
    cli.fail(f'--device {device}: CUDA_VISIBLE_DEVICES={CUDA_VISIBLE_DEVICES} leaves {left}')


@contextlib.contextmanager
def explained_gpu_faults():
    """Ends with a sentence where TensorFlow sees a GPU that it can't use."""
    import tensorflow.compat.v1 as tf
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as error:
        # What memory or disk did not suffice for is said where it was asked for.
        if isinstance(error, tf.errors.ResourceExhaustedError) or not GPU_FAULT.search(str(error)):
            raise
        reason = (getattr(error, 'message', None) or str(error)).strip().splitlines()[0]
        cli.fail(f'TensorFlow can\'t use the GPU that it sees ({reason}); '
                 '--device cpu goes without')


def has_gpu(compute_capability=None):
    """Whether TensorFlow sees a GPU, of that compute capability at least, (major, minor)."""
    import tensorflow.compat.v1 as tf
    with explained_gpu_faults():
        return tf.test.is_gpu_available(min_cuda_compute_capability=compute_capability)


def choose_precision(asked):
    """(precision, why) for `float32`, `bfloat16` or `auto`.

    auto takes bfloat16 where the processor multiplies matrices in it; elsewhere it is slower than
    float32. On a GPU it takes float16 where that has tensor cores. Raises ValueError where
    bfloat16 is asked of a TensorFlow that lacks it, where oneDNN is off, or on a GPU.
    """
    import tensorflow.compat.v1 as tf
    able = False
    if has_gpu():
        cores = has_gpu(TENSOR_CORES)
        found = 'float16' if cores else 'float32'
        why = f'the GPU has {"" if cores else "no "}tensor cores'
    elif not hasattr(tf.ConfigProto().graph_options.rewrite_options, REWRITERS['bfloat16']):
        found, why = 'float32', f'TensorFlow {tf.__version__} has no bfloat16 for the processor'
    elif not has_onednn():      # the rewriter would be passed over in silence
        found, why = 'float32', 'TensorFlow does not use oneDNN on this processor'
    else:
        units = sorted(BFLOAT16_UNITS & _processor_flags())
        able, found = True, 'bfloat16' if units else 'float32'
        why = ('the processor has ' + ', '.join(units) if units else
               'the processor has none of ' + ', '.join(sorted(BFLOAT16_UNITS)))
    if asked == 'bfloat16' and not able:
        raise ValueError(f'{why}; it takes float32 or auto, which is {found} there')
    return (found, why) if asked == 'auto' else (asked, 'as asked')


def has_onednn():
    """Whether convolutions run in oneDNN on an x86-64 processor.

    TensorFlow 1.15 has none; TF_ENABLE_ONEDNN_OPTS=0 in the environment switches TensorFlow 2's
    off.
    """
    from tensorflow.python.framework import test_util
    return is_x86() and test_util.IsMklEnabled() and not has_gpu()


def is_x86():
    return platform.machine() in ('x86_64', 'AMD64')


def _processor_flags():
    try:
        with open('/proc/cpuinfo') as f:
            return set(f.read().split())
    except OSError:
        return set()


def open_session(graph, precision='float32', worker=SINGLE):
    """A tf.Session of a worker, whose runs explain faults of the GPU.

    Below float32, TensorFlow's graph rewriter casts the inputs of matrix products. Variables, batch
    norm's statistics and Adam stay float32.
    """
    import tensorflow.compat.v1 as tf
    config = worker.config()
    if precision in REWRITERS:
        rewrite = config.graph_options.rewrite_options
        setattr(rewrite, REWRITERS[precision], REWRITER_ON)
        rewrite.remapping = worker.remapping
    with explained_gpu_faults():
        sess = tf.Session(worker.target, graph, config)
    sess.run = explained_gpu_faults()(sess.run)     # some faults show in the first kernel only
    return sess


@contextlib.contextmanager
def explained_memory_errors(batch_size, image_size):
    """Ends the program with a sentence where TensorFlow has no memory left, as on most GPUs."""
    import tensorflow.compat.v1 as tf
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        cli.fail(f'--batch-size {batch_size}, --image-size {image_size}: '
                 f'{checkpoint.first_line(error)}')


@contextlib.contextmanager
def delayed_signals():
    """Lets signals that end a program come at the end of the block only.

    While TensorFlow is imported an exception from outside may end as another one, or nowhere.
    """
    came = []
    try:
        with signals.handled(signals.STOP, came.append):
            yield
    finally:
        for number in came[:1]:
            os.kill(os.getpid(), number)


@contextlib.contextmanager
def hidden_stderr():
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
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
