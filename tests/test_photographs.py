"""Odd photographs are used; broken ones are named and left out; memory is bounded."""
import errno
import io
import os
import socket
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from conftest import ROOT
from dcgan import cache, containers, datasets, photographs
from dcgan.photographs import DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def content(format, colour=RED, size=(40, 30), **options):
    """The bytes of an image file of one colour."""
    file = io.BytesIO()
    Image.new('RGB', size, colour).save(file, format, **options)
    return file.getvalue()


def png(width, height, rows=0):
    """A PNG whose header has this size, with one bit per pixel and data for `rows` rows."""
    def chunk(kind, body):
        return (struct.pack('>I', len(body)) + kind + body
                + struct.pack('>I', zlib.crc32(kind + body)))
    return (b'\x89PNG\r\n\x1a\n'
            + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes((width // 8 + 1) * rows), 1))
            + chunk(b'IEND', b''))


def sparse(path, start):
    """Writes a file of a gigabyte that takes no space on the disk."""
    path.write_bytes(start)
    os.truncate(str(path), 2 ** 30)


def load(folder, tmp_path):
    return cache.load(datasets.find(str(folder), str(tmp_path)), 8, data_dir=str(tmp_path))


@pytest.fixture
def faces(tmp_path):
    """A folder with one good photograph."""
    (tmp_path / 'faces').mkdir()
    (tmp_path / 'faces' / 'good.jpg').write_bytes(content('JPEG'))
    return tmp_path / 'faces'


# odd, but good

TWO_FRAMES = {'save_all': True, 'append_images': [Image.new('RGB', (40, 30), GREEN)]}
TURNED = Image.Exif()
TURNED[0x0112] = 6
CUT = b'Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0'


ODD = {
    'a png.jpg': content('PNG'), 'a jpeg.png': content('JPEG', quality=100),
    'a gif.jpg': content('GIF'), 'a bmp.webp': content('BMP'),
    'progressive.jpg': content('JPEG', progressive=True, quality=100),
    'one pixel.png': content('PNG', size=(1, 1)),
    'wide.png': content('PNG', size=(20000, 3)), 'high.png': content('PNG', size=(3, 20000)),
    'animated.png': content('PNG', **TWO_FRAMES),
    'animated.webp': content('WEBP', lossless=True, **TWO_FRAMES),
    'turned.jpg': content('JPEG', quality=100, exif=TURNED.tobytes()),
    'exif cut off.jpg': content('JPEG', quality=100, exif=CUT),
    'no marker at its end.jpg': content('JPEG', quality=100)[:-2] + b'and more',
}
NAMES = ['two\nlines.png', '\x1b[31mred.png', os.fsdecode(b'caf\xe9 \xff.png'), 'Grüße 顔.png',
         'x' * 251 + '.png', '-rf.png', '%s{0}.png']


@pytest.mark.parametrize('name', [*ODD, *NAMES])
def test_an_odd_photograph_is_used(tmp_path, name, recwarn):
    (tmp_path / 'faces').mkdir()
    (tmp_path / 'faces' / name).write_bytes(ODD.get(name) or content('PNG'))
    photographs = load(tmp_path / 'faces', tmp_path)
    assert (photographs.names, photographs.broken) == ([name], [])
    assert photographs.images.shape == (1, 8, 8, 3)
    # The colour is that of the first frame, in the whole square.
    assert np.abs(photographs.images[0] - np.array(RED, int)).max() < 4
    assert load(tmp_path / 'faces', tmp_path).names == [name] and not recwarn.list


def test_links_to_photographs_and_folders_named_like_photographs_are_followed(faces, tmp_path):
    (faces / 'folder.jpg').mkdir()
    os.symlink(str(faces / 'good.jpg'), str(faces / 'folder.jpg' / 'link.png'))
    photographs = load(faces, tmp_path)
    assert (photographs.names, photographs.broken) == (['folder.jpg/link.png', 'good.jpg'], [])


def test_the_square_is_cut_after_the_exif_rotation():
    pixels = np.random.RandomState(0).randint(0, 256, (51, 80, 3)).astype(np.uint8)
    upright = photographs.square(Image.fromarray(np.rot90(pixels, -1)), 16, crop=30)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG', exif=TURNED.tobytes())
    assert (photographs.square(Image.open(file), 16, crop=30) == upright).all()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'I', 'I;16', 'F'])
