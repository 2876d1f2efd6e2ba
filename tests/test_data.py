"""Photographs of every mode, the cache of pixels, where data sets are found, and batches."""
import errno
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dcgan import batches, cache, celeba, datasets, photographs
from dcgan.photographs import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def photograph(width=40, height=30, colour=(10, 120, 200)):
    return Image.new('RGB', (width, height), colour)


def fill(folder, count, ending='jpg', prefix='p'):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photograph(colour=(number * 7 % 256, 100, 50)).save(
            str(folder / f'{prefix}{number:03d}.{ending}'))
    return folder


def load(dataset, tmp_path, **options):
    source = datasets.find(str(dataset), str(tmp_path))
    return cache.load(source, 8, data_dir=str(tmp_path), **options)


# one photograph

def test_square_is_the_middle_scaled_with_pillow_bilinear():
    pixels = np.random.RandomState(0).randint(0, 256, (50, 80, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    expected = image.crop((15, 0, 65, 50)).resize((16, 16), Image.BILINEAR)
    assert (photographs.square(image, 16) == np.asarray(expected)).all()
    expected = image.crop((25, 10, 55, 40)).resize((16, 16), Image.BILINEAR)
    assert (photographs.square(image, 16, crop=30) == np.asarray(expected)).all()
    assert (photographs.square(image, 16, crop=500) == photographs.square(image, 16)).all()


def test_values_are_scaled_as_in_the_original_program():
    values = np.arange(256, dtype=np.uint8)
    expected = (values.astype(np.float64) / 255 - 0.5) * 2
    np.testing.assert_allclose(batches.scaled(values), expected, atol=1e-7)
    assert batches.scaled(values).dtype == np.float32


def colours_of(image, **options):
    """The colours of an image after it is saved and read: of a corner and of the middle."""
    file = io.BytesIO()
    image.save(file, **options)
    out = photographs.square(Image.open(io.BytesIO(file.getvalue())), 8)
    assert out.shape == (8, 8, 3) and out.dtype == np.uint8
    return out[0, 0].tolist(), out[4, 4].tolist()


def test_images_of_every_mode_become_rgb():
    size = (8, 8)
    assert colours_of(Image.new('L', size, 77), format='PNG')[0] == [77] * 3
    assert colours_of(Image.new('1', size, 1), format='PNG')[0] == [255] * 3
    assert colours_of(Image.new('LA', size, (77, 255)), format='PNG')[0] == [77] * 3
    assert colours_of(Image.new('RGB', size, RED).convert('P'), format='PNG')[0] == list(RED)
    assert colours_of(Image.new('RGB', size, BLUE), format='BMP')[0] == list(BLUE)
    assert colours_of(Image.new('RGB', size, BLUE), format='WEBP', lossless=True)[0] == list(BLUE)
    deep = Image.fromarray(np.full(size, 77 * 256 + 5, np.uint16))
    assert colours_of(deep, format='PNG')[0] == [77] * 3
    cmyk = colours_of(Image.new('CMYK', size, (0, 255, 255, 0)), format='JPEG', quality=100)[0]
    assert np.abs(np.subtract(cmyk, RED)).max() < 8


def test_transparency_becomes_white():
    image = Image.new('RGBA', (8, 8), RED + (255,))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    assert colours_of(image, format='PNG') == (list(WHITE), list(RED))
    palette = Image.new('P', (8, 8), 3)
    palette.putpalette([9, 9, 9] * 256)
    assert colours_of(palette, format='PNG', transparency=3)[0] == list(WHITE)
    half = Image.new('RGBA', (8, 8), (0, 0, 0, 51))
    assert colours_of(half, format='PNG')[0] == [204] * 3


def test_exif_orientation_is_applied():
    image = Image.new('RGB', (16, 16), GREEN)
    image.paste(RED, (0, 0, 16, 8))
    for orientation, corner, opposite in ((1, (0, 0), (7, 0)), (3, (7, 0), (0, 0)),
                                          (6, (0, 7), (0, 0)), (8, (0, 0), (0, 7))):
        exif = Image.Exif()
        exif[0x0112] = orientation         # upright; turned by 180, 270 and 90 degrees
        file = io.BytesIO()
        image.save(file, format='PNG', exif=exif.tobytes())
        out = photographs.square(Image.open(io.BytesIO(file.getvalue())), 8)
        assert out[corner].tolist() == list(RED) and out[opposite].tolist() == list(GREEN)


# folders

def test_a_folder_is_read_recursively_and_sorted(tmp_path):
    folder = tmp_path / 'my faces'
    fill(folder / 'b', 2, 'png')
    fill(folder / 'a' / 'deep', 1, 'JPEG')
    fill(folder, 1, 'webp', prefix='z')
    fill(folder, 1, 'BMP', prefix='y')
    fill(folder / '.hidden', 1)
    (folder / 'notes.txt').write_text('no photograph')
    source = datasets.find(str(folder), str(tmp_path))
    assert source.names == ['a/deep/p000.JPEG', 'b/p000.png', 'b/p001.png', 'y000.BMP',
                            'z000.webp']
    assert (source.name, source.crop) == ('my_faces', 0)
    photographs = load(folder, tmp_path)
    assert photographs.images.shape == (5, 8, 8, 3) and photographs.names == source.names
    assert photographs.images[2, 0, 0].tolist() == [7, 100, 50]
    assert photographs.crc32 == zlib.crc32(photographs.images[:].tobytes())


def test_a_linked_folder_is_entered_once(tmp_path):
    folder = fill(tmp_path / 'faces', 1)
    fill(tmp_path / 'elsewhere', 1, prefix='q')
    os.symlink(str(tmp_path / 'elsewhere'), str(folder / 'link'))
    os.symlink(str(folder), str(folder / 'loop'))
    assert datasets.find(str(folder)).names == ['link/q000.jpg', 'p000.jpg']


@pytest.mark.parametrize('dataset, message', [
    ('nowhere', '--dataset nowhere: neither lfw, celeba, toy nor a folder'),
    ('EMPTY', 'empty: no photographs'),
    ('lfw', 'lfw: no photographs there; python download_lfw.py fetches them'),
])
def test_a_dataset_without_photographs_is_named(tmp_path, dataset, message):
    (tmp_path / 'empty').mkdir()
    dataset = str(tmp_path / 'empty') if dataset == 'EMPTY' else dataset
    with pytest.raises(DataError, match=message):
        datasets.find(dataset, str(tmp_path))


def test_too_few_photographs_for_a_batch_are_refused(tmp_path):
    with pytest.raises(DataError, match='3 photographs are too few: at least 4 are'):
        load(fill(tmp_path / 'faces', 3), tmp_path, at_least=4)


def test_a_broken_photograph_is_left_out_and_named(tmp_path, capsys):
    folder = fill(tmp_path / 'faces', 199)
    content = (folder / 'p000.jpg').read_bytes()
    (folder / 'broken.jpg').write_bytes(content[:len(content) // 2])
    photographs = load(folder, tmp_path)
    assert len(photographs.images) == 199 and 'broken.jpg' not in photographs.names
    assert [name for name, _ in photographs.broken] == ['broken.jpg']
    assert 'left out, broken: broken.jpg (' in capsys.readouterr().err
    assert load(folder, tmp_path).broken == photographs.broken        # also from the cache
    assert 'left out, broken: broken.jpg (' in capsys.readouterr().err


def test_more_than_one_percent_broken_is_refused(tmp_path):
    folder = fill(tmp_path / 'faces', 97)
    for number in range(6):
        (folder / f'{number}.png').write_bytes(b'GIF89a, but not really')
    with pytest.raises(DataError, match='faces: 6 of 103 photographs are broken, more than 1'):
        load(folder, tmp_path)
    # Such a set is not cached: after a repair it is read again.
    photograph().save(str(folder / '0.png'))
    assert len(load(folder, tmp_path).images) == 98


@pytest.mark.parametrize('number', [errno.EMFILE, errno.EIO])
def test_system_errors_are_not_broken_photographs(tmp_path, number):
    source = datasets.find(str(fill(tmp_path / 'faces', 300)))

    def read(name):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=f'{os.strerror(number)}: .p000.jpg'):
        cache.load(source._replace(read=read), 8, data_dir=str(tmp_path))
    assert os.listdir(str(tmp_path / 'cache')) == []
    assert len(cache.load(source, 8, data_dir=str(tmp_path)).images) == 300


# the cache

def test_the_cache_depends_on_the_files_and_the_crop(tmp_path, monkeypatch, capsys):
    folder = fill(tmp_path / 'faces', 3)
    first = load(folder, tmp_path)
    assert 'reading 3 photographs' in capsys.readouterr().err
    assert load(folder, tmp_path).path == first.path
    assert load(folder, tmp_path, crop=10).path != first.path
    capsys.readouterr()
    photograph(colour=RED).save(str(folder / 'p001.jpg'))
    changed = load(folder, tmp_path)
    assert 'reading 3 photographs' in capsys.readouterr().err
    assert changed.path != first.path and changed.crc32 != first.crc32
    assert not os.path.exists(first.path)       # the old array of the folder
    os.chmod(str(folder / 'p001.jpg'), 0o600)       # may be readable only now
    assert load(folder, tmp_path).path != changed.path


def test_two_runs_may_remove_the_same_outdated_cache(tmp_path, monkeypatch):
    folder = fill(tmp_path / 'faces', 3)
    first, remove = load(folder, tmp_path), os.remove

    def remove_twice(path):
        remove(path)
        remove(path)
    monkeypatch.setattr(os, 'remove', remove_twice)
    photograph(colour=RED).save(str(folder / 'p001.jpg'))
    assert load(folder, tmp_path).crc32 != first.crc32
    assert not os.path.exists(first.path)


@pytest.mark.parametrize('damage', ['truncated', 'no facts', 'half facts'])
def test_an_incomplete_cache_is_written_again(tmp_path, damage):
    folder = fill(tmp_path / 'faces', 3)
    first = load(folder, tmp_path)
    crc32, path = first.crc32, first.path
    if damage == 'truncated':
        os.truncate(path, 100)
    elif damage == 'no facts':
        os.remove(path + '.json')
    else:
        os.truncate(path + '.json', 20)
    again = load(folder, tmp_path)
    assert again.crc32 == crc32 and again.images.shape == (3, 8, 8, 3)
    with open(path + '.json') as f:
        assert json.load(f)['shape'] == [3, 8, 8, 3]
    assert not [name for name in os.listdir(str(tmp_path / 'cache')) if name.endswith('.part')]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    cache = tmp_path / 'cache'
    cache.mkdir()
    leftovers = [cache / f'other-8px-crop0-0123.uint8.{host}.{pid}.part' for host, pid in [
        (socket.gethostname(), process.pid), (socket.gethostname(), os.getpid()),
        ('elsewhere', process.pid)]]
    for path in leftovers:
        path.write_bytes(b'half')
    load(fill(tmp_path / 'faces', 3), tmp_path)
    assert [path.exists() for path in leftovers] == [False, True, True]


# lfw, celeba, toy

def test_photographs_that_are_smaller_than_the_crop_are_counted(tmp_path, capsys):
    folder = tmp_path / 'mine'
    folder.mkdir()
    for number, size in enumerate([(40, 30), (60, 50), (50, 90), (49, 90)]):
        photograph(*size).save(str(folder / f'{number}.png'))
    sentence = (f'{folder}: 2 of 4 photographs are smaller than the crop of 50 pixels; their '
                'largest square is taken')
    for _ in range(2):      # decoded, and from the cache
        load(folder, tmp_path, crop=50)
        assert capsys.readouterr().err.splitlines()[-1] == sentence
    for crop in (0, 30):
        load(folder, tmp_path, crop=crop)
        assert 'smaller' not in capsys.readouterr().err


def test_lfw_is_cropped_to_150(tmp_path):
    fill(tmp_path / 'lfw' / 'Some_One', 2)
    source = datasets.find('lfw', str(tmp_path))
    assert (source.crop, source.names[0]) == (150, 'Some_One/p000.jpg')


@pytest.mark.parametrize('folders', [['img_align_celeba'],
                                     ['img_align_celeba', 'img_align_celeba']])
def test_celeba_as_a_folder(tmp_path, folders):
    fill(tmp_path.joinpath('celeba', *folders), 2)
    source = datasets.find('celeba', str(tmp_path))
    assert (len(source.names), source.crop, source.name) == (2, 178, 'celeba')


def test_celeba_as_the_zip(tmp_path):
    folder = fill(tmp_path / 'unpacked', 4)
    (tmp_path / 'celeba').mkdir()
    with zipfile.ZipFile(str(tmp_path / 'celeba' / 'img_align_celeba.zip'), 'w') as archive:
        for path in sorted(folder.iterdir(), reverse=True):
            archive.write(str(path), 'img_align_celeba/' + path.name)
        archive.writestr('__MACOSX/._p000.jpg', b'no photograph')
    photographs = load('celeba', tmp_path)
    assert photographs.names == [f'img_align_celeba/p{n:03d}.jpg' for n in range(4)]
    assert (photographs.images[:] == load(folder, tmp_path).images[:]).all()


def test_a_picture_beside_the_zip_does_not_hide_it(tmp_path):
    test_celeba_as_the_zip(tmp_path)
    fill(tmp_path / 'celeba', 1, prefix='preview')
    assert len(datasets.find('celeba', str(tmp_path)).names) == 4
    fill(tmp_path / 'celeba' / 'img_align_celeba', 5)
    assert len(datasets.find('celeba', str(tmp_path)).names) == 6


@pytest.mark.parametrize('name, content', [
    ('list_eval_partition.txt', 'p000.jpg 0\np001.jpg 1\n\np002.jpg  2\r\np004.jpg 0\n'),
    ('list_eval_partition.csv', 'image_id,partition\np000.jpg,0\np001.jpg,1\np002.jpg,2\n'),
])
def test_celeba_is_trained_on_its_train_part(tmp_path, name, content):
    fill(tmp_path / 'celeba' / 'img_align_celeba', 4)
    (tmp_path / 'celeba' / name).write_text(content)
    sources = {part: datasets.find('celeba', str(tmp_path), part) for part in celeba.PARTS}
    # Photographs without a line are trained on.
    assert sources['train'].notes[-1] == (
        f'{tmp_path / "celeba" / name}: {content.count("jpg")} lines, for 3 of 4 photographs; 2 '
        'are of the part train, those without a line too')
    assert {part: source.names for part, source in sources.items()} == {
        'train': ['img_align_celeba/p000.jpg', 'img_align_celeba/p003.jpg'],
        'valid': ['img_align_celeba/p001.jpg'], 'test': ['img_align_celeba/p002.jpg']}
    assert [sources[part].name for part in celeba.PARTS] == [
        'celeba', 'celeba_valid', 'celeba_test']
    # Each part keeps its own array.
    paths = [cache.load(source, 8, data_dir=str(tmp_path)).path for source in sources.values()]
    assert all(os.path.exists(path) for path in paths) and len(set(paths)) == 3


def test_a_missing_part_is_named(tmp_path):
    fill(tmp_path / 'celeba', 1)
    (tmp_path / 'celeba' / 'list_eval_partition.txt').write_text('p000.jpg 1\n')
    with pytest.raises(DataError, match='none of its 1 photographs is of the part train'):
        datasets.find('celeba', str(tmp_path))
    (tmp_path / 'celeba' / 'list_eval_partition.txt').write_text('')
    with pytest.raises(DataError, match='txt: has no line for any .*, not for p000.jpg'):
        datasets.find('celeba', str(tmp_path))
    with pytest.raises(DataError, match='--dataset toy: has no part valid'):
        datasets.find('toy', str(tmp_path), 'valid')
    (tmp_path / 'celeba' / 'list_eval_partition.txt').write_text('p000.jpg 0\n<html>\n')
    with pytest.raises(DataError, match="partition.txt, line 2: should be .* not '<html>'"):
        datasets.find('celeba', str(tmp_path))


LABELS = {'txt': '3\r\nSmiling Male\r\np000.jpg  1 -1\r\np001.jpg -1  1\r\np002.jpg -1 -1\r\n',
          'csv': 'image_id,Smiling,Male\np000.jpg,1,-1\np001.jpg,-1,1\np002.jpg,-1,-1\n'}


@pytest.mark.parametrize('ending', ['txt', 'csv'])
def test_labels_are_in_the_order_of_the_photographs(tmp_path, ending):
    fill(tmp_path / 'celeba', 3)
    (tmp_path / 'celeba' / f'list_attr_celeba.{ending}').write_text(LABELS[ending])
    source = datasets.find('celeba', str(tmp_path))
    assert datasets.label_names(source) == ['Smiling', 'Male']
    labels = datasets.read_labels(source, ['a/p002.jpg', 'a/p000.jpg'], ['Smiling', 'Male'])
    assert labels.dtype == np.int8 and labels.tolist() == [[-1, -1], [1, -1]]
    # Two photographs with the same name have the same labels.
    labels = datasets.read_labels(source, ['a/p001.jpg', 'b/p001.jpg'], ['Male', 'Smiling'])
    assert labels.tolist() == [[1, -1]] * 2


@pytest.mark.parametrize('content, message', [
    (None, 'no labels of CelebA: neither .*txt nor .*csv is in'),
    ('', 'has no heading that names the labels'),
    ('<html>', 'has no heading that names the labels'),
    ('1\nSmiling Male\np001.jpg 1 1\n', 'has no line for p000.jpg'),
    ('1\nSmiling Male\np000.jpg 1 1\np001.jpg 1\n', 'line 4: should be .* 2 values, not 1'),
    ('1\nSmiling Male\np000.jpg 1 x\n', "line 3: 'x' is neither 1 or -1"),
])
def test_labels_that_cannot_be_read_are_named(tmp_path, content, message):
    fill(tmp_path / 'celeba', 1)
    if content is not None:
        (tmp_path / 'celeba' / 'list_attr_celeba.txt').write_text(content)
    source = datasets.find('celeba', str(tmp_path))
    with pytest.raises(DataError, match=message):
        datasets.read_labels(source, source.names, datasets.label_names(source))


def test_missing_celeba_names_the_file_and_its_folder(tmp_path):
    with pytest.raises(DataError) as error:
        datasets.find('celeba', str(tmp_path))
    assert 'img_align_celeba.zip' in str(error.value)
    assert str(tmp_path / 'celeba') in str(error.value)


@pytest.mark.parametrize('content, message', [
    (b'\n<!DOCTYPE html><html>Quota exceeded</html>', 'zip is a web page saved as a zip'),
    (b'PK\x03\x04 and then the line broke', 'zip is no zip archive, or only a part of one'),
    (b'no directory' * 9 + b'PK\x05\x06' + bytes(4) + b'\x01\x00' * 2 + bytes([50, 0, 0, 0] * 2)
     + bytes(2), 'zip is no zip archive, or only a part of one'),
])
def test_an_invalid_celeba_zip_is_refused(tmp_path, content, message):
    (tmp_path / 'celeba').mkdir()
    (tmp_path / 'celeba' / 'img_align_celeba.zip').write_bytes(content)
    with pytest.raises(DataError, match=message):
        datasets.find('celeba', str(tmp_path))


def test_toy_is_the_same_everywhere(tmp_path):
    photographs = load('toy', tmp_path)
    assert photographs.images.shape == (4000, 8, 8, 3)
    assert len(np.unique(photographs.images[:].reshape(4000, -1), axis=0)) > 3990
    # Releases of Pillow draw edges a little differently; the means stay the same.
    means = photographs.images[:4].mean(axis=(1, 2))
    np.testing.assert_allclose(means, TOY_MEANS, atol=1)


TOY_MEANS = [[141.7, 161.1, 158.2], [124.2, 89.3, 93.8], [139.4, 108.0, 72.3],
             [194.8, 166.0, 134.1]]


# batches

def test_each_epoch_shows_every_image_once_in_a_new_order():
    images = np.arange(10).reshape(10, 1)
    epochs = [np.concatenate([batches.batch(images, 3, 7, 3 * epoch + step) for step in range(3)])
              for epoch in range(3)]
    for epoch in epochs:
        assert epoch.shape == (9, 1) and len(np.unique(epoch)) == 9
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    assert batches.batch(images, 3, 8, 0).tolist() != epochs[0][:3].tolist()


def test_batches_and_noise_are_frozen_functions_of_seed_and_step():
    images = np.arange(1000)
    for _ in range(2):
        assert batches.batch(images, 5, 3, 450).tolist() == BATCH
        z = batches.noise(3, 450, 64, 100)
        assert (z.shape, z.dtype, zlib.crc32(z.tobytes())) == ((64, 100), np.float32, NOISE)
    assert -1 <= z.min() < -0.99 and 0.99 < z.max() < 1
    assert (batches.noise(3, 451, 64, 100) != z).any()
    assert (batches.noise(4, 450, 64, 100) != z).any()


BATCH, NOISE = [722, 965, 809, 69, 726], 637136442
