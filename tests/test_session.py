"""TensorFlow's set-up: precision, device, errors of GPUs, modules that are not imported."""
import os
import platform
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import test_util

import graphs
import plain_celeba
import recording
from conftest import ROOT, TF1
from dcgan import cluster, session, toy
from running import TINY, free_addresses, run_here


def gpu(monkeypatch, capability):
    """Simulates a GPU of this compute capability, or none for None."""
    def is_gpu_available(min_cuda_compute_capability=None):
        return capability is not None and capability >= (min_cuda_compute_capability or (0, 0))
    monkeypatch.setattr(tf.test, 'is_gpu_available', is_gpu_available)


@pytest.mark.parametrize('capability, precision', [((7, 5), 'float16'), ((6, 1), 'float32')])
def test_auto_precision_on_a_gpu(monkeypatch, capability, precision):
    gpu(monkeypatch, capability)
    assert session.choose_precision('auto')[0] == precision
    assert session.choose_precision('float32') == ('float32', 'as asked')
    with pytest.raises(ValueError, match=f'the GPU has .* cores; .* auto, which is {precision}'):
        session.choose_precision('bfloat16')
    assert session.conv_precision('float16') is None


@pytest.mark.skipif(TF1, reason='no bfloat16 in TensorFlow 1.15')
@pytest.mark.parametrize('flags, precision', [
    ({'avx512f'}, 'float32'), ({'avx2', 'avx512_bf16'}, 'bfloat16'), ({'amx_bf16'}, 'bfloat16')])
def test_auto_precision_on_a_processor(monkeypatch, flags, precision):
    gpu(monkeypatch, None)
    monkeypatch.setattr(session, 'has_onednn', lambda: True)
    monkeypatch.setattr(session, '_processor_flags', lambda: flags)
    chosen, why = session.choose_precision('auto')
    assert chosen == precision and 'bf16' in why
    assert session.choose_precision('bfloat16') == ('bfloat16', 'as asked')


@pytest.mark.skipif(TF1, reason='no bfloat16 in TensorFlow 1.15')
def test_bfloat16_is_refused_without_avx512(monkeypatch):
    gpu(monkeypatch, None)
    monkeypatch.setattr(session, 'has_onednn', lambda: True)
    monkeypatch.setattr(session, '_processor_flags', lambda: {'avx2'})
    assert session.choose_precision('auto')[0] == 'float32'
    with pytest.raises(ValueError, match='has none of amx_bf16, avx512_bf16; it takes float32'):
        session.choose_precision('bfloat16')


@pytest.mark.skipif(TF1 or not session.is_x86(), reason='oneDNN is in TensorFlow 2 for x86-64')
def test_onednn_is_used_on_every_x86_processor():
    program = 'from dcgan import session; session.set_up(); print(session.has_onednn())'
    environment = dict(os.environ, PYTHONPATH=ROOT)
    environment.pop('TF_ENABLE_ONEDNN_OPTS')
    assert subprocess.check_output([sys.executable, '-c', program], env=environment) == b'True\n'


@pytest.mark.parametrize('is_set, is_on', [(False, False), (False, True), (True, False)])
def test_an_import_of_tensorflow_too_early_for_onednn_is_reported(monkeypatch, capsys, is_set,
                                                                  is_on):
    gpu(monkeypatch, None)
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    monkeypatch.setattr(test_util, 'IsMklEnabled', lambda: is_on)
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '1')
    if not is_set:
        monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS')
    session.set_up()
    sentence = ('TensorFlow was imported before the program set it up, so it computes without '
                'oneDNN, up to six times slower; in a new process or kernel, start the program '
                'first\n')
    assert capsys.readouterr().err == ('' if is_set or is_on or TF1 else sentence)


@pytest.mark.skipif(TF1, reason='no bfloat16 in TensorFlow 1.15')
def test_without_onednn_there_is_no_bfloat16():
    program = ('from dcgan import session; session.set_up(); '
               'print(session.choose_precision("auto"), session.has_onednn()); '
               'session.choose_precision("bfloat16")')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True,
                          env=dict(os.environ, PYTHONPATH=ROOT, TF_ENABLE_ONEDNN_OPTS='false'),
                          text=True)
    why = 'TensorFlow does not use oneDNN on this processor'
    assert done.stdout == f"('float32', '{why}') False\n"
    assert done.stderr.splitlines()[-1] == (
        f'ValueError: {why}; it takes float32 or auto, which is float32 there')


