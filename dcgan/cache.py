"""Cache of the decoded photographs of a data set: one uint8 array on disk.

Each photograph is cropped to the square in its middle and scaled with Pillow's BILINEAR, which
averages over all source pixels when it scales down. The array is kept in `<data-dir>/cache/`, under
a name that depends on the list of files. It is read batch by batch, so memory does not grow with
the data set.
"""
import collections
import concurrent.futures
import contextlib
import glob
import hashlib
import json
import os
import re
import sys
import warnings
import zlib

import numpy as np
from PIL import Image

from dcgan import files
from dcgan.cli import MAX_BROKEN, Progress, printable
from dcgan.photographs import EXHAUSTED, DataError, crop_of, square

FEW_BROKEN = 5                           # as many may be broken in any set
NAMED = 10                               # broken photographs that are named; a file has them all
FORMAT = 3                               # version of the cache; a new number rebuilds all caches

# images: Images. names: the n names. broken: [(name, reason)].
# crc32: checksum of the array's bytes. path: the array's file.
Photographs = collections.namedtuple('Photographs', 'images names broken crc32 path')


class Images:
    """An array on disk, uint8 [n, s, s, 3]: images[rows] reads these rows into memory.

    Each access maps the file anew. With one lasting map, all rows that were ever read would count
    as memory of the program: after an epoch the whole set.
    """

    def __init__(self, path, shape):
        self.shape = tuple(shape)
        self.file = open(path, 'rb')      # noqa: SIM115, open as long as the array exists

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return np.array(np.memmap(self.file, np.uint8, 'r', shape=self.shape)[rows])


def load(source, image_size, crop=None, data_dir='datasets', at_least=1, max_broken=MAX_BROKEN):
    """Returns the Photographs of a Source, from the cache or decoded.

    The images are [n, image_size, image_size, 3]. crop: side of the square in source pixels, 0 for
    the shorter side, None for the default of the set. Broken images are left out, and their names
    printed. Raises DataError if more than FEW_BROKEN and the share max_broken are broken, or if
    fewer than at_least are good.
    """
    crop = source.crop if crop is None else crop
    key = hashlib.sha256(json.dumps([FORMAT, image_size, crop, source.identity]).encode())
    stem = f'{source.name}-{image_size}px-crop{crop}-'
    folder = os.path.join(data_dir, 'cache')
    path = os.path.join(folder, stem + key.hexdigest()[:16] + '.uint8')
    description = _read_description(path)
    if description is None:
        os.makedirs(folder, exist_ok=True)
        description = _write_array(source, path, image_size, crop, max_broken)
        _remove_outdated(folder, stem, path, description['folder'])
    count = description['shape'][0]
    _report(description['broken'], path)
    if description['smaller']:
        print(f'{source.folder}: {description["smaller"]:,} of {count:,} photographs are smaller '
              f'than the crop of {crop} pixels; their largest square is taken', file=sys.stderr)
    if description['resized']:
        print(f'{source.folder}: {description["resized"]:,} of {count:,} photographs have another '
              f'size than {source.name}, whose shorter side is {source.reference} pixels; the crop '
              f'of {crop} pixels is scaled with the size', file=sys.stderr)
    if count < at_least:
        raise DataError(f'{source.folder}: {count:,} photographs are too few: at least '
                        f'{at_least} are needed')
    names = source.names
    if description['broken']:
        broken = {name for name, _ in description['broken']}
        names = [name for name in names if name not in broken]
    return Photographs(Images(path, description['shape']), names, description['broken'],
                       description['crc32'], path)


def _report(broken, path):
    """Prints the names of broken photographs; many of them are all named in a file."""
    for name, reason in broken[:NAMED]:
        print(f'left out, broken: {printable(name)} ({reason})', file=sys.stderr)
    if len(broken) > NAMED:
        print(f'... and {len(broken) - NAMED:,} more, all named in {_list_of_broken(path)}',
              file=sys.stderr)


