"""Photographs as people have them: layouts of folders and zips, lists, labels and odd files."""
import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dcgan import cache, datasets, photographs
from dcgan.photographs import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def content(format='JPEG', colour=RED, size=(178, 218), **options):
    """The bytes of an image file of one colour."""
    file = io.BytesIO()
    Image.new('RGB', size, colour).save(file, format, **options)
    return file.getvalue()


def put(folder, files):
    """Writes {path below folder: bytes or text}; returns the folder."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return folder


def zipped(files):
    """The bytes of a zip of {name: bytes or text}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return file.getvalue()


def load(source, tmp_path, size=8, **options):
    return cache.load(source, size, data_dir=str(tmp_path), **options)


PICTURES = {f'{number:06d}.jpg': content() for number in range(1, 5)}
PARTITION = ''.join(f'{number:06d}.jpg {int(number == 4) * 2}\n' for number in range(1, 5))
PARTITION_CSV = 'image_id,partition\n' + PARTITION.replace(' ', ',')
LABELS = '4\nSmiling Male\n' + ''.join(f'{number:06d}.jpg  1 -1\n' for number in range(1, 5))
LABELS_CSV = 'image_id,Smiling,Male\n' + ''.join(
    f'{number:06d}.jpg,1,-1\n' for number in range(1, 5))


def under(folder, files):
    return {f'{folder}/{name}': body for name, body in files.items()}


# CelebA

KAGGLE = {**under('img_align_celeba/img_align_celeba', PICTURES),
          'list_eval_partition.csv': PARTITION_CSV, 'list_attr_celeba.csv': LABELS_CSV}
CELEBA = {
    "the authors' folders": {
        **under('Img/img_align_celeba', PICTURES), 'Eval/list_eval_partition.txt': PARTITION,
        'Anno/list_attr_celeba.txt': LABELS},
    "the authors' folders with the zip": {
        'Img/img_align_celeba.zip': zipped(under('img_align_celeba', PICTURES)),
        'Eval/list_eval_partition.txt': PARTITION, 'Anno/list_attr_celeba.txt': LABELS},
    "Kaggle's zip": {'archive.zip': zipped(KAGGLE)},
    "Kaggle's zip unpacked": KAGGLE,
    'a zip one folder down, lists above': {
        'download/img_align_celeba.zip': zipped(PICTURES), 'list_eval_partition.txt': PARTITION,
        'list_attr_celeba.txt': LABELS},
    'the PNG edition': {
        **{f'img_align_celeba_png/{number:06d}.png': content('PNG') for number in range(1, 5)},
        'list_eval_partition.txt': PARTITION, 'list_attr_celeba.txt': LABELS},
}


@pytest.mark.parametrize('layout', CELEBA)
def test_celeba_is_found_with_its_lists(tmp_path, layout):
    folder = put(tmp_path / 'celeba', CELEBA[layout])
    source = datasets.find('celeba', str(tmp_path))
    stems = [os.path.splitext(os.path.basename(name))[0] for name in source.names]
    assert stems == ['000001', '000002', '000003']
    assert len(datasets.find('celeba', str(tmp_path), 'test').names) == 1
    assert datasets.find_labels(source, ['Male', 'Smiling']).tolist() == [[-1, 1]] * 3
    assert datasets.labels_origin(source).startswith(str(folder))
    assert load(source, tmp_path).images.shape == (3, 8, 8, 3)
    notes = '\n'.join(source.notes)
    assert '4 .jpg in ' in notes or '4 .png in ' in notes
    assert ': 4 lines, for 4 of 4 photographs; 3 are of the part train' in notes
    assert f'{folder} holds 4 of the 202,599 photographs' in notes


def test_files_beside_a_zip_are_counted_too(tmp_path):
    put(tmp_path / 'celeba', {'img_align_celeba.zip': zipped(PICTURES), 'film.mp4': b'film'})
    assert 'left out: 1 .mp4' in datasets.find('celeba', str(tmp_path)).notes


