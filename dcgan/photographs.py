"""Image files: which can be read, how one is opened, and the square that is cut from it."""
import contextlib
import errno
import functools
import io

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin

# The content of a file decides its format, not the ending of its name. Pillow knows many more
# formats, but photographs do not use them, and some start other programs: EPS starts Ghostscript.
FORMATS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'), 'PNG': ('.png',), 'WEBP': ('.webp',),
    'BMP': ('.bmp',), 'GIF': ('.gif',), 'TIFF': ('.tif', '.tiff'), 'AVIF': ('.avif',),
    'HEIF': ('.heic', '.heif'), 'JPEG2000': ('.jp2',), 'PPM': ('.ppm', '.pgm', '.pnm')}
# Files with these endings are not looked into: an unfinished download begins as an image does.
OTHER_ENDINGS = ('.txt', '.csv', '.tsv', '.json', '.xml', '.zip', '.part', '.crdownload', '.tmp')
START = 12                               # bytes that is_image needs
MAX_BYTES = 2 ** 27                      # largest file, as Pillow may read it as a whole
ORIENTATION = 0x0112                     # number of this tag in EXIF
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
           4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
           6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
MANAGED_MODES = ('RGB', 'CMYK', 'L')      # whose colours a profile can describe
# Temporary faults of the machine, not of a file.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class DataError(ValueError):
    """The photographs can't be used; the message names the folder or file."""


@functools.lru_cache(maxsize=None)
def readable_formats():
    """Returns those of FORMATS that Pillow reads here: HEIF needs the package pillow-heif."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener
        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def readable_endings():
    """Returns the endings of the readable formats."""
    return tuple(ending for name in readable_formats() for ending in FORMATS[name])


def is_image(start):
    """Whether a file that begins with these bytes is an image of a frequent format."""
    return (start.startswith((b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'GIF8'))
            or start[:4] + start[8:12] == b'RIFFWEBP')


def check_size(size):
    """Raises OSError if a file of this many bytes is too large for a photograph."""
    if size > MAX_BYTES:
        raise OSError(f'{size:,} bytes are more than {MAX_BYTES:,}')


@contextlib.contextmanager
def opened(container, name):
    """Opens a file of a Folder or Zip as a Pillow image, for the block."""
    with container.open(name) as file, _open_image(file) as image:
        yield image


def _open_image(file):
    try:
        return Image.open(file, formats=readable_formats())
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        try:
            file.seek(0)
            image = JpegImagePlugin.JpegImageFile(file)
        except SyntaxError:
            raise error from None
        # A progressive JPEG is held in memory as a whole whatever the scale.
        if 'progressive' in image.info:
            raise
        return image


def square(image, image_size, crop=0, reference=0):
    """Returns the middle of a Pillow image as uint8 [image_size, image_size, 3].

    crop: side of the square in source pixels; at most the shorter side, 0 for the shorter side.
    reference: shorter side of the images for which crop is meant; the same part is taken from
    images of another size. 0: crop counts in pixels whatever the size.
    EXIF orientation is applied, colours are converted to sRGB, transparency is put on white,
    16-bit grey is converted to 8 bits.
    """
    shorter = min(image.size)
    side = min(shorter, crop_of(shorter, crop, reference) or shorter)
    image = upright(image)
    side = round(side * min(image.size) / shorter)      # a large JPEG is smaller now
    width, height = image.size
    left, top = (width - side) // 2, (height - side) // 2
    if (width, height) != (side, side):
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(to_rgb(image).resize((image_size, image_size), Image.BILINEAR))


def crop_of(shorter, crop, reference):
    """Returns the crop in pixels of an image with this shorter side, which may be smaller."""
    return round(crop * shorter / reference) if reference else crop


def upright(image):
    """Decodes an image and returns it as its EXIF orientation says, if EXIF can be read.

    A JPEG of more than Pillow's limit of 89 million pixels is decoded at 1/2 or 1/4 of its size.
    """
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        _draft(image)
    image.load()
    if image.format == 'TIFF':          # Pillow has turned it already
        return image
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:           # Pillow raises many types on malformed EXIF
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in tuple(UPRIGHT) else image


def _draft(image):
    """Has a large JPEG decoded at 1/2 or 1/4; raises DecompressionBombError if it stays large.

    A square that is scaled down much more is then within a grey level of the whole image's. 1/8
    takes block means alone, rounded: up to 4 grey levels.
    """
    if image.format == 'JPEG':
        scale = 2 if image.width * image.height <= 4 * Image.MAX_IMAGE_PIXELS else 4
        image.draft(None, [side // scale for side in image.size])
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
            f'{image.width * image.height} pixels are more than {Image.MAX_IMAGE_PIXELS}')


def to_rgb(image):
    """Returns an image as 8-bit sRGB; transparency becomes white."""
    profile = image.info.get('icc_profile')
    if image.mode.startswith('I'):
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray((grey.clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    if image.mode not in MANAGED_MODES:
        image = image.convert('RGB')
    transform = _to_srgb(profile, image.mode)
    if transform:
        return ImageCms.applyTransform(image, transform)
    return image if image.mode == 'RGB' else image.convert('RGB')


@functools.lru_cache(maxsize=16)
def _to_srgb(profile, mode):
    """Returns the transform from an ICC profile's colours to sRGB; None if there is nothing to do.

    A profile that can't be read, or that is not of the image's mode, is ignored.
    """
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if 'srgb' in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile('sRGB'), mode, 'RGB')
    except Exception:           # PyCMSError, OSError and others on malformed profiles
        return None
