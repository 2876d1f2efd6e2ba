"""Image files: finds them, opens them, and crops a square from each."""
import errno
import os
import stat
import sys

import numpy as np
from PIL import Image, ImageOps

from dcgan.cli import printable

ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
# The content of a file decides its format, not the ending of its name. Pillow knows many more
# formats, but photographs do not use them, and some start other programs: EPS starts Ghostscript.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF')
MAX_BYTES = 2 ** 27                      # largest file, as Pillow may read it as a whole
ORIENTATION = 0x0112                     # number of this tag in EXIF
# Temporary faults of the machine, not of a file.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class DataError(ValueError):
    """The photographs can't be used; the message names the folder or file."""


def walk(folder):
    """Returns sorted paths of the images in folder, relative to it; enters a linked folder once."""
    def report(error):
        if error.errno in EXHAUSTED:
            raise error
        if error.errno != errno.ENOENT:
            print(f'left out: {printable(error.filename)} ({error.strerror})', file=sys.stderr)

    paths, visited = [], set()
    for top, folders, names in os.walk(folder, onerror=report, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in visited else sorted(f for f in folders if f[0] != '.')
        for name in [] if real in visited else names:
            if name.lower().endswith(ENDINGS) and name[0] != '.':
                path = os.path.join(top, name)
                paths.append(os.path.relpath(path, folder).replace(os.sep, '/'))
        visited.add(real)
    return sorted(paths)


def open_file(folder, name):
    """Opens a file as a Pillow image; OSError if it is no file or too large."""
    path = os.path.join(folder, name)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):        # opening a pipe would wait for its writer
        raise OSError('is no file')
    check_size(status.st_size)
    return Image.open(path, formats=FORMATS)


def check_size(size):
    """Raises OSError if a file of this many bytes is too large for a photograph."""
    if size > MAX_BYTES:
        raise OSError(f'{size:,} bytes are more than {MAX_BYTES:,}')


def stamp_file(folder, name):
    """Returns (size, time, mode) of a file, by which the cache notices a change; () on failure."""
    try:
        status = os.stat(os.path.join(folder, name))
    except OSError:             # e.g. a broken link; reading it gives the reason
        return ()
    return status.st_size, status.st_mtime_ns, status.st_mode      # mode: it may become readable


def square(image, image_size, crop=0):
    """Returns the middle of a Pillow image as uint8 [image_size, image_size, 3].

    crop: side of the square in source pixels; at most the shorter side, 0 for the shorter side.
    EXIF orientation is applied, transparency is put on white, 16-bit grey is converted to 8 bits.
    """
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:        # transposing always copies
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
