"""Checkpoints go both ways between this program and the original on TensorFlow 1.15.5.

What TensorFlow 1.15.5 wrote once lies in golden/. Where its interpreter is found, in the variable
TF115_PYTHON or as the one that runs the tests, the original graph (tf.layers, tf.contrib) is run
there, at full width as well.
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
    """Three steps of this program, then its checkpoint; returns (prefix, outputs)."""
    p = graphs.build(width=width)
    with p.graph.as_default():
        saver = tf.train.Saver()
    with tf.Session(graph=p.graph) as sess:
        recording.start(tf, p, sess)
        for seed in parity.SEEDS[width]:
            feed = recording.feed(p, seed, True)
            sess.run(p.optimizer_d, feed)
            sess.run(p.optimizer_g, feed)
        prefix = checkpoint.save(sess, saver, folder, 'dcgan_celeba', 3, {})
        return prefix, outputs(p, sess, width)


def read_here(prefix, width):
    """The outputs of this program's graph, every variable restored from prefix."""
    p = graphs.build(width=width)
    with p.graph.as_default():
        saver, variables = tf.train.Saver(), checkpoint.variables_by_name(tf.global_variables())
    with tf.Session(graph=p.graph) as sess:
        checkpoint.restore(sess, saver, prefix, variables)
        return outputs(p, sess, width)


def outputs(p, sess, width):
    """What golden/make_golden.py notes of a restored program: now, and after one more step."""
    seed = parity.SEEDS[width][0]
    out = {'now.' + name: value
           for name, value in recording.look(p, sess, seed, False).items()}
    for op in (p.optimizer_d, p.optimizer_g):
        sess.run(op, recording.feed(p, seed, True))
    out.update(('next.' + name, value)
               for name, value in recording.look(p, sess, seed, True).items())
    return out


def original(*arguments):
    program = os.path.join(parity.GOLDEN, 'make_golden.py')
    subprocess.check_call([TF115_PYTHON, '-W', 'ignore', program] + [str(a) for a in arguments])


def assert_same(mine, theirs, width):
    """Images to 1e-5, and at width 2 a step later too, when Adam's slots count.

    At width 64 a single relu that rounding tips over makes the next step differ by more than a
    wrong slot would: nothing could be read from it.
    """
    assert np.abs(mine['now.g'] - theirs['now.g']).max() < 1e-5
    for name in recording.OUTPUTS:
        gap = np.abs(mine['now.' + name] - theirs['now.' + name]).max()
        assert gap <= recording.tolerance('init/eval/' + name, width, None), name
        if width == 2:
            gap = np.abs(mine['next.' + name] - theirs['next.' + name]).max()
            assert gap <= recording.tolerance('after_d/train/' + name, width, None), name


def test_a_checkpoint_of_the_original_loads_here():
    out = read_here(os.path.join(parity.GOLDEN, 'tiny_checkpoint', 'dcgan_celeba-3'), 2)
    theirs = np.load(os.path.join(parity.GOLDEN, 'tiny_arrays.npz'))
    assert np.abs(out['now.g'][:2] - theirs['after_3.eval.g']).max() < 1e-5
    for name in ('d_real_logits', 'd_fake_logits', 'loss_d', 'loss_g'):
        assert np.abs(out['now.' + name] - theirs['after_3.eval.' + name]).max() < 2e-5


@needs_tf115
@pytest.mark.parametrize('width', [2, 64])
def test_what_the_original_writes_loads_here(tmp_path, width):
    original('checkpoint', tmp_path, '--width', width)
    theirs = np.load(tmp_path / 'outputs.npz')
    assert_same(read_here(str(tmp_path / 'dcgan_celeba-3'), width), theirs, width)


@needs_tf115
@pytest.mark.parametrize('width', [2, 64])
def test_what_is_written_here_loads_in_the_original(tmp_path, width):
    prefix, mine = write_here(str(tmp_path), width)
    original('read', prefix, tmp_path / 'arrays.npz', '--width', width)
    assert_same(mine, np.load(tmp_path / 'arrays.npz'), width)
