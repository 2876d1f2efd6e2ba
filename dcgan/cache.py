"""The decoded photographs of a data set: one uint8 array on disk.

Each photograph becomes the square in its middle, scaled with Pillow's BILINEAR (which averages
over the source pixels, so nothing is skipped in scaling down). The array is kept under
`<data-dir>/cache/` by the list of files, and read batch by batch: memory does not grow with the
set.
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
from dcgan.cli import Progress, printable
from dcgan.photographs import EXHAUSTED, DataError, square

MAX_BROKEN = 0.01                        # share of a set that may be broken
FORMAT = 2                               # of the cache; a change here makes all caches anew

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
