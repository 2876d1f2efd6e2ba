"""crop_faces.py: where eyes and mouth come to lie, what is left out, and that files stay safe."""
import errno
import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import crop_faces
from conftest import ROOT
from running import pixels, refused_here, rows, run, run_here

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)        # left eye, right eye, mouth
needs_mtcnn = pytest.mark.skipif(importlib.util.find_spec('mtcnn') is None,
                                 reason='mtcnn is not installed; it needs Python 3.10')


def placed(scale, degrees=0., at=0j):
    """The points of a face in a photograph: PLACES scaled and rotated about 0, then shifted."""
    return crop_faces.PLACES * scale * np.exp(1j * np.radians(degrees)) + at


@pytest.fixture
def photograph(tmp_path, monkeypatch):
    """A function that writes photographs with marked faces, which a stub of the detector finds."""
    faces_by_size = {}
    folder = tmp_path / 'photographs'
    folder.mkdir()

    def detect(image):
        faces = faces_by_size[image.shape[1::-1]]
        left, right, mouth = np.array(faces).reshape(-1, 3).T
        points = np.stack([left, right, left, mouth - 9, mouth + 9], axis=1)
        return np.concatenate([np.zeros((len(points), 6)), points.real, points.imag], axis=1)

    def write(name, size, *faces, **options):
        image = Image.new('RGB', size, 'gray')
        for points in faces:
            radius = int(4 * abs(points[1] - points[0]) / 38)
            for point, color in zip(points, (RED, GREEN, BLUE)):
                x, y = int(point.real), int(point.imag)
                image.paste(color, (x - radius, y - radius, x + radius + 1, y + radius + 1))
        (folder / name).parent.mkdir(exist_ok=True)
        image.save(str(folder / name), **options)
        shrink = min(1, crop_faces.DETECTION_SIDE / max(size))
        faces_by_size[tuple(round(side * shrink) for side in size)] = [
            points * shrink for points in faces]
        return folder / name

    monkeypatch.setattr(crop_faces, 'load_detector', lambda: detect)
    write.folder = folder
    return write


def crop(tmp_path, code=0):
    return run_here('crop_faces.py', 'photographs', 'out', cwd=tmp_path, code=code)


def table(tmp_path):
    return [(row['photograph'], row['picture'], row['left out'])
            for row in rows(tmp_path / 'out' / 'faces.csv')]


def assert_marks_at_places(picture):
    assert picture.shape == (218, 178, 3)
    for point, color in zip(crop_faces.PLACES, (RED, GREEN, BLUE)):
        near = picture[int(point.imag) - 1:int(point.imag) + 2, int(point.real) - 1:
                       int(point.real) + 2].reshape(-1, 3).mean(axis=0)
        assert np.abs(near - color).max() < 60, (point, near)


@pytest.mark.parametrize('size, face', [
    ((700, 600), placed(1, 0, 50 + 40j)), ((700, 600), placed(2.5, 25, 200 + 60j)),
    ((700, 600), placed(0.7, -40, 100 + 200j)), ((700, 600), placed(1, 180, 350 + 350j)),
    ((1536, 2048), placed(4.3, 15, 600 + 300j))])
def test_eyes_and_mouth_come_to_lie_where_celeba_has_them(photograph, tmp_path, size, face):
    photograph('a.png', size, face)
    crop(tmp_path)
    assert_marks_at_places(pixels(tmp_path / 'out' / 'a_0.png'))


