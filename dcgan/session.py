"""Sets up TensorFlow: graph mode, its messages, the precision of its sessions.

The programs call `set_up` after they have checked their options, and import modules that need
TensorFlow after that. So `--help` and a mistyped option answer at once, and TensorFlow's messages
are hidden from the start.
"""
import contextlib
import itertools
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import warnings

from dcgan import checkpoint, cli, signals
from dcgan.worker import SINGLE

REWRITERS = {                                                  # fields of RewriterConfig
    'bfloat16': 'auto_mixed_precision_onednn_bfloat16',        # in TensorFlow 2, on a processor
    'float16': 'auto_mixed_precision'}                         # on a GPU with tensor cores
# Factors of the losses while gradients are computed, so that float16 does not lose small gradients.
# A power of 2 is exact in binary. bfloat16 has float32's range.
LOSS_SCALES = {'float32': 1, 'bfloat16': 1, 'float16': 1024}
REWRITER_ON = 1                                                # a RewriterConfig.Toggle
BFLOAT16_UNITS = {'avx512_bf16', 'amx_bf16'}                   # their names in /proc/cpuinfo
TENSOR_CORES = (7, 0)                                          # lowest compute capability with them
# CUDA's list of usable GPUs, as a scheduler sets it, before set_up narrows it. None: all GPUs.
CUDA_VISIBLE_DEVICES = os.environ.get('CUDA_VISIBLE_DEVICES')
IS_TF_1 = sys.version_info < (3, 8)                            # known before it is imported
# Words in TensorFlow's errors, of any type, that indicate a GPU that can't be used.
GPU_FAULT = re.compile(r'\bcu[A-Z]|cuda|CUDA|Blas|DNN library|StreamExecutor|Dst tensor')
# Of two threads that hide standard error at the same time, the second would put back the first's.
HIDING = threading.RLock()


def set_up(verbose=False, device=None, deterministic=False):
    """Imports TensorFlow, sets it to version 1's graph mode and returns `tf.compat.v1`.

    Without verbose, TensorFlow's deprecation warnings, processor flags and other log lines are
    hidden; errors are still raised. device: `cpu` or `gpu:N`, number N of the GPUs that may be
    used. TensorFlow then sees only this one; the program exits with a sentence if it is not there.
    deterministic: whether to disable kernels that may sum in a different order each time.
    TensorFlow 1.15 can't disable them, and has none on a processor that did so.
    """
    # By default TensorFlow 2 uses oneDNN only on processors with AVX-512 VNNI. With AVX2 alone
    # (Zen 3, TensorFlow 2.21) a step takes six times as long without oneDNN.
    is_late = 'tensorflow' in sys.modules and 'TF_ENABLE_ONEDNN_OPTS' not in os.environ
    if is_x86():
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
    # Without this, the check for a GPU would take all of its memory.
    os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
    if device:
        os.environ['CUDA_VISIBLE_DEVICES'] = visible_device(device)
    if not verbose:
        os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter('ignore', category)
    # TensorFlow 1.15 reads the variable early enough. Its standard error stays visible: it may
    # report that the processor is too old before it aborts.
    with delayed_signals(), without_keras(), (
            contextlib.nullcontext() if verbose or IS_TF_1 else hidden_stderr()):
        import tensorflow.compat.v1 as tf
    if not verbose:
        tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    if is_late:
        warn_without_onednn()
    if deterministic and hasattr(tf.config.experimental, 'enable_op_determinism'):
        tf.config.experimental.enable_op_determinism()
    if device not in (None, 'cpu') and not has_gpu():
        cli.fail(f'--device {device}: TensorFlow sees no such GPU')
    return tf


def visible_device(device):
    """Returns the CUDA_VISIBLE_DEVICES that leaves only `cpu` or `gpu:N` visible.

    N is an index into the list that is set already: the other GPUs may be somebody else's. Exits
    with a sentence if the list is too short.
    """
    if device == 'cpu':
        return '-1'
    number = device[len('gpu:'):]
    if CUDA_VISIBLE_DEVICES is None:
        return number
    gpus = [entry.strip() for entry in CUDA_VISIBLE_DEVICES.split(',')]
    # CUDA reads the list up to the first invalid entry: -1 or an empty one.
    gpus = list(itertools.takewhile(lambda entry: entry and entry[0] != '-', gpus))
    if int(number) < len(gpus):
        return gpus[int(number)]
    available = 'no GPU' if not gpus else '1 GPU, gpu:0' if len(gpus) == 1 else (
        f'{len(gpus)} GPUs, gpu:0 to gpu:{len(gpus) - 1}')
    cli.fail(f'--device {device}: CUDA_VISIBLE_DEVICES={CUDA_VISIBLE_DEVICES} leaves {available}')


@contextlib.contextmanager
def explained_gpu_faults():
    """Exits with a sentence if TensorFlow sees a GPU but can't use it."""
    import tensorflow.compat.v1 as tf
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as error:
        # The caller reports that memory or disk space does not suffice for its work.
        if isinstance(error, tf.errors.ResourceExhaustedError) or not GPU_FAULT.search(str(error)):
            raise
        reason = (getattr(error, 'message', None) or str(error)).strip().splitlines()[0]
        cli.fail(f'TensorFlow can\'t use the GPU that it sees ({reason}); '
                 '--device cpu goes without')


def has_gpu(compute_capability=None):
    """Whether TensorFlow sees a GPU, with at least this compute capability, (major, minor)."""
    import tensorflow.compat.v1 as tf
    with explained_gpu_faults():
        return tf.test.is_gpu_available(min_cuda_compute_capability=compute_capability)


