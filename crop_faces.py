"""Cuts the faces out of photographs as CelebA's are cut: upright, eyes and mouth in one place.

    pip install -r requirements/faces.txt
    python crop_faces.py FOLDER OUT
    python train.py --dataset OUT

Each face becomes a picture of 178x218 pixels: OUT/name_0.png, and OUT/name_1.png for the second
face of a photograph, the largest first. OUT/faces.csv has a row per picture, and a row with the
reason per face or photograph that was left out. A second run continues after the photographs in
this table: it takes new photographs, and a picture that was deleted stays deleted. No file is ever
written over.
"""
import argparse
import collections
import contextlib
import csv
import functools
import os
import shlex
import sys
import warnings

import numpy as np
from PIL import Image

from dcgan import cli, datasets, files, photographs, session
from dcgan.photographs import EXHAUSTED, DataError

SIZE = 178, 218         # width and height of CelebA's aligned images
# Where they have the left eye, the right eye and the middle of the mouth's corners: means of the
# first 300 rows (mouth: 50) of list_landmarks_align_celeba.txt. A point is complex, x + iy. Then a
# similarity transform, which rotates, scales and shifts, is z -> a z + b.
PLACES = np.array([69.3 + 111.2j, 107.6 + 111.2j, 88.4 + 152.2j])
SMALLEST = 64           # fewest pixels of a photograph across a picture's width
# Of 184 finds in 150 photographs of LFW five had a lower score, and none of these was a good face.
LOWEST_SCORE = 0.9
DETECTION_SIDE = 1024   # longer side to which photographs are scaled down to find faces
TABLE = 'faces.csv'
COLUMNS = ['photograph', 'picture', 'width', 'left out']
NO_FACE, TOO_SMALL, BROKEN = 'no face', 'too small', 'broken'


def main(argv=None):
    return cli.run(crop_faces, parse(argv), {DataError: ''})


def crop_faces(args):
    check_folders(args.folder, args.out)
    source = datasets.find(os.path.abspath(args.folder))    # a path is never a known set's name
    for note in source.notes:
        print(note)
    path = os.path.join(args.out, TABLE)
    done = {row['photograph'] for row in read_table(path)}
    names = [name for name in source.names if name not in done]
    if done:
        print(f'{args.out}: {len(done):,} photographs are in {TABLE} already, '
              f'{len(names):,} are new')
    if names:
        detector, stem_of = load_detector(), stems(source.names)
        with opened_table(path) as add_rows, warnings.catch_warnings(), \
                cli.Progress(len(names), 'photographs') as progress:
            warnings.simplefilter('ignore')         # Pillow's warnings name no file
            for name in names:
                add_rows(crop_photograph(detector, source, name, args.out, stem_of[name]))
                progress.update(1)
    report(args, read_table(path))
    return 0


def check_folders(folder, out):
    """Exits with a sentence if OUT is no place for the faces."""
    if not os.path.isdir(folder):
        cli.fail(f'{folder}: is no folder')
    if os.path.exists(out) and not os.path.isdir(out):
        cli.fail(f'{out}: is a file; the faces need a folder')
    if is_inside(out, folder):
        cli.fail(f'{out}: lies in {folder}, where the faces would be taken for photographs; name a '
                 'folder outside of it')
    if os.path.isdir(out) and os.listdir(out) and not os.path.exists(os.path.join(out, TABLE)):
        cli.fail(f'{out}: holds files, but no {TABLE} of an earlier run; name a new folder')


def is_inside(path, folder):
    """Whether a path is a folder itself or lies in it."""
    path, folder = (os.path.join(os.path.realpath(each), '') for each in (path, folder))
    return path.startswith(folder)


def load_detector():
    """Returns MTCNN (Zhang et al. 2016): uint8 [h, w, 3] -> [n, 16], see find_faces."""
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    os.environ['TF_USE_LEGACY_KERAS'] = '0'         # MTCNN needs the current Keras
    if session.is_x86():
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')     # see session.set_up
    try:
        with session.delayed_signals(), session.hidden_stderr():
            from mtcnn import MTCNN
            return functools.partial(MTCNN().detect_faces, output_type='numpy',
                                     threshold_onet=LOWEST_SCORE)
    except ImportError as error:
        cli.fail(f'the faces are found by the package mtcnn ({error}): '
                 'pip install -r requirements/faces.txt, in Python 3.10 or newer')


# one photograph

def crop_photograph(detector, source, name, out, stem):
    """Writes the faces of a photograph to out/stem_0.png etc.; returns its rows of the table."""
    try:
        image = read(source, name)
    except Exception as error:      # any error of Pillow means that the file is broken
        if getattr(error, 'errno', None) in EXHAUSTED:
            raise
        return [[name, '', '', f'{BROKEN} ({type(error).__name__}: {error})']]
    rows = []
    for points in find_faces(detector, image):
        width = int(round(SIZE[0] / abs(similarity(points, PLACES)[0])))
        if width < SMALLEST:
            rows.append([name, '', width, TOO_SMALL])
            continue
        picture = f'{stem}_{len(rows)}.png'
        write_new(os.path.join(out, picture), cut(image, points))
        rows.append([name, picture, width, ''])
    return rows or [[name, '', '', NO_FACE]]


