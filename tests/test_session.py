"""How TensorFlow is set up: precision by device, which device, what is not imported."""
import os
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

import graph
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
    monkeypatch.setattr(session, '_processor_flags', lambda: flags)
    chosen, why = session.choose_precision('auto')
    assert chosen == precision and 'bf16' in why
    assert session.choose_precision('bfloat16') == ('bfloat16', 'as asked')


@pytest.mark.skipif(not OLD, reason='TensorFlow 1.15 only')
def test_bfloat16_is_refused_where_tensorflow_lacks_it():
    assert session.choose_precision('auto')[0] == 'float32'
    with pytest.raises(ValueError, match='has no bfloat16 for the processor'):
        session.choose_precision('bfloat16')


@pytest.mark.parametrize('precision', ['float32', 'float16'] + ['bfloat16'] * (not OLD))
def test_a_session_of_each_precision_runs_a_step(precision):
    p = graph.build(image_size=32, width=4, loss_scale=session.LOSS_SCALES[precision])
    with p.graph.as_default():
        initializer = tf.global_variables_initializer()
    with session.open_session(p.graph, precision) as sess:
        sess.run(initializer)
        feed = {p.X: [[[[0.5] * 3] * 32] * 32] * 4, p.noise: [[0.5] * 100] * 4,
                p.is_training: True}
        _, loss = sess.run([p.optimizer_d, p.loss_d], feed)
        assert 0 < loss < 10


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
