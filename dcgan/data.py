"""Photographs to one uint8 array on disk, and batches of it that are a function of (seed, step).

A data set is `lfw`, `celeba`, `toy` (drawn here, nothing to download) or any folder of images.
Each photograph becomes the square in its middle, scaled with Pillow's BILINEAR (which averages
over the source pixels, so nothing is skipped in scaling down). The array is kept under
`<data-dir>/cache/` by the list of files, and read batch by batch: memory does not grow with the
set.
"""
import collections
import concurrent.futures
import contextlib
import errno
import functools
import glob
import hashlib
import io
import json
import os
import re
import stat
import sys
import warnings
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dcgan import files
from dcgan.cli import Progress, printable

DATASETS = ('lfw', 'celeba', 'toy')
CROPS = {'lfw': 150, 'celeba': 178}      # source pixels; in LFW the face then fills the frame
ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
# Told by the content, whatever a file's name ends in. Pillow knows many more, but they are no
# photographs, and some run other programs: EPS runs Ghostscript.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF')
MAX_BYTES = 2 ** 27                      # of a photograph's file, which Pillow may read whole
PARTS = {'train': '0', 'valid': '1', 'test': '2'}      # as list_eval_partition numbers them
MAX_BROKEN = 0.01                        # share of a set that may be broken
ORIENTATION = 0x0112                     # EXIF's number of it
TOY_COUNT = 4000
# The machine's fault, which passes, not a file's.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
FORMAT = 2                               # of the cache; a change here makes all caches anew

CELEBA_HELP = """\
{folder} holds no photographs of CelebA. It can't be fetched by a program (its host answers
with quota pages), so get img_align_celeba.zip in a browser:
  from the authors' page, mmlab.ie.cuhk.edu.hk/projects/CelebA.html ("Align&Cropped Images"),
  or as the Kaggle data set jessicali9530/celeba-dataset,
and put the zip itself, or the folder img_align_celeba/ unpacked from it, into {folder}."""


class DataError(ValueError):
    """The photographs can't be used; the message names the folder or file."""


# folder: where the photographs are. names: list of str. read: name -> Pillow image.
# identity: what the cache depends on. crop: source pixels if none are asked for.
Source = collections.namedtuple('Source', 'dataset name folder names read identity crop')

# images: Images. names: the n names. broken: [(name, reason)].
# crc32: of the array's bytes. path: the array's file.
Photographs = collections.namedtuple('Photographs', 'images names broken crc32 path')


class Images:
    """An array on disk, uint8 [n, s, s, 3]: images[rows] reads these rows into memory.

    The file is mapped anew at each access. Through a mapping that lives, all rows that were ever
    read count as the program's memory: after an epoch the whole set.
    """

    def __init__(self, path, shape):
        self.shape = tuple(shape)
        self.file = open(path, 'rb')      # noqa: SIM115, read from as long as the array lives

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return np.array(np.memmap(self.file, np.uint8, 'r', shape=self.shape)[rows])


# finding the photographs

