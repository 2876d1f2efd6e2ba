"""classify.py learns visible labels and writes a graph that evaluate.py can use."""
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import classify
import plain_celeba
from running import run, run_here


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A CelebA of plain images: Red is visible in them, Noise is random."""
    home = tmp_path_factory.mktemp('labels')
    labels = np.random.RandomState(0).rand(700, 2) < 0.5
    plain_celeba.write(home, ['Red', 'Noise'], labels,
                       np.where(labels[:, :1], (200, 60, 60), (60, 60, 200)),
                       parts=np.arange(700) >= 400)
    return home


def test_visible_labels_are_learnt(home):
    out, _ = run('classify.py', '--epochs', 4, cwd=home)
    figures = dict(line.split() for line in out.splitlines() if line.startswith(('Red', 'Noise')))
    assert float(figures['Red']) > 0.98 and 0.3 < float(figures['Noise']) < 0.7
    accuracies = json.loads((home / 'model' / 'labels.pb.json').read_text())
    assert list(accuracies) == ['Red', 'Noise'] and f'{accuracies["Red"]:.3f}' == figures['Red']

    # The graph takes images of any size and number.
    frozen = tf.GraphDef()
    frozen.ParseFromString((home / 'model' / 'labels.pb').read_bytes())
    with tf.Graph().as_default(), tf.Session() as sess:
        images = tf.placeholder(tf.float32, [None, None, None, 3])
        fetched = tf.import_graph_def(frozen, {'images': images}, ['features:0', 'logits:0'])
        plain = np.zeros([5, 100, 100, 3])
        plain[:] = 60, 60, 200
        plain[:2] = 200, 60, 60
        features, logits = sess.run(fetched, {images: plain})
    assert features.shape == (5, classify.FEATURES)
    assert (logits[:, 0] > 0).tolist() == [True, True, False, False, False]


def test_missing_labels_or_partition_are_named(home, tmp_path):
    celeba = tmp_path / 'datasets' / 'celeba'
    shutil.copytree(str(home / 'datasets' / 'celeba'), str(celeba))
    os.remove(str(celeba / 'list_attr_celeba.txt'))
    _, err = run_here('classify.py', cwd=tmp_path, code=2)
    assert 'no labels of CelebA: neither' in err.splitlines()[-1]
    (celeba / 'list_attr_celeba.txt').write_text(
        (home / 'datasets' / 'celeba' / 'list_attr_celeba.txt').read_text())
    os.remove(str(celeba / 'list_eval_partition.txt'))
    _, err = run_here('classify.py', cwd=tmp_path, code=2)
    assert 'no list_eval_partition.txt or .csv is there' in err.splitlines()[-1]


def test_an_unwritable_output_is_named_before_training(home):
    (home / 'file').write_text('')
    _, err = run_here('classify.py', '--out', os.path.join('file', 'labels.pb'), cwd=home, code=2)
    assert err.startswith('error: file: ')
    (home / 'dcgan.index').write_text('')
    _, err = run_here('classify.py', '--out', 'dcgan', cwd=home, code=2)
    assert err.startswith('error: --out dcgan: is a checkpoint')
    _, err = run_here('classify.py', '--data-dir', 'nowhere', '--out', 'new.pb', cwd=home, code=2)
    assert 'nowhere' in err and not [name for name in os.listdir(str(home)) if 'new.pb' in name]


def test_balanced_accuracy():
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], bool)
    predicted = np.array([[1, 1], [0, 1], [0, 0], [0, 0]], bool)
    assert classify.balanced_accuracy(predicted, truth).tolist() == pytest.approx([0.75, 1 - 1 / 6])
    # A label that all or none have counts as chance.
    same = np.array([[1, 0]] * 4, bool)
    assert classify.balanced_accuracy(same, same).tolist() == [0.5, 0.5]