@pytest.mark.skipif(not TF1, reason='TensorFlow 1.15 only')
def test_bfloat16_is_refused_where_tensorflow_lacks_it():
    assert session.choose_precision('auto')[0] == 'float32'
    with pytest.raises(ValueError, match='has no bfloat16 for the processor'):
        session.choose_precision('bfloat16')


@pytest.mark.parametrize('precision', ['float16'] + ['bfloat16'] * (not TF1))
def test_a_session_computes_in_its_precision(precision):
    losses = {}
    for name in ('float32', precision):
        model = graphs.build(image_size=32, width=4, loss_scale=session.LOSS_SCALES[name])
        with session.open_session(model.graph, name) as sess:
            recording.start(tf, model, sess)
            _, losses[name] = sess.run([model.optimizer_d, model.loss_d],
                                       recording.feed(model, 1, True, size=32))
    assert losses[precision] == pytest.approx(losses['float32'], rel=0.02)
    # The rewriter casts to bfloat16 if oneDNN multiplies in it, and to float16 only on a GPU.
    casts = precision == 'bfloat16' and session.has_onednn()
    assert (losses[precision] != losses['float32']) == casts


@pytest.mark.parametrize('device, listed, visible', [
    ('cpu', None, '-1'), ('cpu', '2,5', '-1'), ('gpu:1', None, '1'), ('gpu:0', '2,5', '2'),
    ('gpu:1', ' 2 , 5 ', '5'), ('gpu:1', 'GPU-8932f937,MIG-4a1c', 'MIG-4a1c'),
    ('gpu:0', '3,-1,4', '3')])
def test_device_selects_among_the_visible_gpus(device, listed, visible):
    # train.py --resume calls set_up twice; both calls must select the same device.
    program = ('import os, sys; from dcgan import session; session.has_gpu = lambda: True; '
               f'[session.set_up(device={device!r}) for _ in range(2)]; '
               'print(os.environ["CUDA_VISIBLE_DEVICES"], "matplotlib" in sys.modules)')
    done = with_gpus(listed, program)
    assert done.stdout.split() == [visible, 'False']    # Keras would import matplotlib


@pytest.mark.parametrize('device, listed, sentence', [
    ('gpu:2', '2,5', 'CUDA_VISIBLE_DEVICES=2,5 leaves 2 GPUs, gpu:0 to gpu:1'),
    ('gpu:1', 'GPU-8932f937', 'CUDA_VISIBLE_DEVICES=GPU-8932f937 leaves 1 GPU, gpu:0'),
    ('gpu:1', '3,-1,4', 'CUDA_VISIBLE_DEVICES=3,-1,4 leaves 1 GPU, gpu:0'),
    ('gpu:0', '', 'CUDA_VISIBLE_DEVICES= leaves no GPU'),
    ('gpu:0', '-1', 'CUDA_VISIBLE_DEVICES=-1 leaves no GPU'),
    ('gpu:0', 'NoDevFiles', 'TensorFlow sees no such GPU')])
def test_an_unavailable_gpu_is_refused(device, listed, sentence):
    done = with_gpus(listed, f'from dcgan import session; session.set_up(device={device!r})')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == f'error: --device {device}: {sentence}\n'