def test_a_large_photograph_is_averaged_not_sampled():
    stripes = np.zeros((1900, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    picture = np.asarray(crop_faces.cut(Image.fromarray(stripes), placed(6, 10, 400 + 100j)))
    assert np.abs(picture - 127.5).max() < 40


def test_beyond_the_edge_the_last_pixels_are_repeated():
    rising = np.tile(np.arange(100, dtype=np.uint8)[:, None, None] * 2, (1, 100, 3))
    picture = np.asarray(crop_faces.cut(Image.fromarray(rising), placed(1, 0, -60 - 60j)))
    assert picture[:58].max() <= 2 and picture[162:].min() >= 196
    assert (picture == picture[:, :1]).all()


def test_a_picture_has_no_rim():
    white = Image.new('RGB', (300, 250), 'white')
    for scale in (0.4, 1, 1.9, 3.7):
        assert np.asarray(crop_faces.cut(white, placed(scale, 17, 30 - 20j))).min() == 255


def test_faces_of_one_photograph_are_numbered_the_largest_first(photograph, tmp_path):
    (tmp_path / 'out').mkdir()          # an empty folder is as good as none
    photograph('group/a.jpg', (900, 800), placed(1, 0, 50 + 50j), placed(2, 0, 400 + 300j))
    crop(tmp_path)
    assert [(name, int(width)) for name, width in
            [(row['picture'], row['width']) for row in rows(tmp_path / 'out' / 'faces.csv')]] == [
                ('group/a_0.png', 356), ('group/a_1.png', 178)]
    assert sorted(os.listdir(str(tmp_path / 'out' / 'group'))) == ['a_0.png', 'a_1.png']


def test_what_is_left_out_is_reported_with_the_reason(photograph, tmp_path):
    photograph('a.png', (700, 600), placed(1, 0, 50 + 40j), placed(0.3, 0, 400 + 40j))
    photograph('b.png', (500, 400))
    (photograph.folder / 'c.jpg').write_bytes(b'no image')
    (photograph.folder / 'd.mp4').write_bytes(b'film')
    out, err = crop(tmp_path)
    broken = table(tmp_path)[3]
    assert table(tmp_path)[:3] == [('a.png', 'a_0.png', ''), ('a.png', '', 'too small'),
                                   ('b.png', '', 'no face')]
    assert broken[:2] == ('c.jpg', '') and broken[2].startswith('broken (UnidentifiedImageError: ')
    assert out.splitlines() == [
        f'found 2 .png, 1 .jpg in {photograph.folder}', 'left out: 1 .mp4',
        'left out, no face: 1 (b.png)', 'left out, too small: 1 (a.png)',
        'left out, broken: 1 (c.jpg)', 'out: 1 faces from 3 photographs, listed in faces.csv',
        'python train.py --dataset out']
    assert err == ''


def test_exif_orientation_is_applied(photograph, tmp_path):
    face = placed(1.5, 0, 60 + 40j)
    path = photograph('a.png', (700, 500), face)
    exif = Image.Exif()
    exif[0x0112] = 6                    # the camera was turned: shown turned right by 90 degrees
    with Image.open(str(path)) as image:
        image.transpose(Image.ROTATE_90).save(str(path), exif=exif)
    crop(tmp_path)
    assert_marks_at_places(pixels(tmp_path / 'out' / 'a_0.png'))


def test_second_run_takes_new_photographs_only(photograph, tmp_path):
    photograph('a.png', (700, 600), placed(1, 0, 50 + 40j))
    photograph('b.png', (701, 600), placed(1, 0, 50 + 40j))
    crop(tmp_path)
    (tmp_path / 'out' / 'a_0.png').unlink()
    before = (tmp_path / 'out' / 'b_0.png').stat()
    photograph('c.png', (702, 600), placed(1, 0, 50 + 40j))
    out, _ = crop(tmp_path)
    assert out.splitlines()[1] == 'out: 2 photographs are in faces.csv already, 1 are new'
    assert sorted(os.listdir(str(tmp_path / 'out'))) == ['b_0.png', 'c_0.png', 'faces.csv']
    assert (tmp_path / 'out' / 'b_0.png').stat().st_mtime_ns == before.st_mtime_ns
    out, _ = crop(tmp_path)
    assert out.splitlines()[1] == 'out: 3 photographs are in faces.csv already, 0 are new'


def test_a_photograph_is_in_the_table_before_the_next_is_read(photograph, tmp_path, monkeypatch):
    for number in range(3):
        photograph(f'{number}.png', (700 + number, 600), placed(1, 0, 50 + 40j))
    read, done = crop_faces.read, []

    def recorded(*photograph):
        done.append([name for name, *_ in table(tmp_path)])
        return read(*photograph)

    monkeypatch.setattr(crop_faces, 'read', recorded)
    crop(tmp_path)
    assert done == [[], ['0.png'], ['0.png', '1.png']]


def test_a_fault_of_the_machine_is_not_taken_for_a_broken_file(photograph, tmp_path, monkeypatch):
    photograph('a.png', (700, 600), placed(1, 0, 50 + 40j))

    def fail(*photograph):
        raise OSError(errno.EMFILE, 'Too many open files', 'a.png')

    monkeypatch.setattr(crop_faces, 'read', fail)
    _, err = crop(tmp_path, code=2)
    assert err == 'error: a.png: Too many open files\n' and table(tmp_path) == []


def test_run_continues_after_a_kill_within_a_row(photograph, tmp_path):
    photograph('a.png', (700, 600), placed(1, 0, 50 + 40j))
    photograph('b.png', (701, 600), placed(1, 0, 50 + 40j))
    crop(tmp_path)
    path = tmp_path / 'out' / 'faces.csv'
    complete = table(tmp_path)
    path.write_bytes(path.read_bytes()[:-len('b_0.png,178,\n')])
    crop(tmp_path)
    assert [row for row in table(tmp_path) if row[2] is not None] == complete


def test_no_file_is_written_over(photograph, tmp_path):
    face = placed(1, 0, 50 + 40j)
    photograph('a.jpg', (700, 600), face)
    photograph('a.png', (701, 600), face)
    photograph('a.jpg.png', (702, 600), face)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'faces.csv').write_bytes(b'')
    (tmp_path / 'out' / 'a.png_0.png').write_bytes(b'mine')
    crop(tmp_path)
    assert {name: picture for name, picture, _ in table(tmp_path)} == {
        'a.jpg': 'a.jpg_0.png', 'a.png': 'a.png_0.png', 'a.jpg.png': 'a.jpg.png_0.png'}
    assert (tmp_path / 'out' / 'a.png_0.png').read_bytes() == b'mine'


@pytest.mark.parametrize('folder, out, sentence', [
    ('nowhere', 'out', 'nowhere: is no folder'),
    ('photographs', 'photographs', 'photographs: lies in photographs'),
    ('photographs', 'photographs/deep/out', 'photographs/deep/out: lies in photographs'),
    ('photographs', 'link/out', 'link/out: lies in photographs'),
    ('photographs', 'file', 'file: is a file'),
    ('photographs', 'full', 'full: holds files, but no faces.csv'),
    ('photographs', '.', '.: holds files, but no faces.csv'),
    ('empty', 'out', 'no photographs')])
def test_bad_folders_are_refused(photograph, tmp_path, folder, out, sentence):
    photograph('a.png', (500, 400))
    for name in ('empty', 'full'):
        (tmp_path / name).mkdir()
    (tmp_path / 'link').symlink_to('photographs', target_is_directory=True)
    for path in (tmp_path / 'file', tmp_path / 'full' / 'a_0.png'):
        path.write_bytes(b'mine')
    assert sentence in refused_here('crop_faces.py', folder, out, cwd=tmp_path)
    assert not (tmp_path / 'out').exists()
    assert os.listdir(str(photograph.folder)) == ['a.png']


def test_photographs_without_a_face_are_an_error(photograph, tmp_path):
    photograph('a.png', (500, 400))
    _, err = crop(tmp_path, code=2)
    assert err == 'error: photographs: no face of at least 64 pixels in 1 photographs\n'


def test_missing_library_is_named_with_the_command(tmp_path):
    (tmp_path / 'photographs').mkdir()
    Image.new('RGB', (300, 300)).save(str(tmp_path / 'photographs' / 'a.png'))
    code = ('import sys; sys.modules["mtcnn"] = None; sys.path.insert(0, sys.argv.pop(1)); '
            'import crop_faces; sys.exit(crop_faces.main())')
    process = subprocess.run([sys.executable, '-c', code, ROOT, 'photographs', 'out'],
                             cwd=str(tmp_path), stderr=subprocess.PIPE, text=True)
    assert process.returncode == 2
    assert re.fullmatch('error: .* mtcnn .*: pip install -r requirements/faces.txt, in Python 3.10 '
                        'or newer\n', process.stderr)
    assert os.path.exists(os.path.join(ROOT, 'requirements', 'faces.txt'))


# with the library

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Drawn faces in larger canvases, their framing, and the folder with the pictures cut."""
    folder = tmp_path_factory.mktemp('drawn')
    run('generate.py', '--ckpt', os.path.join(ROOT, 'model', 'dcgan_celeba'), '--num', 8,
        '--separate', '--out', folder / 'faces', cwd=folder)
    (folder / 'photographs').mkdir()
    faces = [pixels(path) for path in sorted((folder / 'faces').glob('*.png'))]
    for number, face in enumerate(faces):
        # The face as CelebA's middle 178 pixels, scaled, rotated and put somewhere.
        a = (1 + number / 4) * np.exp(1j * np.radians(8 * number - 28))
        b = 450 + 350j - a * (89 + 89j) + number * (5 - 4j)
        inverse, shift = 64 / 178 / a, -b / a * 64 / 178
        canvas = Image.fromarray(np.full((700, 900, 3), face.mean((0, 1)), np.uint8))
        matrix = (inverse.real, -inverse.imag, shift.real, inverse.imag, inverse.real, shift.imag)
        turned, mask = (image.transform(canvas.size, Image.AFFINE, matrix, Image.BICUBIC)
                        for image in (Image.fromarray(face), Image.new('L', (64, 64), 255)))
        canvas.paste(turned, mask=mask)
        canvas.save(str(folder / 'photographs' / f'{number}.jpg'), quality=95)
    run('crop_faces.py', 'photographs', 'out', cwd=folder)
    return folder, faces


@needs_mtcnn
def test_drawn_faces_are_found_and_framed(drawn):
    folder, faces = drawn
    differences = []
    for number, face in enumerate(faces):
        path = folder / 'out' / f'{number}_0.png'
        if path.exists():
            with Image.open(str(path)) as picture:
                again = np.asarray(picture.crop((0, 20, 178, 198)).resize((64, 64), Image.BILINEAR))
            differences.append(np.abs(again[8:56, 8:56].astype(int) - face[8:56, 8:56]).mean())
    assert len(differences) >= 7 and np.median(differences) < 15, differences


@needs_mtcnn
def test_train_takes_the_pictures(drawn):
    folder, _ = drawn
    out, _ = run('train.py', '--dataset', folder / 'out', '--image-size', 32, '--batch-size', 4,
                 '--max-steps', 2, '--dry-run', cwd=folder)
    assert re.search(r'photographs +[78] of', out), out
