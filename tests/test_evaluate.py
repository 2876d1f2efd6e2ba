"""evaluate.py as a user runs it, on images of the toy set, with a small frozen graph."""
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import evaluate
from conftest import ROOT
from dcgan import cache, datasets, metrics, toy
from running import refused, run

FIGURES = ['swd', 'swd_32', 'swd_16', 'ms_ssim']


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with faces/, others/, network.pb, and a run of 4 steps on the faces."""
    folder = tmp_path_factory.mktemp('home')
    for name, count in (('faces', 240), ('others', 40)):
        (folder / name).mkdir()
        for number in range(count):
            toy.draw(f'{name} {number}').save(str(folder / name / f'{number:03d}.png'))
    run('train.py', '--dataset', 'faces', '--image-size', 32, '--batch-size', 16, '--max-steps', 4,
        '--save-every', 2, cwd=folder)
    with tf.Graph().as_default() as graph:
        # A batch of 1, as in the published network.
        images = tf.placeholder(tf.float32, [1, None, None, 3], name='ExpandDims')
        tf.nn.avg_pool(images, 8, 8, 'VALID', name='pool_3')
        tf.placeholder(tf.float32, [], name='unused')
        (folder / 'network.pb').write_bytes(graph.as_graph_def().SerializeToString())
    return folder


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    """A new folder; the working folder is home."""
    monkeypatch.chdir(home)
    return tmp_path


def evaluated(tmp_path, *arguments):
    """Runs evaluate.py in this process; returns the content of its --json."""
    path = tmp_path / 'figures.json'
    assert evaluate.main(['--dataset', 'faces', '--json', str(path), '--out', str(tmp_path)]
                         + [str(a) for a in arguments]) == 0
    return json.loads(path.read_text())


def photographs(name='faces'):
    return cache.load(datasets.find(name), 32, 0).images[:]


def refusal(capsys, *arguments):
    """Runs evaluate.py, which must end with code 2; returns its error, one sentence."""
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1, err
    return err


def test_all_checkpoints_are_measured_with_all_options(home):
    out, err = run('evaluate.py', '--dataset', 'faces', '--all', '--num', 100, '--sheet',
                   '--held-out', 'others', '--inception', 'network.pb', '--json', 'all.json',
                   cwd=home)
    assert err == 'reading 40 photographs of others\n'
    assert '240 photographs of faces, largest square by Pillow BILINEAR to 32x32' in out
    assert '100 images a side, the floor likewise; seed 0' in out
    assert 'against 40 photographs of others that it was not trained on' in out
    assert 'features: pool_3:0 of network.pb' in out
    report = json.loads((home / 'all.json').read_text())
    assert [(one['checkpoint'], one['step']) for one in report['checkpoints']] == [
        ('model/dcgan_faces-2', 2), ('model/dcgan_faces-4', 4)]
    names = FIGURES + ['fid', 'kid', 'kid_deviation', 'precision', 'recall', 'copies',
                       'copies_deviation']
    assert sorted(report['floor']) == sorted(names)
    for one in report['checkpoints']:
        assert sorted(one['figures']) == sorted(names)
        for name in ('swd', 'swd_32', 'swd_16', 'ms_ssim', 'fid', 'kid'):
            assert one['figures'][name] > 1.3 * report['floor'][name], name
        # The output has the checkpoint's name, then a line for each figure with its floor.
        table = out[out.index(f'\n{one["checkpoint"]} '):]
        assert re.search(r'\nFréchet distance +{:.4f} +{:.4f}\n'.format(one['figures']['fid'],
                                                          report['floor']['fid']), table)
    protocol = report['protocol']
    assert [protocol[key] for key in ('dataset', 'photographs', 'image_size', 'crop', 'resize',
                                      'images', 'floor_images', 'seed')] == [
        'faces', 240, 32, 0, 'Pillow BILINEAR', 100, 100, 0]
    assert (protocol['network']['file'], len(protocol['network']['sha256'])) == ('network.pb', 64)
    with Image.open(str(home / 'samples' / 'measures_dcgan_faces.png')) as curves:
        assert curves.size[0] == 1200
    with Image.open(str(home / 'samples' / 'nearest_dcgan_faces-4.png')) as sheet:
        assert sheet.size == (6 * 32, 12 * 32)


def test_figures_equal_those_of_the_metrics(here):
    report = evaluated(here, '--num', 100, '--seed', 1, '--inception', 'network.pb')
    assert report['checkpoints'][0]['checkpoint'] == 'model/dcgan_faces-4'
    order = np.random.RandomState(1).permutation(240)
    args = evaluate.parse(['--seed', '1'])
    samples = evaluate.draw('model/dcgan_faces-4', 100, args)
    sets = samples, photographs()[order[:100]], photographs()[order[100:200]]
    profiles = [metrics.swd_profile(images) for images in sets]
    features = [images.reshape(100, 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(100, 48)
                for images in sets]
    for a, b, figures in ((1, 0, report['checkpoints'][0]['figures']), (1, 2, report['floor'])):
        swd = metrics.swd(profiles[a], profiles[b])
        assert [figures['swd_32'], figures['swd_16']] == pytest.approx([swd[32], swd[16]],
                                                                       rel=1e-2)
        assert figures['swd'] == pytest.approx((swd[32] + swd[16]) / 2, rel=1e-2)
        assert figures['ms_ssim'] == pytest.approx(
            metrics.ms_ssim(sets[b][:50], sets[b][50:]), rel=1e-3)
        assert figures['fid'] == pytest.approx(metrics.fid(
            *(metrics.statistics(features[i]) for i in (a, b))), rel=1e-3)
        assert figures['kid'] == pytest.approx(metrics.kid(
            features[a], features[b], size=50)[0], rel=1e-3)
        assert [figures['precision'], figures['recall']] == pytest.approx(
            metrics.precision_recall(features[a], features[b]), abs=0.01)


def test_measurements_of_real_images_are_cached(here, monkeypatch):
    measured = []
    summary = evaluate.summary

    def counted(images, compute_features):
        measured.append(len(images))
        return summary(images, compute_features)
    monkeypatch.setattr(evaluate, 'summary', counted)
    first = evaluated(here, '--num', 20, '--seed', 2)
    assert measured == [20, 20, 20]         # real images, those of the floor, samples
    assert evaluated(here, '--num', 20, '--seed', 2) == first
    assert measured[3:] == [20]
    for length in (1000, 0):
        for name in os.listdir('datasets/cache'):
            if name.endswith('.npz'):
                os.truncate(f'datasets/cache/{name}', length)
        measured.clear()
        assert evaluated(here, '--num', 20, '--seed', 2) == first
        assert measured == [20, 20, 20]
    with open('network.pb', 'rb') as f, open(str(here / 'other.pb'), 'wb') as other:
        other.write(f.read() + tf.GraphDef(versions={'producer': 21}).SerializeToString())
    times = []
    for network in ('network.pb', here / 'other.pb', 'network.pb'):
        measured.clear()
        evaluated(here, '--num', 20, '--seed', 2, '--inception', network)
        times.append(len(measured))
    assert times == [3, 3, 1]


def test_real_images_as_samples_have_the_figures_of_the_floor(here, monkeypatch):
    others = photographs()[np.random.RandomState(0).permutation(240)[120:]]
    monkeypatch.setattr(evaluate, 'draw', lambda prefix, count, args: others)
    report = evaluated(here, '--inception', 'network.pb')
    assert report['protocol']['images'] == 120
    assert report['checkpoints'][0]['figures'] == pytest.approx(report['floor'], rel=1e-6)


def test_copies_of_training_images_are_detected(here, monkeypatch):
    training, new = photographs(), photographs('others')
    copies = training[np.random.RandomState(5).permutation(240)[:40], :, ::-1]
    halves = np.random.RandomState(0).permutation(40)
    for samples, share in ((copies, 1), (new, -240 / 40)):
        monkeypatch.setattr(evaluate, 'draw', lambda prefix, count, args, s=samples: s)
        report = evaluated(here, '--num', 40, '--held-out', 'others')
        assert report['checkpoints'][0]['figures']['copies'] == pytest.approx(share)
        assert (report['floor']['copies'], report['floor']['copies_deviation']) == (
            metrics.copied_share(*map(metrics.thumbnails,
                                      (new[halves[:20]], training, new[halves[20:]]))))
    assert report['protocol']['held_out'] == {'dataset': 'others', 'photographs': 40}


def test_sheet_shows_the_nearest_photographs_of_a_sample(here):
    images = photographs()
    samples = images[[7, 30, 4]] // 2 + 60
    samples[1] = images[30]
    sheet = evaluate.nearest_sheet(samples, images)
    assert sheet.shape == (3 * 32, 6 * 32, 3)
    assert (sheet[:32, :32] == images[30]).all()        # the sample most like a photograph
    assert (sheet[:32, 32:64] == images[30]).all()


def test_another_dataset_with_more_than_half_of_its_images(here, capsys):
    report = evaluated(here, '--dataset', 'others', '--num', 30, '--sheet', '--raw')
    assert (report['protocol']['images'], report['protocol']['floor_images']) == (30, 20)
    out = capsys.readouterr().out
    assert '30 images a side, for the floor 20, half of them all' in out
    assert 'was trained on other photographs (faces): nothing is said of copies' in out
    assert 'no sheet of nearest photographs' in out
    assert evaluated(here, '--dataset', 'others')['protocol']['images'] == 20


def test_num_beyond_the_dataset_is_reported_first(here, capsys):
    report = evaluated(here, '--dataset', 'others', '--num', 50000)
    assert report['protocol']['images'] == 40
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == '--num 50000: others holds 40 photographs, so 40 images a side are compared'
    assert rest[0].startswith('40 photographs of others, ')
    evaluated(here, '--dataset', 'others', '--num', 40)
    assert not capsys.readouterr().out.startswith('--num')


def test_copies_of_celeba_are_measured_with_its_other_parts(here, capsys):
    faces = here / 'celeba'
    faces.mkdir()
    for number in range(44):
        shutil.copy(f'faces/{number:03d}.png', str(faces / f'{number:06d}.png'))
    for ending in ('.index', '.data-00000-of-00001'):       # no metadata
        shutil.copy('model/dcgan_faces-4' + ending, str(here / ('dcgan_faces-4' + ending)))
    arguments = ['--dataset', 'celeba', '--data-dir', here, '--ckpt', here]
    assert 'copies' not in evaluated(here, *arguments)['floor']
    out = capsys.readouterr().out
    assert 'nothing says what it was trained on: taken to be these' in out
    (faces / 'list_eval_partition.txt').write_text(''.join(
        f'{number:06d}.png {part}\n' for number, part in enumerate([0] * 20 + [2] * 12)))
    assert 'copies' in evaluated(here, *arguments)['floor']
    with open(str(faces / 'list_eval_partition.txt'), 'a') as f:
        f.write(''.join(f'{number:06d}.png 1\n' for number in range(32, 44)))
    report = evaluated(here, *arguments)
    # The floor takes the valid part for samples that are no copies.
    sources = [datasets.find('celeba', str(here), part) for part in ('valid', 'train', 'test')]
    parts = [metrics.thumbnails(cache.load(source, 32, 178, str(here), 8).images)
             for source in sources]
    assert report['floor']['copies'] == metrics.copied_share(*parts)[0]
    assert report['protocol']['photographs'] == 20 and report['protocol']['crop'] == 178
    assert report['protocol']['held_out'] == {'dataset': 'celeba_test', 'photographs': 12}


@pytest.mark.parametrize('arguments, message', [
    (['--crop', '50'], '--crop 50: model/dcgan_faces-4 was trained with --crop 0, and figures'),
    (['--ckpt', 'nowhere'], '--ckpt nowhere: no checkpoint there'),
    (['--dataset', 'nowhere'], '--dataset nowhere: neither lfw, celeba, toy nor a folder'),
    (['--held-out', 'nowhere'], 'error: --held-out nowhere: neither lfw'),
    (['--dataset', 'others', '--held-out', 'faces'],
     '--held-out faces: model/dcgan_faces-4 was trained on other photographs than --dataset'),
    (['--held-out', 'faces'], '--held-out faces: these are the photographs of --dataset faces'),
    (['--output', 'fc'], '--input, --output: go with --inception'),
    (['--num', '5'], 'argument --num/--max-images: 5 is not from 8 to'),
    (['--inception', 'none.pb'], 'none.pb: No such file'),
    (['--inception', 'all.txt'], '--inception all.txt: is no frozen graph, or damaged'),
    (['--inception', 'half.pb'], '--inception half.pb: is no frozen graph, or damaged'),
    (['--inception', 'network.pb', '--input', 'image:0'],
     'network.pb: has no image; it takes ExpandDims, unused and ends in pool_3, unused'),
    (['--inception', 'network.pb', '--output', 'fc'], 'network.pb: has no fc; it takes'),
    (['--inception', 'network.pb', '--output', 'pool_3:7'], '--inception network.pb: '),
    (['--ckpt', os.path.join(ROOT, 'model', 'dcgan_lfw'), '--all'], 'belongs to no run'),
])
def test_invalid_options_are_refused(here, capsys, home, arguments, message):
    (home / 'all.txt').write_text('a page that says that the file has moved')
    (home / 'half.pb').write_bytes((home / 'network.pb').read_bytes()[:-40])
    arguments = arguments if '--dataset' in arguments else ['--dataset', 'faces'] + arguments
    assert message in refusal(capsys, *arguments)


def test_the_default_dataset_is_that_of_the_checkpoint(here, capsys):
    evaluate.main(['--num', '20', '--out', str(here / 'pictures')])
    assert capsys.readouterr().out.startswith('240 photographs of faces, ')
    assert not (here / 'pictures').exists()     # nothing is written there


def test_the_place_of_the_figures_is_checked_first(here, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, 'draw', None)
    (here / 'file').write_text('')
    for path, place in ((here / 'file' / 'figures.json', here / 'file'), (here, here)):
        assert f'error: {place}: ' in refusal(capsys, '--dataset', 'faces', '--json', path)
    assert '-4.json: is the settings of a checkpoint' in refusal(
        capsys, '--dataset', 'faces', '--json', 'model/dcgan_faces-4.json')
    path = here / 'new' / 'figures.json'
    assert 'has no fc' in refusal(capsys, '--dataset', 'faces', '--json', path, '--inception',
                                  'network.pb', '--output', 'fc')
    assert os.listdir(str(path.parent)) == []


def test_figures_measured_before_an_interrupt_are_kept(here, monkeypatch):
    draw = evaluate.draw

    def stopped(prefix, count, args):
        if prefix.endswith('-4'):
            raise KeyboardInterrupt
        return draw(prefix, count, args)
    monkeypatch.setattr(evaluate, 'draw', stopped)
    path = here / 'figures.json'
    assert evaluate.main(['--all', '--num', '20', '--json', str(path)]) == 130
    report = json.loads(path.read_text())
    assert [one['step'] for one in report['checkpoints']] == [2]


def test_all_finds_the_steps_of_a_run_without_metadata(here):
    for step in (2, 4):
        for ending in ('.index', '.data-00000-of-00001'):
            name = f'dcgan_faces-{step}{ending}'
            shutil.copy(os.path.join('model', name), str(here / name))
    report = evaluated(here, '--ckpt', here / 'dcgan_faces-2', '--all', '--num', 20, '--sheet')
    assert [one['step'] for one in report['checkpoints']] == [2, 4]
    assert (here / 'nearest_dcgan_faces-4.png').exists()        # of the last checkpoint


def test_damaged_checkpoints_of_a_run_are_skipped(here, capsys):
    shutil.copytree('model', str(here / 'model'))
    with open(str(here / 'model' / 'dcgan_faces-2.data-00000-of-00001'), 'r+b') as f:
        f.truncate(1000)
    report = evaluated(here, '--ckpt', here / 'model', '--all', '--num', 20)
    assert [one['step'] for one in report['checkpoints']] == [4]
    assert 'dcgan_faces-2: is damaged' in capsys.readouterr().err
    os.remove(str(here / 'model' / 'dcgan_faces-2.index'))
    os.truncate(str(here / 'model' / 'dcgan_faces-4.data-00000-of-00001'), 1000)
    assert 'dcgan_faces-4: is damaged' in refusal(capsys, '--ckpt', f'{here / "model"}//', '--all',
                                                  '--dataset', 'faces')


def test_a_network_of_classify_needs_no_tensor_names(here):
    with open('network.pb', 'rb') as f:
        frozen = tf.GraphDef.FromString(f.read())
    for node in frozen.node:
        node.name = {'ExpandDims': 'images', 'pool_3': 'features'}.get(node.name, node.name)
        node.input[:] = ['images' if name == 'ExpandDims' else name for name in node.input]
    (here / 'ours.pb').write_bytes(frozen.SerializeToString())
    ours, other = (evaluated(here, '--num', 20, '--inception', network)
                   for network in (here / 'ours.pb', 'network.pb'))
    assert ours['checkpoints'] == other['checkpoints']
    assert (ours['protocol']['network']['output'], other['protocol']['network']['output']) == (
        'features:0', 'pool_3:0')


def unfrozen(images):
    return images * tf.get_variable('scale', [])


@pytest.mark.parametrize('features_of, message', [
    (unfrozen, 'network.pb: '),
    (tf.shape, 'features:0 of 20 images of 32x32 is [4], not 20 rows of at most 4,096'),
    (lambda images: tf.reshape(images, [-1, 768]), 'of 32x32 is [80, 768], not 20 rows of'),
    (lambda images: tf.concat([images, images], 1), 'is [20, 64, 32, 3], not 20 rows of at most'),
    (tf.reduce_mean, 'of 32x32 is [], not 20 rows of'),
    (lambda images: tf.reshape(images, [-1, 1000]), 'network.pb: '),
])
def test_a_network_that_gives_no_features_is_named(here, capsys, features_of, message):
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, None, None, 3], name='images')
        tf.identity(features_of(images), name='features')
        (here / 'network.pb').write_bytes(graph.as_graph_def().SerializeToString())
    err = refusal(capsys, '--dataset', 'faces', '--num', 20, '--seed', 9,
                  '--inception', here / 'network.pb')
    assert err.startswith('error: --inception ') and message in err


def test_too_few_photographs_are_refused(here, capsys):
    (here / 'few').mkdir()
    for number in range(15):
        Image.new('RGB', (32, 32)).save(str(here / 'few' / f'{number}.png'))
    with pytest.raises(SystemExit):
        evaluate.main(['--dataset', str(here / 'few')])
    assert '15 photographs are too few to compare with; at least 16' in capsys.readouterr().err


def test_help_says_where_the_network_is(home):
    out, _ = run('evaluate.py', '--help', cwd=home)
    assert 'inception-2015-12-05.tgz' in out
    assert 'no checkpoint in this folder' in refused('evaluate.py', '--ckpt', '.', cwd=home)
    # Both are quick, because TensorFlow is imported later.
    subprocess.check_call([sys.executable, '-c', 'import evaluate, sys; '
                           'sys.exit("tensorflow" in sys.modules)'], cwd=ROOT)