def _list_of_broken(path):
    return path + '.broken.txt'


def _check_broken(source, broken, path, max_broken):
    """Writes the list of many broken photographs; DataError if they are more than there may be."""
    if len(broken) > NAMED:
        with files.atomic_write(_list_of_broken(path), shared=True) as partial, \
                open(partial, 'w', encoding='utf-8', errors='surrogateescape') as f:
            f.writelines(f'{printable(name)}\t{reason}\n' for name, reason in broken)
    total = len(source.names)
    if len(broken) > max(max_broken * total, FEW_BROKEN) or len(broken) == total:
        _report(broken, path)
        raise DataError(f'{source.folder}: {len(broken):,} of {total:,} photographs are broken'
                        + (f', more than {max_broken:.0%}; --max-broken takes a larger share'
                           if len(broken) < total else ''))


def _read_description(path):
    """Returns the description beside an array, a dict, or None if the array is not complete."""
    try:
        with open(path + '.json', encoding='ascii') as f:
            description = json.load(f)
        is_complete = os.path.getsize(path) == int(np.prod(description['shape']))
    except (OSError, ValueError, KeyError):
        return None
    return description if is_complete else None


def _write_array(source, path, image_size, crop, max_broken):
    """Decodes all photographs to path, on all cores; returns the description beside it."""
    reference = source.reference if crop == source.crop else 0

    def decode(name):
        try:
            with source.read(name) as image:
                shorter = min(image.size)
                pixels = square(image, image_size, crop, reference)
            if shorter < crop_of(shorter, crop, reference):
                smaller.append(name)
            if reference and shorter != reference:
                resized.append(name)
            return pixels
        except Exception as error:      # any error of Pillow means that the file is broken
            if getattr(error, 'errno', None) in EXHAUSTED:
                error.filename = error.filename or name     # an error in reading names no file
                raise
            return f'{type(error).__name__}: {error}'

    count, broken, smaller, resized, crc32 = 0, [], [], [], 0
    print(f'reading {len(source.names):,} photographs of {source.folder}', file=sys.stderr)
    with files.atomic_write(path, shared=True) as partial:
        with warnings.catch_warnings(), Progress(len(source.names), 'photographs') as progress, \
                open(partial, 'wb') as f, \
                concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter('ignore')         # Pillow's warnings name no file
            # Pillow itself refuses only images of more than twice its limit of 89 million pixels.
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            # Threads suffice, because Pillow decodes without the interpreter's lock. Portions limit
            # the memory: `map` would take the whole list at once.
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
        _check_broken(source, broken, path, max_broken)     # if it raises the array is not kept
    description = {'shape': [count, image_size, image_size, 3], 'crc32': crc32,
                   'folder': os.path.abspath(source.folder), 'broken': broken,
                   'smaller': len(smaller), 'resized': len(resized)}
    with files.atomic_write(path + '.json', shared=True) as partial, \
            open(partial, 'w', encoding='ascii') as f:
        json.dump(description, f)
    return description


def _remove_outdated(folder, stem, path, source_folder):
    """Removes arrays of the same source folder with other files, and half-written arrays."""
    for name in os.listdir(folder):
        candidate = os.path.join(folder, name)
        # Only this host's files: several machines may share the folder.
        leftover = re.fullmatch(r'.*\.uint8\.(?:.*\.)?' + files.HOST + r'\.(\d+)\.part', name)
        if leftover and not files.is_running(int(leftover.group(1))):
            _remove(candidate)
        elif name.startswith(stem) and name.endswith('.uint8') and candidate != path:
            description = _read_description(candidate)
            if description and description['folder'] == source_folder:
                measures = glob.glob(glob.escape(candidate) + '.measures-*.npz')
                for file in [*measures, _list_of_broken(candidate), candidate + '.json', candidate]:
                    _remove(file)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):       # another run may have removed it
        os.remove(path)