@pytest.mark.parametrize('name', ['list_eval_partition.txt', 'list_attr_celeba.txt'])
def test_a_damaged_list_in_a_zip_is_named(tmp_path, name):
    whole = zipped({**PICTURES, 'list_eval_partition.txt': PARTITION,
                    'list_attr_celeba.txt': LABELS})
    place = whole.index(name.encode()) + len(name) + 2
    put(tmp_path / 'celeba', {'a.zip': whole[:place] + b'?' + whole[place + 1:]})
    with pytest.raises(DataError, match=f"a.zip/{name}: can't be read .*Bad CRC-32"):
        datasets.find_labels(datasets.find('celeba', str(tmp_path)), ['Smiling'])


def test_celeba_without_a_list_of_parts_says_that_the_test_part_is_trained_on(tmp_path):
    put(tmp_path / 'celeba', PICTURES)
    assert any('no list_eval_partition' in note and 'test part' in note
               for note in datasets.find('celeba', str(tmp_path)).notes)


def test_a_zip_in_a_zip_is_named(tmp_path):
    put(tmp_path / 'celeba', {'CelebA.zip': zipped({'Img/img_align_celeba.zip': zipped(PICTURES)})})
    with pytest.raises(DataError, match='CelebA.zip holds no photographs but Img/img_align_celeba'):
        datasets.find('celeba', str(tmp_path))