def read(source, name):
    """Returns a photograph as an upright RGB image of Pillow."""
    with source.read(name) as image:
        return photographs.to_rgb(photographs.upright(image))


def find_faces(detector, image):
    """Returns a list of the faces in a Pillow image, the largest first: points for PLACES."""
    small = image.copy()
    small.thumbnail((DETECTION_SIDE, DETECTION_SIDE))
    # After index, box and score: x of left eye, right eye, nose and the mouth's corners, then y.
    found = detector(np.asarray(small)).reshape(-1, 16) * (max(image.size) / max(small.size))
    left, right, _, mouth_left, mouth_right = (found[:, 6:11] + 1j * found[:, 11:16]).T
    faces = np.stack([left, right, (mouth_left + mouth_right) / 2], axis=1)
    return sorted(faces, key=lambda points: abs(similarity(points, PLACES)[0]))


def similarity(points, places):
    """Returns (a, b) of the similarity transform a z + b that maps points nearest to places."""
    p, q = points.mean(), places.mean()
    a = np.vdot(points - p, places - q) / np.vdot(points - p, points - p)
    return a, q - a * p


def cut(image, points):
    """Returns a picture of SIZE in which a face's points lie at PLACES.

    Beyond the photograph's edge its outermost pixels are repeated, as CelebA's authors did. A
    mirror image could show an eye or a mouth there, and G would learn to draw it.
    """
    a, b = similarity(points, PLACES)
    width, height = SIZE
    corners = (np.array([0, width, height * 1j, width + height * 1j]) - b) / a
    part, origin = padded(image, corners)
    shrink = max(1, int(1 / abs(a)))        # transform reads few pixels, however large the part
    inverse, shift = 1 / a / shrink, (-b / a - origin) / shrink
    return part.reduce(shrink).transform(SIZE, Image.AFFINE, (
        inverse.real, -inverse.imag, shift.real, inverse.imag, inverse.real, shift.imag),
        Image.BICUBIC)


def padded(image, corners):
    """Returns the part of an image around corners, edges repeated, and its top left point."""
    low = np.floor([corners.real.min(), corners.imag.min()]).astype(int)
    high = np.ceil([corners.real.max(), corners.imag.max()]).astype(int)
    columns, rows = (np.arange(start, end).clip(0, size - 1)
                     for start, end, size in zip(low, high, image.size))
    part = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    pixels = np.asarray(part)[rows - rows[0]][:, columns - columns[0]]
    return Image.fromarray(pixels), complex(*low)


def write_new(path, picture):
    """Writes a PNG; a file that is there, e.g. of an interrupted run, stays as it is."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        with files.atomic_write(path, ending='.png') as partial:
            picture.save(partial)


# the table

def stems(names):
    """Returns {photograph: path of its pictures without _0.png}; a.jpg and a.png keep endings."""
    counts = collections.Counter(os.path.splitext(name)[0].lower() for name in names)
    counts.update(name.lower() for name in names)
    return {name: stem if counts[stem.lower()] == 1 else name
            for name in names for stem in [os.path.splitext(name)[0]]}


def read_table(path):
    """Returns the rows of a table as dicts; none if there is no table."""
    if not os.path.exists(path):
        return []
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
        return [row for row in csv.DictReader(f) if row[COLUMNS[-1]] is not None]


@contextlib.contextmanager
def opened_table(path):
    """Yields a function that adds rows to a table, a list of lists."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with open(path, 'a+', newline='', encoding='utf-8', errors='surrogateescape') as f:
        writer = csv.writer(f, lineterminator='\n')

        def add_rows(rows):
            writer.writerows(rows)
            f.flush()

        f.seek(0)
        end = f.read()[-1:]
        if not end:
            add_rows([COLUMNS])
        elif end != '\n':       # a row that a killed run did not complete
            f.write('\n')
        yield add_rows


def report(args, rows):
    """Prints how many faces there are, and what was left out."""
    for reason in (NO_FACE, TOO_SMALL, BROKEN):
        names = [cli.printable(row['photograph']) for row in rows
                 if row['left out'].startswith(reason)]
        if names:
            print(f'left out, {reason}: {len(names):,} ({", ".join(names[:3])}'
                  f'{", ..." if names[3:] else ""})')
    count = len({row['photograph'] for row in rows})
    pictures = sum(bool(row['picture']) for row in rows)
    if not pictures:
        cli.fail(f'{args.folder}: no face of at least {SMALLEST} pixels in {count:,} '
                 'photographs')
    print(f'{args.out}: {pictures:,} faces from {count:,} photographs, listed in {TABLE}')
    print(f'python train.py --dataset {shlex.quote(args.out)}')


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=cli.path, metavar='FOLDER',
                        help='holds photographs, in any depth')
    parser.add_argument('out', type=cli.path, metavar='OUT', help='gets the pictures of the faces')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