def find(dataset, data_dir='datasets', part='train'):
    """Returns the Source of `lfw`, `celeba`, `toy` or a folder.

    part: `train`, `valid` or `test` of CelebA, where its list_eval_partition file is there; without
    it all photographs are `train`, as those of the other sets always are. Raises DataError where
    there is no photograph; the message says what to do.
    """
    if part != 'train' and dataset != 'celeba':
        raise DataError(f'--dataset {dataset}: has no part {part}')
    if dataset == 'toy':
        names = [f'face {number:04d}' for number in range(TOY_COUNT)]
        return Source(dataset, dataset, 'toy', names, draw_toy, ['toy'], 0)
    known = dataset in DATASETS
    folder = os.path.join(data_dir, dataset) if known else dataset
    if not known and not os.path.isdir(folder):
        raise DataError(f'--dataset {dataset}: neither {", ".join(DATASETS)} nor a folder')
    name = dataset if known else os.path.basename(os.path.abspath(folder)) or 'images'
    names = _walk(folder)
    read, stamp = (functools.partial(of_file, folder) for of_file in (_open_file, _stamp_file))
    if dataset == 'celeba':
        # A picture beside the zip, or half of it unpacked, must not hide it.
        names, read, stamp = max([(names, read, stamp), _celeba_zip(folder, bool(names))],
                                 key=lambda found: len(found[0]))
        parts, path = _partition(folder)
        without = sum(os.path.basename(name) not in parts for name in names)
        if path and names and without == len(names):
            raise DataError(f'{path}: has no line for any photograph in {folder}, not for '
                            f'{os.path.basename(names[0])}')
        if path and without and part == 'train':
            print(f'{path}: has no line for {without:,} of {len(names):,} photographs, which are '
                  'trained on', file=sys.stderr)
        kept = [name for name in names
                if parts.get(os.path.basename(name), PARTS['train']) == PARTS[part]]
        if names and not kept:
            why = '' if path else ', as no list_eval_partition.txt or .csv is there'
            raise DataError(f'{folder}: none of its {len(names):,} photographs is of the part '
                            f'{part}{why}')
        names = kept
    if not names:
        raise DataError(
            CELEBA_HELP.format(folder=folder) if dataset == 'celeba' else
            f'{folder}: no photographs there; python download_lfw.py fetches them'
            if dataset == 'lfw' else
            f'{folder}: no photographs ({", ".join(ENDINGS)}) in this folder')
    if part != 'train':
        name = f'{name}_{part}'
    return Source(dataset, re.sub(r'[^\w.]+', '_', name), folder, names, read,
                  [os.path.abspath(folder), _identity(names, stamp)], CROPS.get(dataset, 0))


