"""Names and 395 recorded keys equal those of TensorFlow 1.15.5; deliberate mistakes do not."""
import functools
import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import test_util

import formula
import graphs
import losses
import models
import ops
import parity
import recording
from conftest import TF1


@pytest.mark.parametrize('size', [64, 128])
def test_the_99_variables_are_as_recorded(size):
    model = graphs.build(image_size=size)
    with model.graph.as_default():
        variables = tf.global_variables()
        collections = {key: {v.name for v in tf.get_collection(key)}
                       for key in ('variables', 'trainable_variables', 'model_variables')}
    records = [{'name': v.op.name, 'shape': v.shape.as_list(), 'dtype': v.dtype.base_dtype.name,
                'trainable': v.name in collections['trainable_variables'],
                'collections': [key for key, names in collections.items() if v.name in names]}
               for v in variables]
    assert len(records) == 99
    assert records == parity.load_json(f'variables_{size}.json')


def test_names_of_tensors_and_ops_are_as_recorded():
    model = graphs.build()
    golden = parity.load_json('graph.json')
    for field, name in golden['tensors'].items():
        assert getattr(model, field).name == name
    for field, name in golden['train_ops'].items():
        assert getattr(model, field).name == name
    updates = model.graph.get_collection(tf.GraphKeys.UPDATE_OPS)
    targets = {v.handle.name: v.op.name for v in model.graph.get_collection('variables')}
    assert [(op.name, targets[op.inputs[0].name]) for op in updates] == [
        (op['name'], op['target']) for op in golden['update_ops']]


@pytest.mark.parametrize('width', [2, 64])
def test_every_recorded_key_is_within_tolerance(width):
    table = parity.shares(parity.record(width), width)
    assert len(table) == 395
    assert {key: share for key, share in table.items() if not share <= 1} == {}


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_tuned_convolutions_are_within_tolerance(precision):
    # The convolutions chosen for each precision; all are computed in float32 here.
    for width in (2, 64):
        table = parity.shares(parity.record(width, conv_precision=precision), width)
        assert {key: share for key, share in table.items() if not share <= 1} == {}


@pytest.mark.skipif(TF1, reason='TensorFlow 1.15.5 as recorded has no oneDNN')
def test_the_other_state_of_onednn_is_within_tolerance():
    other = 'off' if test_util.IsMklEnabled() else 'on'
    environment = dict(os.environ, TF_ENABLE_ONEDNN_OPTS=str(int(other == 'on')))
    program = os.path.join(os.path.dirname(__file__), 'parity.py')
    run = subprocess.run([sys.executable, program], env=environment, stdout=subprocess.PIPE,
                         text=True)
    assert run.returncode == 0, run.stdout
    assert f'oneDNN {other}\n' in run.stdout and '790 keys' in run.stdout


# Deliberate mistakes. Each must be out of tolerance by the stated factor: so the recorded values
# tell a wrong graph from a correct one. The measured factors are in golden/README.md.

def different_layer(monkeypatch, name, **options):
    layer = getattr(ops, name)

    def different(*args, **kwargs):
        bound = inspect.signature(layer).bind(*args, **kwargs)
        bound.arguments.update(options)
        return layer(**bound.arguments)
    monkeypatch.setattr(models, name, different)


def without_bessel(monkeypatch):
    fused = tf.nn.fused_batch_norm

    def biased(x, *args, **kwargs):
        y, mean, variance = fused(x, *args, **kwargs)
        if kwargs['is_training']:
            count = tf.cast(tf.size(x) / tf.shape(x)[-1], tf.float32)
            variance *= (count - 1) / count
        return y, mean, variance
    monkeypatch.setattr(tf.nn, 'fused_batch_norm', biased)


def without_order(monkeypatch):
    def move(average, value, rate):
        update = average.assign_sub((average.read_value() - value) * rate, read_value=False)
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update)
    monkeypatch.setattr(ops, '_move', move)


def fake_tower_without_updates(monkeypatch):
    def batch_norm(*args, **options):
        h = ops.batch_norm(*args, **options)
        if tf.get_variable_scope().reuse:
            del tf.get_collection_ref(tf.GraphKeys.UPDATE_OPS)[-2:]
        return h
    monkeypatch.setattr(models, 'batch_norm', batch_norm)


def optimizer_g_without_updates(monkeypatch):
    minimize = tf.train.AdamOptimizer.minimize

    def patched(self, loss, var_list):
        if var_list[0].name.startswith('discriminator'):
            return minimize(self, loss, var_list=var_list)
        with tf.control_dependencies(None):
            return minimize(self, loss, var_list=var_list)
    monkeypatch.setattr(tf.train.AdamOptimizer, 'minimize', patched)


def adam_epsilon(monkeypatch):
    monkeypatch.setattr(tf.train, 'AdamOptimizer',
                        functools.partial(tf.train.AdamOptimizer, epsilon=1e-7))


