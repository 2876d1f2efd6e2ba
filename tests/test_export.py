"""export.py: each format draws as the checkpoint does; a wrong export replaces nothing."""
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import export
import models
import sampler
from attribute_generator import NAMES, SIZE, Z_DIM
from conftest import TF1
from dcgan import checkpoint, session
from running import TINY, refused, run

if not TF1:
    import onnx  # noqa: F401  without it half of these tests would be skipped
    import onnxruntime  # noqa: F401

onnx_only = pytest.mark.skipif(TF1, reason='no onnx for Python 3.7')
lite_only = pytest.mark.skipif(TF1, reason='TensorFlow 1.15 converts no such network')
FORMATS = ['savedmodel', pytest.param('onnx', marks=onnx_only),
           pytest.param('tflite', marks=lite_only)]
SINGLE_FILES = FORMATS[1:]
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')      # tf.lite.Interpreter's


@pytest.fixture(autouse=True)
def same_devices(monkeypatch):
    """Restores the variable that export.py sets for its process."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')


def drawn(prefix, feeds, averaged):
    """Images of a checkpoint, drawn by a session of the tests; averaged: with the EMA weights."""
    size, _, width, _ = checkpoint.read_generator(prefix)
    with tf.Graph().as_default(), tf.Session() as sess:
        inputs = {name: tf.placeholder(tf.float32, [None, value.shape[1]])
                  for name, value in feeds[0].items()}
        images = models.generator(inputs['noise'], False, size, width, inputs.get('labels'))
        variables = checkpoint.variables_by_name(tf.global_variables(), averaged)
        tf.train.Saver(variables).restore(sess, prefix)
        return [sess.run(images, {inputs[name]: feed[name] for name in feed}) for feed in feeds]


def batches(z_dim, labels=0):
    """Yields feeds of 7, 1 and 2 images, with so many labels."""
    rng = np.random.RandomState(5)
    for count in (7, 1, 2):
        feed = {'noise': rng.uniform(-1, 1, (count, z_dim))}
        if labels:
            feed['labels'] = rng.choice([-1, 1], (count, labels))
        yield {name: value.astype(np.float32) for name, value in feed.items()}


def gap(a, b):
    """The largest difference between two lists of images."""
    return max(np.abs(x - y).max() for x, y in zip(a, b))


def write(format_, out, *options, ckpt=TINY):
    return export.main(['--ckpt', str(ckpt), '--format', format_, '--out', str(out), *options])


@pytest.mark.parametrize('out', ['g', './g', 'sub//g', os.path.join('{}', 'g')])
def test_a_second_export_to_the_same_place_is_complete(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = out.format(tmp_path)
    for _ in range(2):
        assert write('savedmodel', out) == 0
    assert os.listdir(os.path.dirname(out) or '.') == ['g']
    assert export.draw_savedmodel(out, [{'noise': np.zeros([1, 100])}])[0].shape == (1, 64, 64, 3)


def failed(capsys, *arguments, **named):
    """Runs export.py, which must end with code 2; returns its error, one sentence."""
    with pytest.raises(SystemExit) as stop:
        write(*arguments, **named)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1, err
    return err


@pytest.mark.parametrize('format_', FORMATS)
def test_a_written_export_draws_as_the_checkpoint(format_, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert write(format_, os.path.join('sub', 'g')) == 0
    out = capsys.readouterr().out
    assert re.match(r"sub/g: 0\.[12] MB, images differ from the checkpoint's by at most "
                    r'\d\.\de[-+]\d\d of \[-1, 1\]$', out)
    names = ['g'] if format_ == 'savedmodel' else ['g', 'g.json']
    assert sorted(os.listdir(str(tmp_path / 'sub'))) == names
    feeds = list(batches(100))
    images = export.FORMATS[format_][1](str(tmp_path / 'sub' / 'g'), feeds)
    assert [array.shape for array in images] == [(n, 64, 64, 3) for n in (7, 1, 2)]
    assert all(array.dtype == np.float32 for array in images)
    assert gap(images, drawn(TINY, feeds, averaged=False)) < 1e-5


@pytest.mark.parametrize('raw', [False, True])
@pytest.mark.parametrize('format_', FORMATS)
def test_ema_weights_and_labels_are_exported(format_, raw, attribute_checkpoint, tmp_path):
    path = str(tmp_path / 'g')
    write(format_, path, *(['--raw'] if raw else []), ckpt=attribute_checkpoint)
    feeds = list(batches(Z_DIM, len(NAMES)))
    images = export.FORMATS[format_][1](path, feeds)
    assert gap(images, drawn(attribute_checkpoint, feeds, averaged=not raw)) < 1e-5
    assert gap(images, drawn(attribute_checkpoint, feeds, averaged=raw)) > 0.1
    others = [dict(feed, labels=-feed['labels']) for feed in feeds]
    assert gap(images, export.FORMATS[format_][1](path, others)) > 0.1

    metadata = 'g/assets.extra/generator.json' if format_ == 'savedmodel' else 'g.json'
    details = json.loads((tmp_path / metadata).read_text())
    assert details == {'checkpoint': 'dcgan_celeba-7', 'averaged': not raw, 'image_size': SIZE,
                       'z_dim': Z_DIM, 'attributes': NAMES, 'labels': ['+-', '--', '-+']}
    if format_ == 'onnx':
        import onnx
        model = onnx.load(path)
        assert {prop.key: prop.value if prop.key == 'checkpoint' else json.loads(prop.value)
                for prop in model.metadata_props} == details
        assert [(value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
                for value in [*model.graph.input, *model.graph.output]] == [
            ('noise', ['n', Z_DIM]), ('labels', ['n', 2]), ('images', ['n', SIZE, SIZE, 3])]


@pytest.mark.parametrize('format_', SINGLE_FILES)
def test_float16_halves_the_size_within_a_grey_level(format_, tmp_path):
    sizes = {}
    for weights in ('float32', 'float16'):
        path = str(tmp_path / weights)
        write(format_, path, '--weights', weights)
        sizes[weights] = os.path.getsize(path)
    assert sizes['float16'] < 0.6 * sizes['float32']
    feeds = list(batches(100))
    images = export.FORMATS[format_][1](path, feeds)
    expected = drawn(TINY, feeds, averaged=False)
    assert gap(images, expected) > 1e-5
    assert np.mean([(np.abs(a - b) <= 2 / 255).mean() for a, b in zip(images, expected)]) > 0.999
    assert images[0].dtype == np.float32


def spoil(monkeypatch, format_, by):
    """Has the format's function write a wrong network: adds `by` to a bias of the last layer."""
    write_right, draw = export.FORMATS[format_]

    def write_wrong(generator, path, weights):
        with generator.sess.graph.as_default():
            bias, = tf.global_variables('generator/g/bias:')
            generator.sess.run(bias.assign_add([0, by, 0]))
        write_right(generator, path, weights)
    monkeypatch.setitem(export.FORMATS, format_, (write_wrong, draw))


