"""Files of photographs: finding them, opening them, and the square that is cut from each."""
import errno
import os
import stat
import sys

import numpy as np
from PIL import Image, ImageOps

from dcgan.cli import printable

ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
# Told by the content, whatever a file's name ends in. Pillow knows many more, but they are no
# photographs, and some run other programs: EPS runs Ghostscript.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF')
MAX_BYTES = 2 ** 27                      # of a photograph's file, which Pillow may read whole
ORIENTATION = 0x0112                     # EXIF's number of it
# The machine's fault, which passes, not a file's.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class DataError(ValueError):
    """The photographs can't be used; the message names the folder or file."""


def walk(folder):
    """Sorted paths, relative to folder, of the images in it; linked folders are entered once."""
    def report(error):
        if error.errno in EXHAUSTED:
            raise error
        if error.errno != errno.ENOENT:
            print(f'left out: {printable(error.filename)} ({error.strerror})', file=sys.stderr)

    found, seen = [], set()
    for top, folders, names in os.walk(folder, onerror=report, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else sorted(f for f in folders if f[0] != '.')
        for name in [] if real in seen else names:
            if name.lower().endswith(ENDINGS) and name[0] != '.':
                path = os.path.join(top, name)
                found.append(os.path.relpath(path, folder).replace(os.sep, '/'))
        seen.add(real)
    return sorted(found)


def open_file(folder, name):
    """The Pillow image of a file; OSError if it is no file or too large."""
    path = os.path.join(folder, name)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):        # to open a pipe is to wait for who writes into it
        raise OSError('is no file')
    check_size(status.st_size)
    return Image.open(path, formats=FORMATS)


def check_size(size):
    """Raises OSError if a file of this many bytes is too large for a photograph."""
    if size > MAX_BYTES:
        raise OSError(f'{size:,} bytes are more than {MAX_BYTES:,}')


def stamp_file(folder, name):
    """(size, time, mode) of a file, by which the cache sees that it has changed."""
    try:
        status = os.stat(os.path.join(folder, name))
    except OSError:             # a broken link, say; reading it gives the reason
        return ()
    return status.st_size, status.st_mtime_ns, status.st_mode      # it may become readable


def square(image, image_size, crop=0):
    """The middle of a Pillow image as uint8 [image_size, image_size, 3].

    crop: side of the square in source pixels, at most the shorter side, which 0 means. EXIF
    orientation is applied, transparency put on white, 16-bit grey converted to 8 bits.
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