MISTAKES = [
    ('batch norm epsilon 1e-5', 1000, {},
     functools.partial(different_layer, name='batch_norm', epsilon=1e-5)),
    ('decay 0.99', 1000, {}, functools.partial(different_layer, name='batch_norm', decay=0.99)),
    ('leak 0.21', 1000, {}, functools.partial(different_layer, name='lrelu', leak=0.21)),
    ('beta1 0.9', 1000, {'beta1': 0.9}, None),
    ('learning rate 0.00021', 100, {'lr': 0.00021}, None),
    ('moving variance without Bessel', 100, {}, without_bessel),
    ('updates without order', 1000, {}, without_order),
    ('fake tower without updates', 1000, {}, fake_tower_without_updates),
    ('optimizer_g without update ops', 100, {}, optimizer_g_without_updates),
    ('Adam epsilon 1e-7', 5, {}, adam_epsilon),
]


@pytest.mark.parametrize('name, factor, options, make', MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_detected(monkeypatch, name, factor, options, make):
    if make:
        make(monkeypatch)
    table = parity.shares(parity.record(2, **options), 2)
    worst = max(table, key=table.get)
    print(f'{name}: {table[worst]:.0f} times the tolerance, at {worst}')
    assert table[worst] > factor


def real_and_fake_swapped(monkeypatch):
    gan = losses.LOSSES['gan']
    monkeypatch.setitem(losses.LOSSES, 'gan', gan._replace(d=lambda real, fake: gan.d(fake, real)))


@pytest.mark.parametrize('options, make, undetected', [
    ({'lr': -0.0002}, None, set()),
    # The first gradient at this bias is the same: the sum of the two sigmoids, minus 1.
    ({}, real_and_fake_swapped, {'after_d/var/discriminator/dense/bias',
                                 'after_dg/var/discriminator/dense/bias'})],
    ids=['gradient ascent', 'real and fake swapped'])
def test_a_wrong_direction_is_detected_at_every_weight_of_width_64(
        monkeypatch, options, make, undetected):
    if make:
        make(monkeypatch)
    table = parity.shares(parity.record(64, **options), 64)
    weights = {key for key in table if recording.is_weight(key) and recording.is_update(key)}
    assert len(weights) == 52
    assert {key for key in weights if table[key] <= 1} == undetected


def test_weights_without_an_update_have_no_direction():
    key = 'after_dg/var/discriminator/conv2d/bias'
    recorded = parity.load_json('wide.json')['figures'][key]
    initial = formula.summary(key, formula.initial_value(key.split('/', 2)[2], [64]))
    assert parity.update_cosine(key, recorded, recorded) == pytest.approx(1)
    assert parity.update_cosine(key, initial, recorded) == 0


@pytest.mark.parametrize('g_steps', [1, 2])
@pytest.mark.parametrize('seed', [1, 2, 3])
def test_a_fused_step_equals_separate_runs(g_steps, seed):
    states = []
    for fused in (False, True):
        model = graphs.build(image_size=32, width=8, fused_g_steps=g_steps if fused else 0)
        feed = recording.feed(model, seed, True, size=32)
        with tf.Session(graph=model.graph) as sess:
            variables = recording.start(tf, model, sess)
            assert len(variables) == 99
            if fused:
                _, loss_d, loss_g = sess.run([model.optimizer_g, model.loss_d, model.loss_g], feed)
            else:
                _, loss_d = sess.run([model.optimizer_d, model.loss_d], feed)
                for _ in range(g_steps):
                    _, loss_g = sess.run([model.optimizer_g, model.loss_g], feed)
            state = {recording.plain_name(v): x for v, x in zip(variables, sess.run(variables))}
        states.append(dict(state, loss_d=loss_d, loss_g=loss_g))
    separate, fused = states
    for name, value in separate.items():
        if 'moving' not in name and not recording.NOISE.match(name):
            # Adam's slots are the gradients (times 0.5) and their squares.
            gap = np.abs(fused[name] - value).max()
            assert gap <= 1e-5 * np.abs(value).max(), name
    # There is one forward pass of G less: its averages move g_steps times, not g_steps + 1.
    name = 'generator/BatchNorm_3/moving_mean'
    assert np.abs(fused[name] - separate[name]).max() > 1e-3


def test_batches_may_have_any_size():
    model = graphs.build(image_size=32, width=2)
    with model.graph.as_default():
        initializer = tf.global_variables_initializer()
    with tf.Session(graph=model.graph) as sess:
        sess.run(initializer)
        for count in (1, 7, 3):
            feed = {model.noise: np.zeros([count, 100]), model.X: np.zeros([count, 32, 32, 3]),
                    model.is_training: True}
            sess.run([model.optimizer_d, model.optimizer_g], feed)
            assert sess.run(model.g, feed).shape == (count, 32, 32, 3)
            assert sess.run(model.d_fake, feed).shape == (count, 1)