def _identity(names, stamp):
    """A digest of names and stamps: of 200,000 files these themselves would take 60 MB."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, *stamp(name)]).encode())
    return digest.hexdigest()


def _partition(folder):
    """({file name: number of its part}, path) of the authors' list_eval_partition or Kaggle's CSV.

    ({}, None) where there is neither.
    """
    paths = [os.path.join(folder, 'list_eval_partition' + ending) for ending in ('.txt', '.csv')]
    path = next((path for path in paths if os.path.exists(path)), None)
    parts = {}
    if path is None:
        return parts, None
    with open(path, encoding='utf-8', errors='replace') as f:
        for number, line in enumerate(f, 1):
            match = re.fullmatch(r'(\S+\.\w+)[\s,]+([012])\s*', line)
            if match:
                parts[match.group(1)] = match.group(2)
            elif line.strip() and not line.startswith('image_id'):
                raise DataError(f'{path}, line {number}: should be a file name and 0, 1 or 2, '
                                f'not {line.strip()[:40]!r}')
    return parts, path


def _walk(folder):
    """Paths below folder of the images, sorted; linked folders are entered once."""
    def left_out(error):
        if error.errno in EXHAUSTED:
            raise error
        if error.errno != errno.ENOENT:
            print(f'left out: {printable(error.filename)} ({error.strerror})', file=sys.stderr)

    found, seen = [], set()
    for top, folders, names in os.walk(folder, onerror=left_out, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else sorted(f for f in folders if f[0] != '.')
        for name in [] if real in seen else names:
            if name.lower().endswith(ENDINGS) and name[0] != '.':
                path = os.path.join(top, name)
                found.append(os.path.relpath(path, folder).replace(os.sep, '/'))
        seen.add(real)
    return sorted(found)


def _open_file(folder, name):
    path = os.path.join(folder, name)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):        # to open a pipe is to wait for who writes into it
        raise OSError('is no file')
    _check_size(status.st_size)
    return Image.open(path, formats=FORMATS)


def _check_size(size):
    if size > MAX_BYTES:
        raise OSError(f'{size:,} bytes are more than {MAX_BYTES:,}')


def _stamp_file(folder, name):
    try:
        status = os.stat(os.path.join(folder, name))
    except OSError:             # a link to nowhere, say: broken, and reading it says why
        return ()
    return status.st_size, status.st_mtime_ns, status.st_mode      # it may become readable


def _celeba_zip(folder, unpacked):
    """Names, reader and stamp of the photographs in the zip in folder; none without a zip.

    Raises DataError where a zip is none, unless there are unpacked photographs to take.
    """
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), '*.[zZ][iI][pP]'))):
        try:
            archive = zipfile.ZipFile(path)
        except Exception as error:      # a damaged directory leads zipfile to more than BadZipFile
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            if unpacked:
                continue
            with open(path, 'rb') as f:
                page = f.read(512).lstrip().startswith(b'<')
            what = ("a web page saved as a zip (the host's quota page?)" if page
                    else 'no zip archive, or only a part of one')
            raise DataError(f'{path} is {what}; fetch it again') from None
        names = sorted(name for name in archive.namelist() if name.lower().endswith(ENDINGS)
                       and not os.path.basename(name).startswith('.'))
        if names:
            return (names, *(functools.partial(of_member, archive)
                             for of_member in (_open_member, _stamp_member)))
    return [], None, None


def _open_member(archive, name):
    size = archive.getinfo(name).file_size
    _check_size(size)
    with archive.open(name) as f:       # archive.read would inflate more than that, if there is
        return Image.open(io.BytesIO(f.read(size)), formats=FORMATS)


def _stamp_member(archive, name):
    return archive.getinfo(name).file_size, archive.getinfo(name).CRC


# CelebA's labels

def attributes(folder, names):
    """(the 40 labels' names, int8 [n, 40] of -1 and 1) of the photographs of these names.

    Reads the authors' list_attr_celeba.txt or the Kaggle copy's CSV in folder. Raises DataError
    where there is neither, where a line is none of theirs or a photograph has no line.
    """
    paths = [os.path.join(folder, 'list_attr_celeba' + ending) for ending in ('.txt', '.csv')]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise DataError(f'no labels of CelebA: neither {" nor ".join(paths)} is there')
    numbers_of = collections.defaultdict(list)      # two folders may hold photographs of one name
    for number, name in enumerate(names):
        numbers_of[os.path.basename(name)].append(number)
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = ((number, line.replace(',', ' ').split()) for number, line in enumerate(f, 1))
        # The text's first line is the number of photographs, the CSV's heading names its column.
        heading = next((fields for _, fields in lines if len(fields) > 1), [])
        known = heading[heading[:1] == ['image_id']:]
        labels = np.zeros([len(names), len(known)], np.int8)
        for number, fields in lines:
            name, values = fields[:1], fields[1:]
            if name and (len(values) != len(known) or not set(values) <= {'1', '-1'}):
                raise DataError(f'{path}, line {number}: should be a file name and {len(known)} '
                                'times 1 or -1')
            if name and name[0] in numbers_of:
                labels[numbers_of[name[0]]] = values
    without = np.flatnonzero((labels == 0).any(axis=1)) if known else range(len(names))
    if len(without):
        raise DataError(f'{path}: has no line for {names[without[0]]}')
    return known, labels


# one photograph

def square(image, image_size, crop=0):
    """The middle of a Pillow image as uint8 [image_size, image_size, 3].

    The square has crop source pixels a side, at most the shorter side; 0 takes that. EXIF
    orientation is applied, transparency laid on white, 16-bit grey brought to 8 bits.
    """
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:        # else transposing is a copy
        image = ImageOps.exif_transpose(image)
    width, height = image.size
    side = min(width, height, crop or width)
    left, top = (width - side) // 2, (height - side) // 2
    if (width, height) != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if image.mode.startswith('I'):
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray((grey.clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    if image.mode != 'RGB':
        image = image.convert('RGB')
    return np.asarray(image.resize((image_size, image_size), Image.BILINEAR))


def draw_toy(name):
    """The toy set's face of that name, a 128x128 Pillow image; the same at every call."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    skin = np.array([[255, 219, 190], [234, 192, 155], [198, 140, 100], [141, 92, 62],
                     [92, 58, 40]][rng.randint(5)]) + rng.randint(-12, 13)
    hair = np.array([[30, 24, 20], [84, 54, 32], [150, 100, 50], [214, 180, 110],
                     [130, 50, 30], [170, 170, 170]][rng.randint(6)]) + rng.randint(-15, 16)
    background, clothes = rng.randint(60, 230, 3), rng.randint(20, 220, 3)
    iris = [[70, 110, 160], [80, 120, 70], [90, 60, 35], [40, 30, 25]][rng.randint(4)]

    def colour(rgb, shade=1.0):
        return tuple(int(v) for v in np.clip(np.asarray(rgb) * shade, 0, 255))

    image = Image.new('RGB', (128, 128), colour(background))
    draw = ImageDraw.Draw(image)

    def ellipse(x, y, width, height, rgb, shade=1.0):
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour(rgb, shade))

    x, y = 64 + rng.randint(-5, 6), 66 + rng.randint(-4, 5)
    width, height = rng.randint(30, 39), rng.randint(40, 49)
    long_hair = rng.random_sample() < 0.5
    if long_hair:
        ellipse(x, y + 8, width + 12, height + 18, hair, 0.9)
    draw.rectangle((x - 13, y + 20, x + 13, 128), fill=colour(skin, 0.85))
    ellipse(x, 138, 58, 26, clothes)
    ellipse(x, y - 6, width + 5, height + 3, hair)
    ellipse(x, y + 3, width, height, skin)
    fringe = rng.randint(14, 24)
    draw.pieslice((x - width, y - height, x + width, y - height + 2 * fringe), 180, 360,
                  fill=colour(hair))
    eyes, gap, open_ = y - rng.randint(2, 8), rng.randint(13, 18), rng.randint(3, 6)
    for side in (-1, 1):
        ellipse(x + side * gap, eyes, 8, open_, [245, 245, 245])
        ellipse(x + side * gap, eyes, 3.5, min(open_, 3.5), iris)
        draw.line((x + side * (gap - 8), eyes - 10, x + side * (gap + 8), eyes - 11),
                  fill=colour(hair, 0.7), width=3)
    if rng.random_sample() < 0.2:
        for side in (-1, 1):
            draw.ellipse((x + side * gap - 11, eyes - 9, x + side * gap + 11, eyes + 9),
                         outline=(25, 25, 25), width=2)
        draw.line((x - gap + 11, eyes, x + gap - 11, eyes), fill=(25, 25, 25), width=2)
    draw.line((x, eyes + 6, x - 4, y + 15, x + 3, y + 16), fill=colour(skin, 0.75), width=2)
    mouth, smile, lips = rng.randint(9, 16), rng.randint(1, 9), [176, 70, 70]
    draw.chord((x - mouth, y + 26 - smile, x + mouth, y + 26 + smile), 0, 180, fill=colour(lips))
    draw.line((x - mouth, y + 26, x + mouth, y + 26), fill=colour(lips, 0.6), width=2)
    return image