def with_gpus(listed, program):
    """Runs a program with CUDA_VISIBLE_DEVICES = `listed`, None: unset; returns its process."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    environment.pop('CUDA_VISIBLE_DEVICES', None)
    if listed is not None:
        environment['CUDA_VISIBLE_DEVICES'] = listed
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True,
                          env=environment, text=True)


# Errors that TensorFlow has raised for a GPU that it sees but can't use.
DRIVER = ('cudaGetDevice() failed. Status: CUDA driver version is insufficient for CUDA runtime '
          'version')
IN_USE = ('failed initializing StreamExecutor for CUDA device ordinal 0: INTERNAL: failed call to '
          'cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory')
NO_CUDNN = ('Failed to get convolution algorithm. This is probably because cuDNN failed to '
            'initialize')
FAULTS = [tf.errors.InternalError(None, None, DRIVER + '\ntrace'), RuntimeError(DRIVER),
          tf.errors.InternalError(None, None, IN_USE), tf.errors.UnknownError(None, None, NO_CUDNN),
          tf.errors.InternalError(None, None, 'Blas GEMM launch failed : a.shape=(64, 100)'),
          tf.errors.InternalError(None, None, 'Dst tensor is not initialized.'),
          tf.errors.FailedPreconditionError(None, None, 'DNN library initialization failed.')]


def raising(error):
    def function(*_, **__):
        raise error
    return function


def asking_raises(monkeypatch, error):
    """Has TensorFlow raise the error when session asks it for GPUs."""
    monkeypatch.setattr(tf.test, 'is_gpu_available', raising(error))
    monkeypatch.setattr(test_util, 'IsMklEnabled', lambda: True)
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')


def refusal(capsys, function, *arguments):
    """Calls function(*arguments), which must end the program; returns its error, one sentence."""
    with pytest.raises(SystemExit) as stop:
        function(*arguments)
    err = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and [line[:7] for line in err].count('error: ') == 1, err
    return err[-1]


@pytest.mark.parametrize('error', FAULTS)
def test_a_gpu_that_cannot_be_used_is_named(monkeypatch, capsys, error):
    message = str(getattr(error, 'message', error)).splitlines()[0]
    sentence = (f"error: TensorFlow can't use the GPU that it sees ({message}); --device cpu goes "
                'without')
    with tf.Graph().as_default() as graph:
        fetched = tf.ones([])
    with session.open_session(graph) as sess:
        assert sess.run(fetched) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tf.Session, 'run', raising(error))
        sess = session.open_session(graph)
        assert refusal(capsys, sess.run, fetched) == sentence
    with monkeypatch.context() as patch:
        patch.setattr(tf, 'Session', raising(error))
        assert refusal(capsys, session.open_session, graph) == sentence
    asking_raises(monkeypatch, error)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')        # as set_up changes it for good
    for ask in (session.has_onednn, lambda: session.choose_precision('auto'),
                lambda: session.set_up(device='gpu:0')):
        assert refusal(capsys, ask) == sentence


@pytest.mark.parametrize('error', [
    tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating by allocator cuda_host_bfc'),
    tf.errors.InternalError(None, None, 'Could not find valid device for node.'),
    RuntimeError('Attempted to use a closed Session.')])
def test_other_errors_are_not_reported_as_gpu_errors(error):
    with pytest.raises(type(error)), session.explained_gpu_faults():
        raise error


@pytest.mark.parametrize('program, arguments', [
    ('train.py', ['--dataset', 'faces', '--image-size', '32', '--batch-size', '8']),
    ('generate.py', ['--ckpt', TINY]), ('evaluate.py', ['--ckpt', TINY, '--dataset', 'faces']),
    ('classify.py', [])])
@pytest.mark.parametrize('place', ['asking', 'Session', 'run'])
def test_each_program_names_a_gpu_that_cannot_be_used(monkeypatch, tmp_path, program, arguments,
                                                      place):
    if (program, place) == ('classify.py', 'asking'):
        pytest.skip('classify.py does not ask')
    (tmp_path / 'faces').mkdir()
    for number in range(16):
        toy.draw(str(number)).save(str(tmp_path / 'faces' / f'{number}.png'))
    plain_celeba.write(tmp_path, ['Red', 'Blue'], [[True, False]] * 130, [(200, 60, 60)] * 130,
                       parts=[0] * 128 + [1] * 2)
    if place == 'asking':
        asking_raises(monkeypatch, FAULTS[0])
    else:
        monkeypatch.setattr({'Session': tf, 'run': tf.Session}[place], place, raising(FAULTS[0]))
    _, err = run_here(program, *arguments, cwd=tmp_path, code=2)
    assert err.splitlines()[-1] == (f"error: TensorFlow can't use the GPU that it sees ({DRIVER}); "
                                    '--device cpu goes without')


@pytest.mark.skipif(sys.platform != 'linux', reason='no cluster elsewhere')
def test_a_worker_names_a_gpu_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(tf.train, 'Server', raising(FAULTS[0]))
    monkeypatch.setenv('no_grpc_proxy', '')         # as a worker changes it for good
    assert f'GPU that it sees ({DRIVER})' in refusal(capsys, cluster.Cluster, free_addresses(2), 0)