@pytest.mark.parametrize('format_', FORMATS)
def test_a_wrong_export_is_not_written(format_, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, format_, 1e-4)
    message = failed(capsys, format_, tmp_path / 'g')
    assert f'--out {tmp_path / "g"}: not written, since its images differ' in message
    assert 'by more than 1.0e-05' in message
    assert os.listdir(str(tmp_path)) == []
    # A value that is not finite differs from every value.
    spoil(monkeypatch, format_, float('nan'))
    assert 'by up to nan' in failed(capsys, format_, tmp_path / 'g')


@pytest.mark.parametrize('format_', SINGLE_FILES)
def test_float16_exports_have_a_limit_too(format_, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, format_, 1e-3)
    write(format_, tmp_path / 'g', '--weights', 'float16')
    before = (tmp_path / 'g').read_bytes()
    spoil(monkeypatch, format_, 0.05)
    assert '% of the pixels by more than 7.8e-03' in failed(
        capsys, format_, tmp_path / 'g', '--weights', 'float16')
    assert (tmp_path / 'g').read_bytes() == before


def test_images_of_another_shape_are_refused():
    args = export.parse(['--format', 'onnx', '--out', 'g'])
    images = np.zeros([7, 32, 32, 3], np.float32)
    assert export.compare([images], [images], args) == 0
    with pytest.raises(export.ExportError, match='g: not written, since it gives images'):
        export.compare([images[:1]], [images], args)


@pytest.mark.parametrize('format_', FORMATS)
def test_only_a_correct_export_replaces_the_old_one(format_, attribute_checkpoint, tmp_path,
                                                    monkeypatch, capsys):
    path = tmp_path / 'g'
    write(format_, path, ckpt=attribute_checkpoint)
    write(format_, path)
    names = sorted(os.listdir(str(tmp_path)))
    assert names == (['g'] if format_ == 'savedmodel' else ['g', 'g.json'])
    spoil(monkeypatch, format_, 1e-3)
    failed(capsys, format_, path, ckpt=attribute_checkpoint)
    assert sorted(os.listdir(str(tmp_path))) == names
    feeds = list(batches(100))
    assert gap(export.FORMATS[format_][1](str(path), feeds), drawn(TINY, feeds, False)) < 1e-5


