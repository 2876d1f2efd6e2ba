"""How TensorFlow is set up: precision by device, which device, what is not imported."""
import os
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

import graph
import recording
import session
from conftest import ROOT

OLD = tf.__version__.startswith('1.')


def gpu(monkeypatch, capability):
    """A GPU of that compute capability, or none."""
    def is_gpu_available(min_cuda_compute_capability=(0, 0)):
        return capability is not None and capability >= min_cuda_compute_capability
    monkeypatch.setattr(tf.test, 'is_gpu_available', is_gpu_available)


@pytest.mark.parametrize('capability, precision', [((7, 5), 'float16'), ((6, 1), 'float32')])
def test_auto_on_a_gpu(monkeypatch, capability, precision):
    gpu(monkeypatch, capability)
    assert session.choose_precision('auto')[0] == precision
    assert session.choose_precision('float32') == ('float32', 'as asked')
    with pytest.raises(ValueError, match=f'the GPU has .* cores; .* auto, which is {precision}'):
        session.choose_precision('bfloat16')
    assert not session.has_onednn()      # so no formulation measured on a processor is chosen


@pytest.mark.skipif(OLD, reason='no bfloat16 in TensorFlow 1.15')
@pytest.mark.parametrize('flags, precision', [
    ({'avx2'}, 'float32'), ({'avx2', 'avx512_bf16'}, 'bfloat16'), ({'amx_bf16'}, 'bfloat16')])
def test_auto_on_a_processor(monkeypatch, flags, precision):
    gpu(monkeypatch, None)
    monkeypatch.setattr(session, 'has_onednn', lambda: True)
    monkeypatch.setattr(session, '_processor_flags', lambda: flags)
    chosen, why = session.choose_precision('auto')
    assert chosen == precision and 'bf16' in why
    assert session.choose_precision('bfloat16') == ('bfloat16', 'as asked')


@pytest.mark.skipif(OLD, reason='no bfloat16 in TensorFlow 1.15')
def test_without_onednn_there_is_no_bfloat16():
    program = ('import session; session.set_up(); print(session.choose_precision("auto"), '
               'session.has_onednn()); session.choose_precision("bfloat16")')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True,
                          env=dict(os.environ, PYTHONPATH=ROOT, TF_ENABLE_ONEDNN_OPTS='false'),
                          text=True)
    why = 'TensorFlow does not use oneDNN on this processor'
    assert done.stdout == f"('float32', '{why}') False\n"
    assert done.stderr.splitlines()[-1] == (
        f'ValueError: {why}; it takes float32 or auto, which is float32 there')


@pytest.mark.skipif(not OLD, reason='TensorFlow 1.15 only')
def test_bfloat16_is_refused_where_tensorflow_lacks_it():
    assert session.choose_precision('auto')[0] == 'float32'
    with pytest.raises(ValueError, match='has no bfloat16 for the processor'):
        session.choose_precision('bfloat16')


@pytest.mark.parametrize('precision', ['float16'] + ['bfloat16'] * (not OLD))
def test_a_session_computes_in_its_precision(precision):
    losses = {}
    for name in ('float32', precision):
        p = graph.build(image_size=32, width=4, loss_scale=session.LOSS_SCALES[name])
        with session.open_session(p.graph, name) as sess:
            recording.start(tf, p, sess)
            _, losses[name] = sess.run([p.optimizer_d, p.loss_d],
                                       recording.feed(p, 1, True, size=32))
    assert losses[precision] == pytest.approx(losses['float32'], rel=0.02)
    # The rewriter casts to bfloat16 where oneDNN can multiply in it, to float16 on a GPU only.
    casts = precision == 'bfloat16' and session.has_onednn()
    assert (losses[precision] != losses['float32']) == casts


@pytest.mark.parametrize('device, visible', [('cpu', '-1'), ('gpu:1', '1')])
def test_the_device_is_chosen_before_tensorflow_looks(device, visible):
    program = ('import atexit, os, session, sys; atexit.register(lambda: '
               'print(os.environ["CUDA_VISIBLE_DEVICES"], "matplotlib" in sys.modules)); '
               f'session.set_up(device={device!r})')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True,
                          env=dict(os.environ, PYTHONPATH=ROOT), text=True)
    assert done.stdout.split() == [visible, 'False']    # Keras, which brings matplotlib, stays out
    if done.returncode:         # where there is no such GPU
        assert done.stderr == f'error: --device {device}: TensorFlow sees no such GPU\n'
        assert device != 'cpu'