# the array on disk

def load(source, image_size, crop=None, data_dir='datasets', at_least=1):
    """Returns the Photographs of a Source, [n, image_size, image_size, 3], from cache or decoded.

    crop: side of the square in source pixels, 0 for the shorter side, None for the set's own.
    Broken images are left out and named. Raises DataError where more than 1 % are broken or
    fewer than at_least are good.
    """
    crop = source.crop if crop is None else crop
    key = hashlib.sha256(json.dumps([FORMAT, image_size, crop, source.identity]).encode())
    stem = f'{source.name}-{image_size}px-crop{crop}-'
    folder = os.path.join(data_dir, 'cache')
    path = os.path.join(folder, stem + key.hexdigest()[:16] + '.uint8')
    facts = _read_facts(path)
    if facts is None:
        os.makedirs(folder, exist_ok=True)
        facts = _write_array(source, path, image_size, crop)
        _remove_outdated(folder, stem, path, facts['folder'])
    count = facts['shape'][0]
    _report(source, count, facts['broken'], path)
    if facts.get('smaller'):        # an array of an earlier version does not tell
        print(f'{source.folder}: {facts["smaller"]:,} of {count:,} photographs are smaller than '
              f'the crop of {crop} pixels; their largest square is taken', file=sys.stderr)
    if count < at_least:
        raise DataError(f'{source.folder}: {count:,} photographs are too few: at least '
                        f'{at_least} are needed')
    names = source.names
    if facts['broken']:
        broken = {name for name, _ in facts['broken']}
        names = [name for name in names if name not in broken]
    return Photographs(Images(path, facts['shape']), names, facts['broken'],
                       facts['crc32'], path)


