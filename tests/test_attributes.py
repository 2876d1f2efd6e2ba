"""Attributes: training with labels, drawing faces with them, and classifying the faces."""
import contextlib
import json
import os

import numpy as np
import pytest

import generate
import plain_celeba
import sampler
from conftest import ROOT, costly
from dcgan import checkpoint, metadata
from running import pixels, refused_here, run, run_here

SMALL = ['--dataset', 'celeba', '--image-size', 32, '--batch-size', 16, '--log-every', 50]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A CelebA of plain images, red or blue, light or dark, and a model trained on them."""
    home = tmp_path_factory.mktemp('attributes')
    labels = np.random.RandomState(0).rand(256, 3) < 0.5
    light, _, red = labels.T[..., None]
    plain_celeba.write(home, ['Light', 'Noise', 'Red'], labels,
                       np.where(red, (120, 40, 40), (40, 40, 120)) + 90 * light)
    # Broken: the labels of the photographs after it must not shift by one.
    (home / 'datasets' / 'celeba' / 'img_align_celeba' / '000003.jpg').write_bytes(b'')
    run('train.py', *SMALL, '--attributes', 'Red,Light', '--max-steps', 150, '--fused-step',
        '--average', 0.9, cwd=home)
    return home


@costly
def test_faces_have_the_specified_attributes(home):
    means = {}
    for specified in ('Red=1,Light=1', 'Red=-1,Light=1', 'Red=-1,Light=-1'):
        run_here('generate.py', '--out', 'faces', '--num', 16, '--attributes', specified, cwd=home)
        name = f'faces_seed0_{specified.replace(",", "_")}.png'      # one file for each
        means[specified] = pixels(home / 'faces' / name).mean((0, 1))
    red, blue, dark = means.values()
    assert red[0] - red[2] > 40 and blue[2] - blue[0] > 40
    assert blue.sum() - dark.sum() > 120


@costly
def test_each_column_of_an_attribute_sheet_switches_one_attribute(home):
    out, _ = run_here('generate.py', '--attribute-sheet', 3, '--out', 'sheet', cwd=home)
    assert 'knows Red, Light' in out
    sheet = pixels(home / 'sheet' / 'attributes_seed0.png')
    headings = sheet[:sheet.shape[0] - 3 * 32]
    assert sheet.shape[1] == 3 * 32 and headings.shape[0] > 20 and headings.min() < 100
    cells = sheet[-3 * 32:].reshape(3, 32, 3, 32, 3).swapaxes(1, 2).mean((2, 3))
    # The second column has the other colour, the third the other brightness.
    colour, light = cells[..., 0] - cells[..., 2], cells.sum(-1)
    assert (colour[:, 0] * colour[:, 1] < 0).all() and (colour[:, 0] * colour[:, 2] > 0).all()
    assert (np.abs(light[:, 2] - light[:, 0]) > 100).all()


def test_unspecified_attributes_come_from_training_rows():
    class Model:
        attributes = ['A', 'B', 'C']
        known_labels = np.array([[1, 1, -1], [1, 1, 1], [-1, -1, -1]], np.int8)
    labels = sampler.Sampler.labels(Model, 0, 400)
    assert {tuple(row) for row in labels} == {(1, 1, -1), (1, 1, 1), (-1, -1, -1)}
    labels = sampler.Sampler.labels(Model, 0, 400, {'A': 1})
    assert {tuple(row) for row in labels} == {(1, 1, -1), (1, 1, 1)}
    labels = sampler.Sampler.labels(Model, 0, 400, {'A': -1, 'C': 1})       # no row matches
    assert {tuple(row) for row in labels} == {(-1, 1, 1), (-1, -1, 1)}
    assert (sampler.Sampler.labels(Model, 1, 400) != sampler.Sampler.labels(Model, 0, 400)).any()


@costly
def test_interpolation_keeps_its_labels(home):
    for ends in ((1, 2), (2, 1)):
        run_here('generate.py', '--interpolate', *ends, '--frames', 9, '--out', 'way', cwd=home)
        run_here('generate.py', '--seed', ends[0], '--num', 1, '--out', 'end', cwd=home)
        way = pixels(home / 'way' / 'interpolate_{}_{}.png'.format(*ends)).astype(int)
        end = pixels(home / 'end' / f'faces_seed{ends[0]}.png').astype(int)
        assert np.abs(way[:32, :32] - end).max() <= 1
        cells = way.reshape(3, 32, 3, 32, 3).mean((1, 3))
        assert np.ptp(cells[..., 0] - cells[..., 2]) < 60 and np.ptp(cells.sum(-1)) < 60


@costly
def test_saved_latents_with_the_same_seed_draw_the_same_faces(home):
    run_here('generate.py', '--seed', 5, '--num', 9, '--save-latents', 'five.npy', '--out', 'a',
             cwd=home)
    run_here('generate.py', '--seed', 5, '--latents', 'five.npy', '--out', 'a', cwd=home)
    five, again = (pixels(home / 'a' / f'faces_{name}.png') for name in ('seed5', 'five_seed5'))
    assert (five == again).all()


@costly
def test_a_saved_generator_keeps_its_attributes(home):
    run_here('generate.py', '--save-generator', 'passed/dcgan_celeba', '--out', 'a', cwd=home)
    run_here('generate.py', '--ckpt', 'passed', '--out', 'b', '--batch-size', 7, cwd=home)
    a, b = (pixels(home / folder / 'faces_seed0.png').astype(int) for folder in 'ab')
    assert np.abs(a - b).max() <= 1     # rounding may differ with the size of the batch
    names, rows = metadata.read_labels(str(home / 'passed' / 'dcgan_celeba'))
    assert names == ['Red', 'Light'] and rows.shape == (255, 2)
    listed = np.loadtxt(str(home / 'datasets' / 'celeba' / 'list_attr_celeba.txt'), int,
                        skiprows=2, usecols=(3, 1))
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.delete(listed, 3, axis=0)))


@costly
def test_a_classifier_recognises_the_drawn_attributes(home):
    (home / 'datasets' / 'celeba' / 'list_eval_partition.txt').write_text('\n'.join(
        f'{number:06d}.jpg {int(number >= 200)}' for number in range(256)) + '\n')
    run_here('classify.py', '--epochs', 12, cwd=home)
    (home / 'datasets' / 'celeba' / 'list_eval_partition.txt').unlink()
    out, _ = run_here('evaluate.py', '--dataset', 'celeba', '--labels', 'model/labels.pb', '--num',
                      16, '--json', 'figures.json', cwd=home)
    by_attribute = json.loads((home / 'figures.json').read_text())['checkpoints'][0]['attributes']
    assert list(by_attribute) == ['Red', 'Light']
    assert all(figures['balanced'] > 0.9 for figures in by_attribute.values())
    assert f'{by_attribute["Red"]["asked"]:.1%}' in out


@costly
def test_impossible_attributes_are_refused(home, tmp_path):
    assert '--attributes Rad: is none of the 2 there are; the nearest: Red' in refused_here(
        'generate.py', '--attributes', 'Rad=1', cwd=home)
    assert "'Red' should be a name, = and 1 or -1" in refused_here(
        'generate.py', '--attributes', 'Red', cwd=home)
    assert '--separate: what --attribute-sheet draws is one picture' in refused_here(
        'generate.py', '--attribute-sheet', '--separate', cwd=home)
    _, err = run_here('train.py', *SMALL, '--attributes', 'light', '--model-dir', 'other', cwd=home,
                      code=2)
    assert '--attributes light: is none of the 3 there are; the nearest: Light' in err
    _, err = run_here('train.py', '--dataset', 'toy', '--attributes', 'Red', cwd=home, code=2)
    assert 'no labels of CelebA' in err
    _, err = run_here('train.py', '--dataset', 'celeba', '--resume', '--attributes', 'Red',
                      cwd=home, code=2)
    assert 'was trained with --attributes Red,Light' in err
    details = json.loads((home / 'model' / 'dcgan_celeba-150.json').read_text())
    details['labels'][3] = '+'
    (tmp_path / 'dcgan-1.json').write_text(json.dumps(details))
    with pytest.raises(checkpoint.CheckpointError, match='its labels are not those of its attr'):
        metadata.read_labels(str(tmp_path / 'dcgan-1'))
    path = home / 'datasets' / 'celeba' / 'list_attr_celeba.txt'
    before = path.read_text()
    lines = before.splitlines()
    name, light, noise, red = lines[2].split()
    try:
        path.write_text('\n'.join([*lines[:2], f'{name} {light} {noise} {-int(red)}', *lines[3:]]))
        _, err = run_here('train.py', '--dataset', 'celeba', '--resume', cwd=home, code=2)
    finally:
        path.write_text(before)
    assert 'is not what ' in err and 'or other pixels or labels' in err


@pytest.mark.parametrize('options, message', [
    (['--attributes', 'Red=1'], '--attributes: {} was trained without --attributes'),
    (['--attribute-sheet'], '--attribute-sheet: {} was trained without --attributes'),
    (['--latents', 'a.npy', '--seed', '3'],
     '--seed has no effect on --latents FILE: {} knows no attributes'), ([], '')])
def test_attribute_options_need_a_model_with_attributes(capsys, options, message):
    prefix, args = os.path.join(ROOT, 'model', 'dcgan_lfw'), generate.parse(options)
    with pytest.raises(SystemExit) if message else contextlib.nullcontext():
        generate.check_attributes(prefix, args)
    assert capsys.readouterr().err == (f'error: {message.format(prefix)}\n' if message else '')


@pytest.mark.parametrize('text, wishes', [
    ('Smiling=1,Male=-1', {'Smiling': 1, 'Male': -1}), ('A=+1, B = -1', {'A': 1, 'B': -1}),
    ('', {})])
def test_attribute_values_are_parsed(text, wishes):
    assert generate.wishes(text) == wishes


@pytest.mark.parametrize('text', ['A', 'A=0', 'A=1,A=-1', '=', 'A=yes'])
def test_invalid_attribute_values_are_refused(text):
    with pytest.raises(generate.argparse.ArgumentTypeError):
        generate.wishes(text)
