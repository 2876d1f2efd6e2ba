"""What export.py writes draws as the checkpoint does, and what doesn't never takes its place."""
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
from dcgan import checkpoint, session
from dcgan.files import write_json
from running import TINY, refused, run

OLD = tf.__version__.startswith('1.')
NAMES, SIZE, Z, WIDTH = ['Red', 'Light'], 48, 20, 3


if not OLD:
    import onnx  # noqa: F401  without it half of these tests would be skipped
    import onnxruntime  # noqa: F401

onnx_only = pytest.mark.skipif(OLD, reason='no onnx for Python 3.7')
lite_only = pytest.mark.skipif(OLD, reason='TensorFlow 1.15 converts no such network')
FORMATS = ['savedmodel', pytest.param('onnx', marks=onnx_only),
           pytest.param('tflite', marks=lite_only)]
SINGLE_FILES = FORMATS[1:]
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')      # tf.lite.Interpreter's


@pytest.fixture(autouse=True)
def same_devices(monkeypatch):
    """What export.py sets for its own process ends with the test."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')


@pytest.fixture(scope='module')
def asked(tmp_path_factory):
    """A generator of 48x48 that knows two attributes, with an average that draws otherwise.

    Every number is drawn by chance: one that is missed or taken for another shows.
    """
    prefix = str(tmp_path_factory.mktemp('asked') / 'dcgan_celeba-7')
    rng = np.random.RandomState(0)
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        models.generator(tf.placeholder(tf.float32, [None, Z]), False, SIZE, WIDTH,
                         labels=tf.placeholder(tf.float32, [None, len(NAMES)]))
        variables = checkpoint.variables_by_name(tf.global_variables())
        saved = {}
        for ending in ('', checkpoint.EMA_SUFFIX):
            for name, variable in variables.items():
                shape = variable.shape.as_list()
                value = (rng.uniform(0.5, 2, shape) if name.endswith('variance') else
                         rng.normal(0, 0.2, shape))
                saved[name + ending] = tf.get_variable(f'saved{len(saved)}',
                                                       initializer=value.astype(np.float32))
        sess.run(tf.variables_initializer(list(saved.values())))
        tf.train.Saver(saved).save(sess, prefix, write_meta_graph=False)
        assert graph.get_tensor_by_name('generator/g/Tanh:0').shape.as_list()[1:] == [48, 48, 3]
    write_json(prefix + '.json', {
        'settings': {'attributes': NAMES, 'dataset': 'toy', 'crop': 0},
        'data': {'dataset': 'toy', 'photographs': 9, 'crc32': 1},
        'step': 7, 'epoch': 1.0,
        'labels': ['+-', '--', '-+']})
    return prefix


def drawn(prefix, feeds, averaged):
    """Images by a session of the test's own."""
    size, z, width, _ = checkpoint.read_generator(prefix)
    with tf.Graph().as_default(), tf.Session() as sess:
        inputs = {name: tf.placeholder(tf.float32, [None, value.shape[1]])
                  for name, value in feeds[0].items()}
        images = models.generator(inputs['noise'], False, size, width, inputs.get('labels'))
        variables = checkpoint.variables_by_name(tf.global_variables(), averaged)
        tf.train.Saver(variables).restore(sess, prefix)
        return [sess.run(images, {inputs[name]: feed[name] for name in feed}) for feed in feeds]


def batches(z, labels=0):
    rng = np.random.RandomState(5)
    for count in (7, 1, 2):
        feed = {'noise': rng.uniform(-1, 1, (count, z))}
        if labels:
            feed['labels'] = rng.choice([-1, 1], (count, labels))
        yield {name: value.astype(np.float32) for name, value in feed.items()}


def gap(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b))


def write(format_, out, *options, ckpt=TINY):
    return export.main(['--ckpt', str(ckpt), '--format', format_, '--out', str(out), *options])


