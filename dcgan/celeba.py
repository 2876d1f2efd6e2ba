"""CelebA in the form that its authors and Kaggle distribute: the zip, the parts, the labels."""
import collections
import errno
import functools
import glob
import io
import os
import re
import sys
import zipfile

import numpy as np
from PIL import Image

from dcgan.photographs import ENDINGS, FORMATS, DataError, check_size

PARTS = {'train': '0', 'valid': '1', 'test': '2'}      # numbers in list_eval_partition

HELP = """\
{folder} holds no photographs of CelebA. It can't be fetched by a program (its host answers
with quota pages), so get img_align_celeba.zip in a browser:
  from the authors' page, mmlab.ie.cuhk.edu.hk/projects/CelebA.html ("Align&Cropped Images"),
  or as the Kaggle data set jessicali9530/celeba-dataset,
and put the zip itself, or the folder img_align_celeba/ unpacked from it, into {folder}."""


def select_part(folder, names, part):
    """Returns the names that belong to the part `train`, `valid` or `test`.

    The list_eval_partition file in folder assigns them. Without that file all photographs are
    `train`. Photographs without a line in it are `train` too, with a warning. Raises DataError if
    no photograph is in the part.
    """
    parts, path = read_partition(folder)
    unlisted = sum(os.path.basename(name) not in parts for name in names)
    if path and names and unlisted == len(names):
        raise DataError(f'{path}: has no line for any photograph in {folder}, not for '
                        f'{os.path.basename(names[0])}')
    if path and unlisted and part == 'train':
        print(f'{path}: has no line for {unlisted:,} of {len(names):,} photographs, which are '
              'trained on', file=sys.stderr)
    selected = [name for name in names
                if parts.get(os.path.basename(name), PARTS['train']) == PARTS[part]]
    if names and not selected:
        reason = '' if path else ', as no list_eval_partition.txt or .csv is there'
        raise DataError(f'{folder}: none of its {len(names):,} photographs is of the part '
                        f'{part}{reason}')
    return selected


def read_partition(folder):
    """Returns ({file name: number of its part}, path of the file that was read).

    It reads the authors' list_eval_partition.txt or Kaggle's CSV. Without both it returns
    ({}, None).
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


def find_in_zip(folder, unpacked):
    """Returns (names, reader, stamp) of the photographs in the first zip in folder that has any.

    ([], None, None) without such a zip. Raises DataError if a zip is damaged, unless there are
    unpacked photographs to use.
    """
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), '*.[zZ][iI][pP]'))):
        try:
            archive = zipfile.ZipFile(path)
        except Exception as error:      # a damaged directory raises more types than BadZipFile
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            if unpacked:
                continue
            with open(path, 'rb') as f:
                is_page = f.read(512).lstrip().startswith(b'<')
            kind = ("a web page saved as a zip (the host's quota page?)" if is_page
                    else 'no zip archive, or only a part of one')
            raise DataError(f'{path} is {kind}; fetch it again') from None
        names = sorted(name for name in archive.namelist() if name.lower().endswith(ENDINGS)
                       and not os.path.basename(name).startswith('.'))
        if names:
            return (names, *(functools.partial(function, archive)
                             for function in (_open_member, _stamp_member)))
    return [], None, None


def _open_member(archive, name):
    size = archive.getinfo(name).file_size
    check_size(size)
    with archive.open(name) as f:       # archive.read would inflate bytes beyond `size` too
        return Image.open(io.BytesIO(f.read(size)), formats=FORMATS)


def _stamp_member(archive, name):
    return archive.getinfo(name).file_size, archive.getinfo(name).CRC


def read_attributes(folder, names):
    """Returns (names of the 40 labels, int8 [n, 40] of -1 and 1) for the photographs in names.

    It reads the authors' list_attr_celeba.txt or Kaggle's CSV in folder. Raises DataError if there
    is neither, if a line is malformed, or if a photograph has no line.
    """
    paths = [os.path.join(folder, 'list_attr_celeba' + ending) for ending in ('.txt', '.csv')]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise DataError(f'no labels of CelebA: neither {" nor ".join(paths)} is there')
    rows_of = collections.defaultdict(list)     # two folders may hold photographs of the same name
    for row, name in enumerate(names):
        rows_of[os.path.basename(name)].append(row)
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = ((number, line.replace(',', ' ').split()) for number, line in enumerate(f, 1))
        # The text file begins with the number of photographs; the CSV's heading has `image_id` too.
        heading = next((fields for _, fields in lines if len(fields) > 1), [])
        label_names = heading[heading[:1] == ['image_id']:]
        labels = np.zeros([len(names), len(label_names)], np.int8)
        for number, fields in lines:
            name, values = fields[:1], fields[1:]
            if name and (len(values) != len(label_names) or not set(values) <= {'1', '-1'}):
                raise DataError(f'{path}, line {number}: should be a file name and '
                                f'{len(label_names)} times 1 or -1')
            if name and name[0] in rows_of:
                labels[rows_of[name[0]]] = values
    missing = np.flatnonzero((labels == 0).any(axis=1)) if label_names else range(len(names))
    if len(missing):
        raise DataError(f'{path}: has no line for {names[missing[0]]}')
    return label_names, labels