def _report(source, good, broken, path):
    """Names the broken photographs; DataError where they are more than MAX_BROKEN."""
    for name, reason in broken[:10]:
        print(f'left out, broken: {printable(name)} ({reason})', file=sys.stderr)
    if len(broken) > MAX_BROKEN * (good + len(broken)):
        raise DataError(f'{source.folder}: {len(broken):,} of {good + len(broken):,} photographs '
                        f'are broken, more than {MAX_BROKEN:.0%}')
    if len(broken) > 10:
        print(f'... and {len(broken) - 10:,} more, all named in {path}.json', file=sys.stderr)


def _read_facts(path):
    """What was written beside the array, or None where there is no whole array."""
    try:
        with open(path + '.json', encoding='ascii') as f:
            facts = json.load(f)
        whole = os.path.getsize(path) == int(np.prod(facts['shape']))
    except (OSError, ValueError, KeyError):
        return None
    return facts if whole else None


def _write_array(source, path, image_size, crop):
    """Decodes all photographs on all cores into path; returns the facts written beside it."""
    def decode(name):
        try:
            with source.read(name) as image:
                pixels = square(image, image_size, crop)
                if min(image.size) < crop:
                    smaller.append(name)
                return pixels
        except Exception as error:      # whatever a file makes Pillow raise, it is that file's
            if getattr(error, 'errno', None) in EXHAUSTED:
                error.filename = error.filename or name     # what fails in reading names no file
                raise
            return f'{type(error).__name__}: {error}'

    count, broken, smaller, crc32 = 0, [], [], 0
    print(f'reading {len(source.names):,} photographs of {source.folder}', file=sys.stderr)
    with files.atomic_write(path, shared=True) as partial:
        with warnings.catch_warnings(), Progress(len(source.names), 'photographs') as progress, \
                open(partial, 'wb') as f, \
                concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter('ignore')         # those of Pillow name no file
            # Pillow itself refuses only what is twice over its limit of 89 million pixels.
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            # Pillow decodes without the interpreter's lock, so threads do; in portions, as
            # `map` would take the whole list at once.
            for start in range(0, len(source.names), 1024):
                portion = source.names[start:start + 1024]
                for name, pixels in zip(portion, pool.map(decode, portion)):
                    if isinstance(pixels, str):
                        broken.append([name, pixels])
                    else:
                        count += 1
                        crc32 = zlib.crc32(pixels.tobytes(), crc32)
                        f.write(pixels.tobytes())
                progress.update(len(portion))
        if len(broken) > MAX_BROKEN * len(source.names):
            _report(source, count, broken, path)           # raises: such a set is not kept
    facts = {'shape': [count, image_size, image_size, 3], 'crc32': crc32,
             'folder': os.path.abspath(source.folder), 'broken': broken,
             'smaller': len(smaller)}
    with files.atomic_write(path + '.json', shared=True) as partial, \
            open(partial, 'w', encoding='ascii') as f:
        json.dump(facts, f)
    return facts


def _remove_outdated(folder, stem, path, of):
    """Removes arrays made of the same folder when it held other files, and what a kill left."""
    for name in os.listdir(folder):
        other = os.path.join(folder, name)
        # Of this host alone: the folder may be one that several machines share.
        left = re.fullmatch(r'.*\.uint8\.(?:.*\.)?' + files.HOST + r'\.(\d+)\.part', name)
        if left and not files.is_running(int(left.group(1))):
            _remove(other)
        elif name.startswith(stem) and name.endswith('.uint8') and other != path:
            facts = _read_facts(other)
            if facts and facts['folder'] == of:
                measures = glob.glob(glob.escape(other) + '.measures-*.npz')
                for file in measures + [other + '.json', other]:
                    _remove(file)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):       # another run may have been faster
        os.remove(path)