@pytest.mark.parametrize('out', ['g', './g', 'sub//g', os.path.join('{}', 'g')])
def test_an_export_again_in_the_same_place_is_whole(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = out.format(tmp_path)
    for _ in range(2):
        assert write('savedmodel', out) == 0
    assert os.listdir(os.path.dirname(out) or '.') == ['g']
    assert export.draw_savedmodel(out, [{'noise': np.zeros([1, 100])}])[0].shape == (1, 64, 64, 3)


def failed(capsys, *arguments, **named):
    """The one sentence that export.py ends with."""
    with pytest.raises(SystemExit) as stop:
        write(*arguments, **named)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1, err
    return err


@pytest.mark.parametrize('format_', FORMATS)
def test_what_is_written_draws_as_the_checkpoint_does(format_, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert write(format_, os.path.join('sub', 'g')) == 0
    said = capsys.readouterr().out
    assert re.match(r"sub/g: 0\.[12] MB, images differ from the checkpoint's by at most "
                    r'\d\.\de[-+]\d\d of \[-1, 1\]$', said)
    beside = ['g'] if format_ == 'savedmodel' else ['g', 'g.json']
    assert sorted(os.listdir(str(tmp_path / 'sub'))) == beside
    feeds = list(batches(100))
    images = export.FORMATS[format_][1](str(tmp_path / 'sub' / 'g'), feeds)
    assert [array.shape for array in images] == [(n, 64, 64, 3) for n in (7, 1, 2)]
    assert all(array.dtype == np.float32 for array in images)
    assert gap(images, drawn(TINY, feeds, averaged=False)) < 1e-5


@pytest.mark.parametrize('raw', [False, True])
@pytest.mark.parametrize('format_', FORMATS)
def test_averages_and_labels(format_, raw, asked, tmp_path):
    path = str(tmp_path / 'g')
    write(format_, path, *(['--raw'] if raw else []), ckpt=asked)
    feeds = list(batches(Z, len(NAMES)))
    images = export.FORMATS[format_][1](path, feeds)
    assert gap(images, drawn(asked, feeds, averaged=not raw)) < 1e-5
    assert gap(images, drawn(asked, feeds, averaged=raw)) > 0.1
    others = [dict(feed, labels=-feed['labels']) for feed in feeds]
    assert gap(images, export.FORMATS[format_][1](path, others)) > 0.1

    beside = 'g/assets.extra/generator.json' if format_ == 'savedmodel' else 'g.json'
    known = json.loads((tmp_path / beside).read_text())
    assert known == {'checkpoint': 'dcgan_celeba-7', 'averaged': not raw, 'image_size': SIZE,
                     'z_dim': Z, 'attributes': NAMES, 'labels': ['+-', '--', '-+']}
    if format_ == 'onnx':
        import onnx
        model = onnx.load(path)
        assert {prop.key: prop.value if prop.key == 'checkpoint' else json.loads(prop.value)
                for prop in model.metadata_props} == known
        assert [(value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
                for value in [*model.graph.input, *model.graph.output]] == [
            ('noise', ['n', Z]), ('labels', ['n', 2]), ('images', ['n', SIZE, SIZE, 3])]


@pytest.mark.parametrize('format_', SINGLE_FILES)
def test_half_the_size_for_less_than_a_grey_level(format_, tmp_path):
    sizes = {}
    for weights in ('float32', 'float16'):
        path = str(tmp_path / weights)
        write(format_, path, '--weights', weights)
        sizes[weights] = os.path.getsize(path)
    assert sizes['float16'] < 0.6 * sizes['float32']
    feeds = list(batches(100))
    images = export.FORMATS[format_][1](path, feeds)
    wanted = drawn(TINY, feeds, averaged=False)
    assert gap(images, wanted) > 1e-5
    assert np.mean([(np.abs(a - b) <= 2 / 255).mean() for a, b in zip(images, wanted)]) > 0.999
    assert images[0].dtype == np.float32


def spoil(monkeypatch, format_, by):
    """Adds to one number of the last layer's bias before the format's function writes."""
    right, draw = export.FORMATS[format_]

    def wrong(generator, path, weights):
        with generator.sess.graph.as_default():
            bias, = tf.global_variables('generator/g/bias:')
            generator.sess.run(bias.assign_add([0, by, 0]))
        right(generator, path, weights)
    monkeypatch.setitem(export.FORMATS, format_, (wrong, draw))


@pytest.mark.parametrize('format_', FORMATS)
def test_a_wrong_one_is_not_written(format_, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, format_, 1e-4)
    message = failed(capsys, format_, tmp_path / 'g')
    assert f'--out {tmp_path / "g"}: not written, since its images differ' in message
    assert 'by more than 1.0e-05' in message
    assert os.listdir(str(tmp_path)) == []
    # What is not finite differs from everything.
    spoil(monkeypatch, format_, float('nan'))
    assert 'by up to nan' in failed(capsys, format_, tmp_path / 'g')


@pytest.mark.parametrize('format_', SINGLE_FILES)
def test_float16_has_its_limit_too(format_, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, format_, 1e-3)
    write(format_, tmp_path / 'g', '--weights', 'float16')
    before = (tmp_path / 'g').read_bytes()
    spoil(monkeypatch, format_, 0.05)
    assert '% of the pixels by more than 7.8e-03' in failed(
        capsys, format_, tmp_path / 'g', '--weights', 'float16')
    assert (tmp_path / 'g').read_bytes() == before


def test_another_shape_is_another_image():
    args = export.parse(['--format', 'onnx', '--out', 'g'])
    images = np.zeros([7, 32, 32, 3], np.float32)
    assert export.compare([images], [images], args) == 0
    with pytest.raises(export.ExportError, match='g: not written, since it gives images'):
        export.compare([images[:1]], [images], args)


@pytest.mark.parametrize('format_', FORMATS)
def test_what_is_there_is_replaced_by_what_passed_only(format_, asked, tmp_path, monkeypatch,
                                                       capsys):
    path = tmp_path / 'g'
    write(format_, path, ckpt=asked)
    write(format_, path)
    found = sorted(os.listdir(str(tmp_path)))
    assert found == (['g'] if format_ == 'savedmodel' else ['g', 'g.json'])
    spoil(monkeypatch, format_, 1e-3)
    failed(capsys, format_, path, ckpt=asked)
    assert sorted(os.listdir(str(tmp_path))) == found
    feeds = list(batches(100))
    assert gap(export.FORMATS[format_][1](str(path), feeds), drawn(TINY, feeds, False)) < 1e-5


def test_places_that_are_refused(tmp_path, monkeypatch, capsys):
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


def test_a_disk_that_is_full_is_one_sentence(tmp_path, monkeypatch, capsys):
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
    if not OLD:
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
def test_options_that_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        export.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert message in err and os.listdir(str(tmp_path)) == []


def test_as_a_user_runs_it(tmp_path):
    shutil.copytree(os.path.dirname(TINY), str(tmp_path / 'model'))
    if OLD:
        assert "1.15.5 can't convert this network; TensorFlow 2 can" in refused(
            'export.py', '--format', 'tflite', '--out', 'g.tflite', cwd=tmp_path)
        return
    out, err = run('export.py', '--format', 'tflite', '--out', 'g.tflite', cwd=tmp_path)
    assert out.startswith('g.tflite: 0.1 MB') and err == ''


def test_a_saved_model_serves_tensorflow_2(tmp_path):
    if OLD:
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


def test_plain_kernels_are_what_other_runtimes_know(monkeypatch):
    monkeypatch.setattr(session, 'has_onednn', lambda: True)
    kinds = {}
    for plain in (False, True):
        with sampler.Sampler(TINY, plain=plain) as generator:
            kinds[plain] = [op.type for op in generator.sess.graph.get_operations()]
    assert kinds[True].count('Conv2DBackpropInput') == 4 > kinds[False].count(
        'Conv2DBackpropInput')
    assert 'IdentityN' not in kinds[True]
