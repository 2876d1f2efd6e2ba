"""This program and the original on TensorFlow 1.15.5 read each other's checkpoints.

golden/ holds a checkpoint that TensorFlow 1.15.5 wrote. If its interpreter is there, named by
TF115_PYTHON or as the one that runs the tests, the original graph (tf.layers, tf.contrib) runs in
it too, at both widths.
"""
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import graphs
import parity
import recording
from dcgan import checkpoint

TF115_PYTHON = (sys.executable if tf.__version__.startswith('1.15.') else
                os.environ.get('TF115_PYTHON'))
needs_tf115 = pytest.mark.skipif(not TF115_PYTHON, reason='TF115_PYTHON is not set')


def write_here(folder, width):
    """Trains three steps and saves a checkpoint; returns (prefix, outputs)."""
    model = graphs.build(width=width)
    with model.graph.as_default():
        saver = tf.train.Saver()
    with tf.Session(graph=model.graph) as sess:
        recording.start(tf, model, sess)
        for seed in parity.SEEDS[width]:
            feed = recording.feed(model, seed, True)
            sess.run(model.optimizer_d, feed)
            sess.run(model.optimizer_g, feed)
        prefix = checkpoint.save(sess, saver, folder, 'dcgan_celeba', 3, {})
        return prefix, outputs(model, sess, width)


def read_here(prefix, width):
    """The outputs of this program's graph with all variables restored from a checkpoint."""
    model = graphs.build(width=width)
    with model.graph.as_default():
        saver, variables = tf.train.Saver(), checkpoint.variables_by_name(tf.global_variables())
    with tf.Session(graph=model.graph) as sess:
        checkpoint.restore(sess, saver, prefix, variables)
        return outputs(model, sess, width)


def outputs(model, sess, width):
    """{name: output} as golden/make_golden.py records them: now, and after one more step."""
    seed = parity.SEEDS[width][0]
    out = {'now.' + name: value
           for name, value in recording.look(model, sess, seed, False).items()}
    for op in (model.optimizer_d, model.optimizer_g):
        sess.run(op, recording.feed(model, seed, True))
    out.update(('next.' + name, value)
               for name, value in recording.look(model, sess, seed, True).items())
    return out


def original(*arguments):
    """Runs golden/make_golden.py on TensorFlow 1.15.5."""
    program = os.path.join(parity.GOLDEN, 'make_golden.py')
    subprocess.check_call([TF115_PYTHON, '-W', 'ignore', program] + [str(a) for a in arguments])


def assert_same(here, there, width):
    """Images are equal to 1e-5; at width 2 also one step later, which depends on Adam's slots.

    At width 64 a single ReLU that changes sides through rounding changes the next step by more than
    a wrong slot would, so the next step shows nothing.
    """
    assert np.abs(here['now.g'] - there['now.g']).max() < 1e-5
    for name in recording.OUTPUTS:
        gap = np.abs(here['now.' + name] - there['now.' + name]).max()
        assert gap <= recording.tolerance('init/eval/' + name, width, None), name
        if width == 2:
            gap = np.abs(here['next.' + name] - there['next.' + name]).max()
            assert gap <= recording.tolerance('after_d/train/' + name, width, None), name


def test_the_recorded_checkpoint_loads_here():
    out = read_here(os.path.join(parity.GOLDEN, 'tiny_checkpoint', 'dcgan_celeba-3'), 2)
    recorded = np.load(os.path.join(parity.GOLDEN, 'tiny_arrays.npz'))
    assert np.abs(out['now.g'][:2] - recorded['after_3.eval.g']).max() < 1e-5
    for name in ('d_real_logits', 'd_fake_logits', 'loss_d', 'loss_g'):
        assert np.abs(out['now.' + name] - recorded['after_3.eval.' + name]).max() < 2e-5


@needs_tf115
@pytest.mark.parametrize('width', [2, 64])
def test_a_checkpoint_written_by_the_original_loads_here(tmp_path, width):
    original('checkpoint', tmp_path, '--width', width)
    outputs_there = np.load(tmp_path / 'outputs.npz')
    assert_same(read_here(str(tmp_path / 'dcgan_celeba-3'), width), outputs_there, width)


@needs_tf115
@pytest.mark.parametrize('width', [2, 64])
def test_a_checkpoint_written_here_loads_in_the_original(tmp_path, width):
    prefix, outputs_here = write_here(str(tmp_path), width)
    original('read', prefix, tmp_path / 'arrays.npz', '--width', width)
    assert_same(outputs_here, np.load(tmp_path / 'arrays.npz'), width)
