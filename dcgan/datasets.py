"""The data sets of --dataset: `lfw`, `celeba`, `toy` (drawn faces) or any folder of images."""
import collections
import functools
import hashlib
import json
import os
import re

from dcgan import celeba, cli, photographs, toy
from dcgan.photographs import DataError

DATASETS = ('lfw', 'celeba', 'toy')
CROPS = {'lfw': 150, 'celeba': 178}      # source pixels; in LFW the face then fills the frame

# folder: where the photographs are. names: list of str. read: name -> Pillow image.
# identity: values that the cache depends on. crop: default of --crop, in source pixels.
Source = collections.namedtuple('Source', 'dataset name folder names read identity crop')


def find(dataset, data_dir='datasets', part='train'):
    """Returns the Source of `lfw`, `celeba`, `toy` or a folder.

    part: `train`, `valid` or `test` of CelebA, see celeba.select_part; the other sets only have
    `train`. Raises DataError if there is no photograph; the message says what to do.
    """
    if part != 'train' and dataset != 'celeba':
        raise DataError(f'--dataset {dataset}: has no part {part}')
    if dataset == 'toy':
        names = [f'face {number:04d}' for number in range(toy.COUNT)]
        return Source(dataset, dataset, 'toy', names, toy.draw, ['toy'], 0)
    is_known = dataset in DATASETS
    folder = os.path.join(data_dir, dataset) if is_known else dataset
    if not is_known and not os.path.isdir(folder):
        raise DataError(f'--dataset {dataset}: neither {", ".join(DATASETS)} nor a folder')
    name = dataset if is_known else os.path.basename(os.path.abspath(folder)) or 'images'
    names = photographs.walk(folder)
    read, stamp = (functools.partial(function, folder)
                   for function in (photographs.open_file, photographs.stamp_file))
    if dataset == 'celeba':
        # The larger set counts: a picture beside the zip, or half of it unpacked, must not hide it.
        names, read, stamp = max([(names, read, stamp), celeba.find_in_zip(folder, bool(names))],
                                 key=lambda candidate: len(candidate[0]))
        names = celeba.select_part(folder, names, part)
    if not names:
        raise DataError(
            celeba.HELP.format(folder=folder) if dataset == 'celeba' else
            f'{folder}: no photographs there; python download_lfw.py fetches them'
            if dataset == 'lfw' else
            f'{folder}: no photographs ({", ".join(photographs.ENDINGS)}) in this folder')
    if part != 'train':
        name = f'{name}_{part}'
    return Source(dataset, re.sub(r'[^\w.]+', '_', name), folder, names, read,
                  [os.path.abspath(folder), _identity(names, stamp)], CROPS.get(dataset, 0))


def _identity(names, stamp):
    """Returns a digest of names and stamps, which themselves take 60 MB for 200,000 files."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, *stamp(name)]).encode())
    return digest.hexdigest()


def find_labels(source, attributes):
    """Returns labels, int8 [n, l] in the order of attributes; None without attributes."""
    if not attributes:
        return None
    label_names, labels = celeba.read_attributes(source.folder, source.names)
    for name in attributes:
        cli.check_name('--attributes', name, label_names)
    return labels[:, [label_names.index(name) for name in attributes]]