@pytest.mark.parametrize('crop', [0, 7])
def test_the_square_equals_that_of_a_cropped_image(mode, crop):
    pixels = np.random.RandomState(0).randint(0, 256, (13, 20, 3)).astype(np.uint8)
    if mode == 'I;16':
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert('L' if mode in 'IF' else 'RGB').convert(mode)
    side = crop or 13
    left, top = (20 - side) // 2, (13 - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    assert (photographs.square(image, 8, crop) == photographs.square(cut, 8)).all()


# broken

def unreadable(path):
    path.write_bytes(content('JPEG'))
    path.chmod(0)
    if os.access(str(path), os.R_OK):
        pytest.skip('root reads anything')


def listening(path):
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


BROKEN = {
    'cut.jpg': (lambda path: path.write_bytes(content('JPEG')[:-20]), 'truncated'),
    'cut.webp': (lambda path: path.write_bytes(content('WEBP')[:-20]), 'Error'),
    'cut.png': (lambda path: path.write_bytes(content('PNG')[:60]), 'truncated'),
    'text.png': (lambda path: path.write_text('no photograph'), 'cannot identify'),
    'empty.jpg': (lambda path: path.write_bytes(b''), 'cannot identify'),
    'signature.png': (lambda path: path.write_bytes(content('PNG')[:8]), 'cannot identify'),
    'no pixels.png': (lambda path: path.write_bytes(png(0, 0)), 'Error'),
    'far too large.png': (lambda path: path.write_bytes(png(30000, 30000)), '900000000 pixels'),
    'too large.png': (lambda path: path.write_bytes(png(10000, 10000)), '100000000 pixels'),
    'a gigabyte.png': (lambda path: sparse(path, png(8, 8)[:33] + b'\x40\0\0\0tEXt'),
                       '1,073,741,824 bytes are more than'),
    'a gigabyte.webp': (lambda path: sparse(path, b'RIFF\0\0\0\x40WEBPVP8L'),
                        '1,073,741,824 bytes are more than'),
    'pipe.jpg': (lambda path: os.mkfifo(str(path)), 'is no file'),
    'socket.jpg': (listening, 'is no file'),
    'device.png': (lambda path: os.symlink('/dev/zero', str(path)), 'is no file'),
    'to a folder.png': (lambda path: os.symlink('/nowhere/at/all', str(path)), 'No such file'),
    'to itself.png': (lambda path: os.symlink(path.name, str(path)), 'symbolic links'),
    'unreadable.jpg': (unreadable, 'Permission denied'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_files_are_named_and_left_out(faces, tmp_path, capfd, name, monkeypatch):
    monkeypatch.chdir(faces)        # a socket's path has at most 107 characters
    make, reason = BROKEN[name]
    make(faces.joinpath(name).relative_to(faces))
    photographs = load(faces, tmp_path)
    assert photographs.names == ['good.jpg'] and len(photographs.images) == 1
    assert [broken for broken, _ in photographs.broken] == [name]
    lines = capfd.readouterr().err.splitlines()      # no warning of Pillow
    assert len(lines) == 2 and lines[1].startswith(f'left out, broken: {name} (')
    assert reason in lines[1]


def test_a_repaired_photograph_is_read_again(faces, tmp_path):
    os.symlink(str(tmp_path / 'later.jpg'), str(faces / 'link.jpg'))
    assert load(faces, tmp_path).names == ['good.jpg']
    (tmp_path / 'later.jpg').write_bytes(content('JPEG'))
    assert load(faces, tmp_path).names == ['good.jpg', 'link.jpg']


def test_a_photograph_deleted_during_the_search_is_named(faces, tmp_path, monkeypatch):
    (faces / 'gone.jpg').write_bytes(content('JPEG'))
    find_images = containers.find_images

    def find_and_lose(container):
        found = find_images(container)
        (faces / 'gone.jpg').unlink()
        return found
    monkeypatch.setattr(datasets, 'find_images', find_and_lose)
    assert [name for name, _ in load(faces, tmp_path).broken] == ['gone.jpg']


def test_no_file_makes_pillow_run_another_program(faces, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *given, **_: ran.append(given))
    (faces / 'postscript.jpg').write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n')
    assert [name for name, _ in load(faces, tmp_path).broken] == ['postscript.jpg']
    assert not ran


@pytest.mark.parametrize('name', ['two\nlines.jpg', '\x1b[2J.jpg', os.fsdecode(b'caf\xe9.jpg')])
def test_a_name_that_cannot_be_printed_is_quoted(faces, tmp_path, capsys, name):
    (faces / name).write_bytes(b'')
    assert [broken for broken, _ in load(faces, tmp_path).broken] == [name]
    err = capsys.readouterr().err
    assert f'\nleft out, broken: {name!r} (' in err and '\x1b' not in err and err.count('\n') == 2
    assert load(faces, tmp_path).broken[0][0] == name          # from the cache


def test_a_folder_that_cannot_be_read_is_named(faces, tmp_path, capsys, monkeypatch):
    (faces / 'lost+found').mkdir()
    scandir, number = os.scandir, errno.EACCES

    def refuse(path):
        if str(path).endswith('lost+found'):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    assert load(faces, tmp_path).names == ['good.jpg']
    folder = os.path.join(str(faces), 'lost+found')
    assert f'left out: {folder} (Permission denied)\n' in capsys.readouterr().err
    number = errno.EMFILE           # a system error ends the search
    with pytest.raises(OSError, match='Too many open files'):
        datasets.find(str(faces))


@pytest.mark.parametrize('changes', [{6: 99}, {9: 8, 46: 255}, {65: 255}],
                         ids=['of a later zip', 'a name that is no UTF-8', 'a size too large'])
def test_a_zip_with_a_damaged_directory_is_refused(tmp_path, changes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('a.jpg', content('JPEG'))
    whole = bytearray(file.getvalue())
    entry = whole.index(b'PK\x01\x02')
    for place, value in changes.items():
        whole[entry + place] = value
    (tmp_path / 'celeba').mkdir()
    path = tmp_path / 'celeba' / 'img_align_celeba.zip'
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match='zip is no zip archive, or only a part of one'):
        datasets.find('celeba', str(tmp_path))
    (tmp_path / 'celeba' / 'b.jpg').write_bytes(content('JPEG'))
    assert datasets.find('celeba', str(tmp_path)).names == ['b.jpg']


# memory

LOAD = """
import sys
from dcgan import cache, datasets
def most():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) // 1024 for line in f if line.startswith('VmHWM'))
before = most()
photographs = cache.load(datasets.find(sys.argv[1], sys.argv[2]), 8, data_dir=sys.argv[2])
print(len(photographs.images), len(photographs.broken), most() - before)
"""


def megabytes(dataset, tmp_path):
    """[good, broken, MB that finding and reading the set took], measured in a new process."""
    out = subprocess.check_output([sys.executable, '-c', LOAD, str(dataset), str(tmp_path)],
                                  cwd=ROOT, universal_newlines=True)
    return [int(word) for word in out.split()]


LINUX = pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='needs /proc')


@LINUX
def test_bombs_take_no_memory(faces, tmp_path):
    (faces / 'pixels.png').write_bytes(png(10000, 10000, 10000))
    sparse(faces / 'text.png', png(8, 8)[:33] + b'\x40\0\0\0tEXt')
    good, broken, grown = megabytes(faces, tmp_path)
    assert (good, broken) == (1, 2) and grown < 60


@LINUX
def test_a_large_photograph_is_in_memory_once(faces, tmp_path):
    (faces / 'wide.png').write_bytes(png(20000, 2000, 2000))
    good, broken, grown = megabytes(faces, tmp_path)
    # Pillow holds 40 MB, and the square takes 16 MB as RGB; the whole image as RGB takes 160 MB.
    assert (good, broken) == (2, 0) and grown < 110


@LINUX
def test_a_zip_bomb_takes_no_memory(tmp_path):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = deflate.compress(bytes(2 ** 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    bomb = megabyte * 300 + deflate.flush()
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('a lie.jpg', bomb)
        archive.writestr('as it says.jpg', bomb)
        archive.writestr('good.jpg', content('JPEG'))
    whole = bytearray(file.getvalue())
    entry = whole.index(b'PK\x01\x02')
    for size in (100, 300 * 2 ** 20):
        struct.pack_into('<H', whole, entry + 10, zipfile.ZIP_DEFLATED)
        struct.pack_into('<L', whole, entry + 24, size)
        entry = whole.index(b'PK\x01\x02', entry + 1)
    (tmp_path / 'celeba').mkdir()
    (tmp_path / 'celeba' / 'img_align_celeba.zip').write_bytes(bytes(whole))
    good, broken, grown = megabytes('celeba', tmp_path)
    assert (good, broken) == (1, 2) and grown < 60


@LINUX
def test_a_large_file_in_a_zip_that_is_no_photograph_takes_no_memory(tmp_path):
    (tmp_path / 'celeba').mkdir()
    with zipfile.ZipFile(str(tmp_path / 'celeba' / 'a.zip'), 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('film.mp4', bytes(120 * 2 ** 20))
        archive.writestr('good.jpg', content('JPEG'))
    good, broken, grown = megabytes('celeba', tmp_path)
    assert (good, broken) == (1, 0) and grown < 60
