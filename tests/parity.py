"""Compares the project's graph with the recorded values of TensorFlow 1.15.5.

    python tests/parity.py            prints the largest share of tolerance for each group of keys

It compares the summaries of all keys in `golden/tiny.json` (width 2) and `golden/wide.json` (width
64), and all arrays that are recorded as a whole. Exit code 1 if any value is out of tolerance.
"""
import collections
import json
import os
import sys

import numpy as np

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'golden')
if __name__ == '__main__':
    sys.path[:0] = [os.path.dirname(os.path.dirname(GOLDEN)), GOLDEN]
    from dcgan import session
    session.set_up()

import tensorflow.compat.v1 as tf  # noqa: E402
from tensorflow.python.framework import test_util  # noqa: E402

import formula  # noqa: E402  needs the path above
import graphs  # noqa: E402
import recording  # noqa: E402

# Smallest cosine of two correct updates, over the 16 elements in a summary. Measured: 0.998. If one
# element, whose gradient is near zero, goes the other way: 0.875.
SAME_DIRECTION = 0.8
SEEDS = {2: formula.TINY, 64: formula.WIDE}
NAMES = {2: 'tiny', 64: 'wide'}


def load_json(name):
    with open(os.path.join(GOLDEN, name)) as f:
        return json.load(f, object_pairs_hook=collections.OrderedDict)


def record(width, **options):
    """All recorded arrays of the project's own graph; options go to graph.build."""
    model = graphs.build(width=width, **options)
    with model.graph.as_default():
        gradients = {'grads_d': tf.gradients(model.loss_d, model.vars_d),
                     'grads_g': tf.gradients(model.loss_g, model.vars_g)}
    fields = collections.namedtuple('Program', model._fields + tuple(gradients))
    with tf.Session(graph=model.graph) as sess:
        return recording.record(tf, fields(*model, **gradients), sess, SEEDS[width])


def shares(out, width):
    """{key: largest difference as a share of its tolerance} over summaries and whole arrays."""
    figures = load_json(NAMES[width] + '.json')['figures']
    assert list(out) == list(figures), 'other keys than recorded'
    table = {}
    for key, recorded in figures.items():
        computed = formula.summary(key, out[key])
        assert computed['shape'] == recorded['shape'], key
        assert np.isfinite(out[key]).all(), key
        gaps = list(np.abs(elements(computed) - elements(recorded)))
        # The root mean square of all elements' gaps bounds the gap of the mean, and the gap of the
        # norm divided by the root of the size. At most half of the gaps exceed √2 times it. The
        # probe weighs the elements with standard normals and practically never exceeds 4 times it.
        size = max(1.0, float(np.prod(recorded['shape'])))
        rms_gaps = [np.median(gaps) / np.sqrt(2),
                    abs(computed['mean'] - recorded['mean']),
                    abs(computed['norm'] - recorded['norm']) / np.sqrt(size),
                    abs(computed['probe'] - recorded['probe']) / 4]
        gaps.append(abs(computed['max'] - recorded['max']))
        table[key] = max(max(gaps) / recording.tolerance(key, width, recorded['max']),
                         max(rms_gaps) / recording.rms_tolerance(key, width, recorded['max']))
        if recording.is_update(key):
            cosine = update_cosine(key, computed, recorded)
            table[key] = max(table[key], (1 - cosine) / (1 - SAME_DIRECTION))
    for key, computed, recorded in whole_arrays(out, width):
        gap = float(np.abs(computed - recorded).max())
        share = gap / recording.tolerance(key, width, figures[key]['max'])
        table[key] = max(table[key], share)
    return table


def elements(summary):
    """The elements of an array that are in its summary, float64."""
    return np.array(summary['head'] + summary['even'])


def update_cosine(key, computed, recorded):
    """The cosine between the updates in two summaries of a key; 0 if one of them is zero."""
    before = 0
    if recording.is_weight(key):
        value = formula.initial_value(key.split('/', 2)[2], recorded['shape'])
        before = elements(formula.summary(key, value))
    computed, recorded = elements(computed) - before, elements(recorded) - before
    lengths = np.linalg.norm(computed) * np.linalg.norm(recorded)
    return computed @ recorded / lengths if lengths else 0


def whole_arrays(out, width):
    """Yields (key, computed, recorded) for every array that is recorded as a whole."""
    if width == 2:
        for name, recorded in np.load(os.path.join(GOLDEN, 'tiny_arrays.npz')).items():
            key = next(key for key in out if key.replace('/', '.') == name)
            yield key, out[key][:2] if key.endswith('/g') else out[key], recorded
        reader = tf.train.NewCheckpointReader(
            os.path.join(GOLDEN, 'tiny_checkpoint', 'dcgan_celeba-3'))
        for name in reader.get_variable_to_shape_map():
            yield 'after_3/var/' + name, out['after_3/var/' + name], reader.get_tensor(name)
    else:
        images = np.load(os.path.join(GOLDEN, 'wide_images.npz'))
        for name, key, rows in (('init_eval', 'init/eval/g', slice(0, 2)),
                                ('init_train', 'init/train/g', slice(0, 2)),
                                ('after_3_eval', 'after_3/eval/g', slice(0, 1)),
                                ('batch5_train', 'batch5/train/g', slice(4, 5))):
            yield key, out[key][rows], images[name]


def group(key):
    """The row of the table in golden/README.md that a key belongs to."""
    if key == 'losses':
        return 'losses of the three steps'
    state, kind, name = key.split('/', 2)
    if kind in ('eval', 'train'):
        return f'{state} {kind} outputs'
    if kind.startswith('grad'):
        return f'init gradients{" that are zero" if recording.NOISE.match(name) else ""}'
    if 'moving' in name:
        return f'{state} moving averages'
    if name.endswith(('/Adam', '/Adam_1')) or name.startswith('beta'):
        return f'{state} Adam'
    return f'{state} {"zero-gradient biases" if recording.NOISE.match(name) else "weights"}'


def main():
    print(f'TensorFlow {tf.__version__}, oneDNN {"on" if test_util.IsMklEnabled() else "off"}')
    tables = {width: shares(record(width), width) for width in (2, 64)}
    groups = collections.OrderedDict()
    for width, table in tables.items():
        for key, share in table.items():
            row = groups.setdefault(group(key), {2: 0.0, 64: 0.0})
            row[width] = max(row[width], share)
    print(f'{"share of tolerance, largest":36} width 2  width 64')
    for name, row in groups.items():
        print(f'{name:36} {row[2]:7.3f}  {row[64]:8.3f}')
    worst = max(max(table.values()) for table in tables.values())
    print(f'{sum(len(t) for t in tables.values())} keys, the worst at {worst:.3f}')
    return int(worst > 1)


if __name__ == '__main__':
    sys.exit(main())