def test_the_zip_with_most_photographs_is_used_and_the_others_are_named(tmp_path):
    good = zipped(PICTURES)
    folder = put(tmp_path / 'celeba', {
        'a picture.zip': zipped({'one.jpg': content()}), 'img_align_celeba.zip': good,
        'img_align_celeba (1).zip': good[:len(good) // 2], 'page.zip': '<html>'})
    source = datasets.find('celeba', str(tmp_path))
    assert sorted(source.names) == sorted(PICTURES)
    notes = '\n'.join(source.notes)
    assert f'{folder / "a picture.zip"}: not used, has 1 photographs' in notes
    assert f'{folder / "img_align_celeba (1).zip"} is no zip archive, or only a part' in notes
    assert f'{folder / "page.zip"} is a web page' in notes


@pytest.mark.parametrize('size, side', [((1024, 1024), 1024), ((89, 109), 89), ((178, 218), 178)])
def test_celeba_of_another_size_is_cut_in_proportion(tmp_path, capsys, size, side):
    rng = np.random.RandomState(0)
    image = Image.fromarray(rng.randint(0, 256, (*size[::-1], 3)).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, 'PNG')
    put(tmp_path / 'celeba', {'1.png': file.getvalue()})
    images = load(datasets.find('celeba', str(tmp_path)), tmp_path).images[:]
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((8, 8), Image.BILINEAR)
    assert (images[0] == np.asarray(expected)).all()
    assert ('1 of 1 photographs have another size' in capsys.readouterr().err) == (
        side != 178)


def test_a_scaled_lfw_shows_the_same_part_as_lfw(tmp_path):
    put(tmp_path / 'lfw', {'A/A_0001.png': content('PNG', size=(50, 50))})
    source = datasets.find('lfw', str(tmp_path))
    assert photographs.crop_of(50, source.crop, source.reference) == 30
    assert any('lfw holds 1 of the 13,233' in note for note in source.notes)


def test_more_photographs_than_the_set_has_are_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.COUNTS, 'lfw', 1)
    put(tmp_path / 'lfw', {'lfw/A/A_0001.jpg': content(), 'old/A/A_0001.jpg': content()})
    assert f'{tmp_path / "lfw"} holds 2 of the 1 photographs' in (
        datasets.find('lfw', str(tmp_path)).notes)


# any folder

def test_a_zip_of_photographs_is_read_where_none_is_unpacked(tmp_path):
    folder = put(tmp_path / 'faces', {'photos.zip': zipped(PICTURES)})
    source = datasets.find(str(folder))
    assert sorted(source.names) == sorted(PICTURES)
    put(folder, {'mine.jpg': content()})
    source = datasets.find(str(folder))
    assert source.names == ['mine.jpg'] and 'left out: 1 .zip' in source.notes


ENDINGS = {'a.jfif': 'JPEG', 'b.jpe': 'JPEG', 'c.tif': 'TIFF', 'd.TIFF': 'TIFF', 'e.gif': 'GIF',
           'f.pgm': 'PPM', 'no ending': 'JPEG', 'photo.2019': 'PNG', 'g.dat': 'WEBP',
           'h.avif': 'AVIF', 'i.heic': 'HEIF', 'j.jp2': 'JPEG2000'}


@pytest.mark.parametrize('name', ENDINGS)
def test_images_are_read_whatever_their_ending(tmp_path, name):
    if ENDINGS[name] not in photographs.readable_formats():
        pytest.skip(f'Pillow has no {ENDINGS[name]} here')
    folder = put(tmp_path / 'faces', {name: content(ENDINGS[name])})
    source = datasets.find(str(folder))
    assert source.names == [name]
    assert np.abs(load(source, tmp_path).images[0] - np.array(RED, int)).max() <= 1


def test_files_that_are_no_images_are_counted_by_ending(tmp_path):
    folder = put(tmp_path / 'faces', {
        'a.jpg': content(), 'b.mp4': b'film', 'c.mp4': b'film', 'd.raw': b'raw',
        'half.jpg.part': content()[:400], 'notes.txt': 'text', 'README': 'text'})
    source = datasets.find(str(folder))
    assert source.names == ['a.jpg']
    assert source.notes == [f'found 1 .jpg in {folder}',
                            'left out: 2 .mp4, 1 without an ending, 1 .raw, 1 .part']
    (folder / 'a.jpg').unlink()
    with pytest.raises(DataError, match=r'no photographs .* in this folder, only 2 .mp4'):
        datasets.find(str(folder))


def test_folders_of_systems_and_records_of_trainings_are_left_out(tmp_path):
    folder = put(tmp_path / 'faces', {
        'a.jpg': content(), '@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg': content(),
        '$RECYCLE.BIN/b.jpg': content(),
        '#recycle/c.jpg': content(), '#selfies/d.jpg': content(), '__MACOSX/._a.jpg': b'',
        '.thumbnails/a.jpg': content(),
        'samples/dcgan_faces/step_000200.png': content('PNG'),
        'samples/dcgan_faces/loss.csv': 'step,epoch\n'})
    source = datasets.find(str(folder))
    assert source.names == ['#selfies/d.jpg', 'a.jpg']
    assert f"left out: {folder}/@eaDir, a system's folder" in source.notes
    assert f'left out: {folder}/samples/dcgan_faces, records of a training' in source.notes


def test_folders_that_look_like_masks_are_named(tmp_path):
    folder = put(tmp_path / 'faces', {
        'CelebA-HQ-img/1.jpg': content(), 'CelebAMask-HQ-mask-anno/0/1_hair.png': content('PNG')})
    notes = datasets.find(str(folder)).notes
    assert any('CelebAMask-HQ-mask-anno/0: are these 1 images' in note for note in notes)
    assert not any('CelebA-HQ-img' in note for note in notes)


# broken photographs

def test_a_few_broken_photographs_do_not_refuse_a_small_set(tmp_path):
    folder = put(tmp_path / 'faces', {**PICTURES, 'broken.jpg': b'no image'})
    assert load(datasets.find(str(folder)), tmp_path).broken[0][0] == 'broken.jpg'


def test_many_broken_photographs_are_refused_and_all_named_in_a_file(tmp_path, capsys):
    folder = put(tmp_path / 'faces', {**PICTURES, **{f'{n}.jpg': b'x' for n in range(20)}})
    with pytest.raises(DataError, match='20 of 24 photographs are broken, more than 1%; --max-bro'):
        load(datasets.find(str(folder)), tmp_path)
    path = capsys.readouterr().err.splitlines()[-1].rpartition(' ')[2]
    with open(path, encoding='utf-8') as f:
        assert [line.split('\t')[0] for line in f] == sorted(f'{n}.jpg' for n in range(20))
    photographs = load(datasets.find(str(folder)), tmp_path, max_broken=0.9)
    assert len(photographs.images) == 4 and len(photographs.broken) == 20


def test_a_set_of_broken_photographs_alone_is_refused(tmp_path):
    folder = put(tmp_path / 'faces', {'a.jpg': b'x', 'b.jpg': b'y'})
    with pytest.raises(DataError, match='2 of 2 photographs are broken'):
        load(datasets.find(str(folder)), tmp_path, max_broken=1)


# what is in a file

def exif(*entries):
    """EXIF with tags (number, type, 4 bytes), one value each, big-endian."""
    return b'Exif\0\0MM\0*\0\0\0\x08' + struct.pack('>H', len(entries)) + b''.join(
        struct.pack('>HHI', tag, kind, 1) + value for tag, kind, value in entries) + b'\0\0\0\0'


def png_with(kind, body):
    """A PNG, red above and blue below, with one more chunk behind its header."""
    whole = halves('PNG')
    chunk = kind + body
    return (whole[:33] + struct.pack('>I', len(body)) + chunk
            + struct.pack('>I', zlib.crc32(chunk)) + whole[33:])


def halves(format='JPEG', **options):
    """The bytes of an image that is red above and blue below."""
    file, image = io.BytesIO(), Image.new('RGB', (160, 160), RED)
    image.paste(BLUE, (0, 80, 160, 160))
    image.save(file, format, **options)
    return file.getvalue()


UPSIDE_DOWN = (0x0112, 3, b'\0\3\0\0')
# The file, and whether its orientation can be read.
MALFORMED_EXIF = {
    'a bad TIFF header in a PNG.png': (png_with(b'eXIf', b'XX\0*\0\0\0\x08'), False),
    'no directory in a JPEG.jpg': (halves(exif=b'Exif\0\0MM\0*\0\0\xff\xff'), False),
    'a directory cut off.jpg': (halves(exif=exif(UPSIDE_DOWN)[:20]), False),
    'a directory at a negative place.jpg': (
        halves(exif=exif(UPSIDE_DOWN, (0x8769, 9, b'\xff\xff\xff\xff'))), True),
    'a tag of a wrong type.jpg': (
        halves(exif=exif((0x0102, 4, b'\0\1\0\0'), UPSIDE_DOWN)), True),
    'text for a number.jpg': (halves(exif=exif(UPSIDE_DOWN, (0x011a, 2, b'abc\0'))), True),
    'an orientation of a wrong type.jpg': (halves(exif=exif((0x0112, 2, b'abc\0'))), False),
}


@pytest.mark.parametrize('name', MALFORMED_EXIF)
def test_malformed_exif_does_not_cost_the_photograph(tmp_path, name, recwarn):
    body, is_turned = MALFORMED_EXIF[name]
    folder = put(tmp_path / 'faces', {name: body})
    loaded = load(datasets.find(str(folder)), tmp_path)
    assert loaded.broken == [] and not recwarn.list
    top, bottom = loaded.images[0][[0, -1]].astype(int)
    if is_turned:
        top, bottom = bottom, top
    assert np.abs(top - RED).max() <= 1 and np.abs(bottom - BLUE).max() <= 1


def test_a_turned_tiff_is_upright(tmp_path):
    image = Image.new('RGB', (16, 16), BLUE)
    image.paste(RED, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6            # its top is at the right
    file = io.BytesIO()
    image.save(file, 'TIFF', exif=exif)
    pixels = photographs.square(Image.open(file), 8)
    assert pixels[0, 7].tolist() == list(RED) and pixels[0, 0].tolist() == list(BLUE)


def matrix_profile(primaries, gamma):
    """An ICC profile of an RGB space: XYZ [3, 3] of its primaries at D50, and its gamma."""
    def number(value):
        return struct.pack('>i', round(value * 65536))

    def xyz(values):
        return b'XYZ \0\0\0\0' + b''.join(map(number, values))

    curve = b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256)) + b'\0\0'
    text = b'desc\0\0\0\0' + struct.pack('>I', 5) + b'wide\0' + bytes(78) + b'\0'
    tags = [(b'desc', text), (b'cprt', b'text\0\0\0\0none\0\0\0\0'),
            (b'wtpt', xyz([0.9642, 1, 0.8249]))]
    tags += [(name, xyz(column)) for name, column in zip((b'rXYZ', b'gXYZ', b'bXYZ'), primaries)]
    tags += [(name, curve) for name in (b'rTRC', b'gTRC', b'bTRC')]
    table, body = struct.pack('>I', len(tags)), b''
    for name, value in tags:
        table += name + struct.pack('>II', 128 + 4 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(body)
    header = (struct.pack('>I', size) + b'\0\0\0\0\x02\x10\0\0mntrRGB XYZ ' + bytes(12) + b'acsp'
              + bytes(28) + number(0.9642) + number(1) + number(0.8249)).ljust(128, b'\0')
    return header + table + body


# Adobe RGB (1998): annex of its specification, adapted to D50.
ADOBE = matrix_profile([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087],
                        [0.14919, 0.06322, 0.74457]], 563 / 256)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_colours_of_a_profile_are_converted_to_srgb(mode):
    colour = (180, 140, 120)
    file = io.BytesIO()
    Image.new(mode, (8, 8), (*colour, 255)[:len(mode)]).save(file, 'PNG', icc_profile=ADOBE)
    pixel = photographs.square(Image.open(file), 8)[0, 0]
    # By the two standards: linear light by gamma 563/256, the matrices' product, sRGB's curve.
    linear = (np.array(colour) / 255) ** (563 / 256)
    srgb = np.array([[1.3982832, -0.3982831, 0], [0, 1, 0], [0, -0.0429383, 1.0429383]]) @ linear
    expected = 255 * (1.055 * srgb ** (1 / 2.4) - 0.055)
    assert np.abs(pixel - expected).max() < 0.6         # rounding
    assert np.abs(pixel.astype(int) - colour).max() > 10


def test_an_srgb_profile_and_a_malformed_one_leave_the_pixels(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for profile in (srgb, b'no profile', ADOBE[:200]):
        file = io.BytesIO()
        Image.new('RGB', (8, 8), (180, 140, 120)).save(file, 'PNG', icc_profile=profile)
        assert photographs.square(Image.open(file), 8)[0, 0].tolist() == [180, 140, 120]


def large_jpeg(size, **options):
    """A JPEG of more pixels than Pillow opens, of smooth colours; and the same image small."""
    small = np.random.RandomState(0).randint(0, 256, (9, 12, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize(size, Image.BICUBIC)
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=90, **options)
    return file.getvalue()


def test_a_photograph_of_108_megapixels_is_read_within_a_grey_level(tmp_path):
    body = large_jpeg((12000, 9000))
    folder = put(tmp_path / 'faces', {'phone.jpg': body})
    loaded = load(datasets.find(str(folder)), tmp_path, 64)
    assert loaded.broken == []
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    try:
        whole = Image.open(io.BytesIO(body))
        expected = whole.crop((1500, 0, 10500, 9000)).resize((64, 64), Image.BILINEAR)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert np.abs(loaded.images[0].astype(int) - np.asarray(expected)).max() <= 1


def test_a_large_progressive_jpeg_is_left_out(tmp_path):
    body = large_jpeg((12000, 9000), progressive=True)
    folder = put(tmp_path / 'faces', {'phone.jpg': body, 'good.jpg': content()})
    assert [name for name, _ in load(datasets.find(str(folder)), tmp_path).broken] == ['phone.jpg']


# labels

OWN = {'a photo.jpg': content(), 'b.jpg': content(), 'sub/c.jpg': content()}
OWN_LABELS = {
    '0 and 1': 'image_id,Smiling\na photo.jpg,1\nb.jpg,0\nc.jpg,1\n',
    'with a BOM': '\ufeffimage_id,Smiling\na photo.jpg,1\nb.jpg,-1\nc.jpg,1\n',
    'semicolons and CRLF': 'file;Smiling;Age\r\na photo.jpg;1;30\r\nb.jpg;-1;40\r\nc.jpg;1;\r\n',
    'quotes': '"image_id","Smiling"\n"a photo.jpg","1"\n"b.jpg","0"\n"sub/c.jpg","1"\n',
    'tabs': 'name\tSmiling\na photo.jpg\ttrue\nb.jpg\tfalse\nc.jpg\tTrue\n',
    'spaces after commas': 'image_id, Smiling\na photo.jpg, 1\nb.jpg, -1\nc.jpg, 1\n',
    'names without endings': 'image_id,Smiling\na photo,1\nb,0\nc,1\n',
    'backslashes': 'image_id,Smiling\na photo.jpg,1\nb.jpg,0\nsub\\c.jpg,1\n',
    'an unknown heading': 'Bild,Smiling\na photo.jpg,1\nb.jpg,0\nc.jpg,1\n',
}


@pytest.mark.parametrize('kind', OWN_LABELS)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_own_labels_are_read(tmp_path, kind, encoding):
    folder = put(tmp_path / 'faces', {**OWN, 'labels.csv': OWN_LABELS[kind].encode(encoding)})
    source = datasets.find(str(folder))
    assert source.names == ['a photo.jpg', 'b.jpg', 'sub/c.jpg']
    assert datasets.find_labels(source, ['Smiling']).tolist() == [[1], [-1], [1]]
    assert datasets.labels_origin(source) == str(folder / 'labels.csv')


@pytest.mark.parametrize('text, message', [
    ('image_id,Smiling\na photo.jpg,1\nb.jpg,maybe\nc.jpg,1\n', "line 3: 'maybe' is neither 1 or"),
    ('image_id,Smiling\na photo.jpg,1\nb.jpg\nc.jpg,1\n', 'line 3: should be a file name and 1'),
    ('image_id,Smiling\na photo.jpg,1\nb.jpg,-1\nc.jpg,0\n', 'line 4: 0, where line 3 has -1'),
    ('image_id,Smiling\na photo.jpg,1\nb.jpg,1\n', 'has no line for sub/c.jpg'),
    ('', 'has no heading that names the labels'),
])
def test_own_labels_that_cannot_be_read_are_named(tmp_path, text, message):
    folder = put(tmp_path / 'faces', {**OWN, 'labels.csv': text})
    with pytest.raises(DataError, match=message) as error:
        datasets.find_labels(datasets.find(str(folder)), ['Smiling'])
    assert str(folder / 'labels.csv') in str(error.value)


def test_a_path_in_a_list_is_not_taken_for_a_file_of_another_folder(tmp_path):
    folder = put(tmp_path / 'faces', {
        'anna/1.jpg': content(), 'ben/1.jpg': content(),
        'labels.csv': 'path,Male\nanna/1.jpg,0\nben/1.jpg,1\n'})
    assert datasets.find_labels(datasets.find(str(folder)), ['Male']).tolist() == [[-1], [1]]
    put(folder, {'labels.csv': 'path,Male\nanna/1.jpg,0\n'})
    with pytest.raises(DataError, match='has no line for ben/1.jpg'):
        datasets.find_labels(datasets.find(str(folder)), ['Male'])


def test_names_of_folders_are_labels(tmp_path, capsys):
    folder = put(tmp_path / 'faces', {
        'train/anna/1.jpg': content(), 'train/ben/1.jpg': content(), 'train/ben/2.jpg': content()})
    source = datasets.find(str(folder))
    labels = datasets.find_labels(source, ['ben', 'anna'])
    assert labels.dtype == np.int8 and labels.tolist() == [[-1, 1], [1, -1], [1, -1]]
    with pytest.raises(SystemExit):
        datasets.find_labels(source, ['bem'])
    assert '--attributes bem: is none of the 3 there are; the nearest: ben' in (
        capsys.readouterr().err)


def test_a_folder_without_labels_is_named(tmp_path):
    folder = put(tmp_path / 'faces', PICTURES)
    with pytest.raises(DataError, match='faces: no labels: neither labels.csv nor folders'):
        datasets.find_labels(datasets.find(str(folder)), ['Smiling'])