def test_impossible_places_are_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'thesis.txt').write_text('mine')
    assert f'--out {tmp_path / "file"}: is a file; a SavedModel is a folder' in failed(
        capsys, 'savedmodel', tmp_path / 'file')
    assert 'is a folder of something else than a SavedModel' in failed(
        capsys, 'savedmodel', tmp_path / 'folder')
    (tmp_path / 'folder' / 'saved_model.pb').write_text('')
    assert 'is a folder of something else than a SavedModel' in failed(
        capsys, 'savedmodel', tmp_path / 'folder')
    assert 'a[b]: TensorFlow takes *, ? and [ in a path' in failed(
        capsys, 'savedmodel', tmp_path / 'a[b]')
    assert 'is a folder; onnx is a file' in failed(capsys, 'onnx', tmp_path / 'folder')
    assert 'is a folder; tflite is a file' in failed(capsys, 'tflite', str(tmp_path / 'new') + '/')
    assert f'{tmp_path / "file"}: ' in failed(capsys, 'savedmodel', tmp_path / 'file' / 'g')
    assert (tmp_path / 'file').read_text() == (tmp_path / 'folder' / 'thesis.txt').read_text()
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    assert '--out .: is in use as a folder; name one in it' in failed(capsys, 'savedmodel', '.')
    (tmp_path / 'dcgan.index').write_text('')
    assert 'dcgan: is a checkpoint, whose .json would be written over' in failed(
        capsys, 'onnx', tmp_path / 'dcgan')
    assert 'dcgan.json: is the settings of a checkpoint' in failed(
        capsys, 'onnx', tmp_path / 'dcgan.json')
    (tmp_path / 'package.json').write_text('{"name": "mine"}')
    assert 'package.json, which would be written over, is not that of an export' in failed(
        capsys, 'onnx', tmp_path / 'package')
    assert sorted(os.listdir(str(tmp_path))) == ['dcgan.index', 'empty', 'file', 'folder',
                                                 'package.json']


def test_a_full_disk_is_reported_in_one_sentence(tmp_path, monkeypatch, capsys):
    def full(generator, path, weights):
        raise OSError(28, 'No space left on device')
    monkeypatch.setitem(export.FORMATS, 'savedmodel', (full, None))
    assert "g: can't be written (No space left on device)" in failed(
        capsys, 'savedmodel', tmp_path / 'g')
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    message = failed(capsys, 'onnx', tmp_path / 'g')
    assert '--format onnx: ' in message and 'pip install onnx onnxruntime' in message
    if not TF1:
        assert package in message.split(';')[0]


@pytest.mark.parametrize('arguments, message', [
    (['--out', 'g'], 'the following arguments are required: --format'),
    (['--format', 'onnx'], 'the following arguments are required: --out'),
    (['--format', 'pickle', '--out', 'g'], 'argument --format: invalid choice'),
    (['--format', 'onnx', '--weights', 'int8', '--out', 'g'], 'argument --weights: invalid choice'),
    (['--format', 'savedmodel', '--weights', 'float16', '--out', 'g'],
     '--weights float16: is for --format onnx and tflite'),
    (['--format', 'savedmodel', '--ckpt', 'nowhere', '--out', 'g'],
     '--ckpt nowhere: no checkpoint there'),
])
def test_invalid_options_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        export.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert message in err and os.listdir(str(tmp_path)) == []


def test_export_runs_as_a_program(tmp_path):
    shutil.copytree(os.path.dirname(TINY), str(tmp_path / 'model'))
    if TF1:
        assert "1.15.5 can't convert this network; TensorFlow 2 can" in refused(
            'export.py', '--format', 'tflite', '--out', 'g.tflite', cwd=tmp_path)
        return
    out, err = run('export.py', '--format', 'tflite', '--out', 'g.tflite', cwd=tmp_path)
    assert out.startswith('g.tflite: 0.1 MB') and err == ''


def test_tensorflow_2_draws_from_a_savedmodel(tmp_path):
    if TF1:
        pytest.skip('TensorFlow 1.15')
    write('savedmodel', tmp_path / 'g')
    feed = next(batches(100))
    np.save(str(tmp_path / 'noise.npy'), feed['noise'])
    (tmp_path / 'serve.py').write_text(
        'import numpy as np, tensorflow as tf\n'
        'draw = tf.saved_model.load("g").signatures["serving_default"]\n'
        'np.save("images.npy", draw(noise=tf.constant(np.load("noise.npy")))["images"])\n')
    run(str(tmp_path / 'serve.py'), cwd=tmp_path)
    images = np.load(str(tmp_path / 'images.npy'))
    assert gap([images], drawn(TINY, [feed], averaged=False)) < 1e-5


def test_plain_graphs_have_only_standard_convolutions(monkeypatch):
    monkeypatch.setattr(session, 'has_onednn', lambda: True)
    op_types = {}
    for plain in (False, True):
        with sampler.Sampler(TINY, plain=plain) as generator:
            op_types[plain] = [op.type for op in generator.sess.graph.get_operations()]
    assert op_types[True].count('Conv2DBackpropInput') == 4 > op_types[False].count(
        'Conv2DBackpropInput')
    assert 'IdentityN' not in op_types[True]