def choose_precision(requested):
    """Returns (precision, reason) for `float32`, `bfloat16` or `auto`.

    auto takes bfloat16 if the processor has units that multiply matrices in it; without them
    bfloat16 is slower than float32. On a GPU auto takes float16 if the GPU has tensor cores.
    Raises ValueError for bfloat16 if TensorFlow lacks it, if oneDNN is off, on a GPU, and without
    AVX-512, where oneDNN emulates it: on Zen 3 a step takes 13 times as long as in float32.
    """
    import tensorflow.compat.v1 as tf
    supports_bfloat16 = False
    if has_gpu():
        has_cores = has_gpu(TENSOR_CORES)
        best = 'float16' if has_cores else 'float32'
        reason = f'the GPU has {"" if has_cores else "no "}tensor cores'
    elif not hasattr(tf.ConfigProto().graph_options.rewrite_options, REWRITERS['bfloat16']):
        best, reason = 'float32', f'TensorFlow {tf.__version__} has no bfloat16 for the processor'
    elif not has_onednn():      # TensorFlow would skip the rewriter silently
        best, reason = 'float32', 'TensorFlow does not use oneDNN on this processor'
    else:
        flags = _processor_flags()
        units = sorted(BFLOAT16_UNITS & flags)
        supports_bfloat16 = bool(units) or 'avx512f' in flags
        best = 'bfloat16' if units else 'float32'
        reason = ('the processor has ' + ', '.join(units) if units else
                  'the processor has none of ' + ', '.join(sorted(BFLOAT16_UNITS)))
    if requested == 'bfloat16' and not supports_bfloat16:
        raise ValueError(f'{reason}; it takes float32 or auto, which is {best} there')
    return (best, reason) if requested == 'auto' else (requested, 'as asked')


def has_onednn():
    """Whether convolutions run in oneDNN on an x86-64 processor.

    TensorFlow 1.15 has no oneDNN. TF_ENABLE_ONEDNN_OPTS=0 in the environment switches TensorFlow
    2's off.
    """
    from tensorflow.python.framework import test_util
    return is_x86() and test_util.IsMklEnabled() and not has_gpu()


def warn_without_onednn():
    """Reports that TensorFlow 2 was imported too early for set_up to switch oneDNN on."""
    from tensorflow.python.framework import test_util
    if is_x86() and not IS_TF_1 and not test_util.IsMklEnabled() and not has_gpu():
        print('TensorFlow was imported before the program set it up, so it computes without '
              'oneDNN, up to six times slower; in a new process or kernel, start the program first',
              file=sys.stderr)


def conv_precision(precision, plain=False):
    """The precision to tune convolutions for, or None for TensorFlow's own kernels.

    They are tuned on x86-64 processors: there the formulations of dcgan/convolutions.py were
    measured, against oneDNN's kernels and TensorFlow's, which are slower still. plain: never.
    """
    return precision if is_x86() and not has_gpu() and not plain else None


def is_x86():
    """Whether the processor is an x86-64 one."""
    return platform.machine() in ('x86_64', 'AMD64')


def _processor_flags():
    try:
        with open('/proc/cpuinfo') as f:
            return set(f.read().split())
    except OSError:
        return set()


def open_session(graph, precision='float32', worker=SINGLE):
    """Opens a tf.Session for a worker; its runs explain faults of the GPU.

    Below float32, TensorFlow's graph rewriter casts the inputs of matrix products. Variables,
    batch-norm statistics and Adam stay float32.
    """
    import tensorflow.compat.v1 as tf
    config = worker.config()
    if precision in REWRITERS:
        rewrite = config.graph_options.rewrite_options
        setattr(rewrite, REWRITERS[precision], REWRITER_ON)
        rewrite.remapping = worker.remapping
    with explained_gpu_faults():
        sess = tf.Session(worker.target, graph, config)
    sess.run = explained_gpu_faults()(sess.run)     # some faults appear only in the first kernel
    return sess


@contextlib.contextmanager
def explained_memory_errors(batch_size, image_size):
    """Exits with a sentence if TensorFlow runs out of memory, which happens mostly on GPUs."""
    import tensorflow.compat.v1 as tf
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        cli.fail(f'--batch-size {batch_size}, --image-size {image_size}: '
                 f'{checkpoint.first_line(error)}')


@contextlib.contextmanager
def delayed_signals():
    """Delays signals that end a program until the end of the block.

    While TensorFlow is imported, an exception from outside may turn into another one or get lost.
    """
    received = []
    try:
        with signals.handled(signals.STOP, received.append):
            yield
    finally:
        for number in received[:1]:
            os.kill(os.getpid(), number)


@contextlib.contextmanager
def without_keras():
    """Keeps TensorFlow 2 from importing Keras in the block.

    Keras imports matplotlib, and takes a quarter of the time. The older Keras, a separate package,
    is not imported at once. After the block `tf.keras` works, which a notebook may use.
    """
    name = 'TF_USE_LEGACY_KERAS'
    is_set = name in os.environ
    os.environ.setdefault(name, '1')
    try:
        yield
    finally:
        if not is_set:
            os.environ.pop(name, None)


@contextlib.contextmanager
def hidden_stderr():
    """Hides the messages of C++ code on standard error, unless the block raises.

    TensorFlow 2.21 logs before it reads TF_CPP_MIN_LOG_LEVEL. During its import only replacing the
    file descriptor helps. It belongs to the whole process: other threads' messages are hidden too.
    """
    with HIDING, tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            with os.fdopen(os.dup(original), 'wb') as stderr:
                shutil.copyfileobj(captured, stderr)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
