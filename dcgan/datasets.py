"""The data sets of --dataset: `lfw`, `celeba`, `toy` (drawn faces) or any folder of images."""
import collections
import functools
import hashlib
import json
import os
import re

import numpy as np

from dcgan import celeba, cli, lists, photographs, toy
from dcgan.containers import Folder, Zip, count_endings, ending_of, find_images
from dcgan.photographs import DataError

DATASETS = ('lfw', 'celeba', 'toy')
CROPS = {'lfw': 150, 'celeba': 178}      # source pixels; in LFW the face then fills the frame
# The shorter side of the photographs for which CROPS are meant, and their number.
REFERENCES = {'lfw': 250, 'celeba': 178}
COUNTS = {'lfw': 13233, 'celeba': celeba.COUNT}
LABEL_LISTS = ('list_attr_celeba', 'labels')
# Folders of data sets that hold no faces but maps of them.
MAPS = re.compile(r'(.*[-_ ])?(mask|anno|annotation|segmentation|parsing|depth|thumb(nail)?)s?'
                  r'([-_ ].*)?', re.I)

# folder: where the photographs are. names: list of str. read: name -> Pillow image, in a context.
# identity: values that the cache depends on. crop: default of --crop, in source pixels.
# reference: see photographs.square; 0 for a set whose photographs have any size.
# containers: the Folder and Zip that may hold lists. notes: lines for the user.
Source = collections.namedtuple(
    'Source', 'dataset name folder names read identity crop reference containers notes')


def find(dataset, data_dir='datasets', part='train'):
    """Returns the Source of `lfw`, `celeba`, `toy` or a folder.

    part: `train`, `valid` or `test` of CelebA, see celeba.select_part; the other sets only have
    `train`. Raises DataError if there is no photograph; the message says what to do.
    """
    if part != 'train' and dataset != 'celeba':
        raise DataError(f'--dataset {dataset}: has no part {part}')
    if dataset == 'toy':
        names = [f'face {number:04d}' for number in range(toy.COUNT)]
        return Source(dataset, dataset, 'toy', names, toy.draw, ['toy'], 0, 0, [], [])
    is_known = dataset in DATASETS
    folder = os.path.join(data_dir, dataset) if is_known else dataset
    if not is_known and not os.path.isdir(folder):
        raise DataError(f'--dataset {dataset}: neither {", ".join(DATASETS)} nor a folder')
    name = dataset if is_known else os.path.basename(os.path.abspath(folder)) or 'images'
    container, names, containers, notes = choose_container(folder, dataset)
    if len(names) != COUNTS.get(dataset, len(names)):
        notes.append(f'{folder} holds {len(names):,} of the {COUNTS[dataset]:,} photographs')
    if dataset == 'celeba':
        names, more = celeba.select_part(containers, folder, names, part)
        notes += more
    if part != 'train':
        name = f'{name}_{part}'
    return Source(dataset, re.sub(r'[^\w.]+', '_', name), folder, names,
                  functools.partial(photographs.opened, container),
                  [os.path.abspath(folder), _identity(names, container.stamp)],
                  CROPS.get(dataset, 0), REFERENCES.get(dataset, 0), containers, notes)


def choose_container(folder, dataset):
    """Returns (container of the photographs, their names, [containers], [lines for the user]).

    The photographs lie below the folder or in a zip there. Of CelebA the larger set counts: a
    picture beside the zip, or half of it unpacked, must not hide it. Of other sets zips count only
    where no photograph is unpacked.
    """
    tree = Folder(folder)
    images, others = find_images(tree)
    zips = [name for name in others if name.lower().endswith('.zip')]
    candidates, damaged = [(tree, images, others)], []
    if images and dataset != 'celeba':
        zips = []
    for name in zips:
        try:
            archive = Zip(os.path.join(folder, name))
        except DataError as error:
            damaged.append(error)
            continue
        candidates.append((archive, *find_images(archive)))
    container, images, others = max(candidates, key=lambda candidate: len(candidate[1]))
    if not images:
        raise damaged[0] if damaged else DataError(_reason_for_none(folder, dataset, candidates))
    notes = [f'found {count_endings(images)} in {container.path}', *map(str, damaged)]
    notes += [f'{other.path}: not used, has {len(found):,} photographs'
              for other, found, _ in candidates[1:] if other is not container]
    if container is not tree and candidates[0][1]:
        notes.append(f'{folder}: {len(candidates[0][1]):,} photographs outside of the zip are not '
                     'used')
    for place, found, rest in candidates:
        if place in (tree, container):
            notes += _left_out(place, found, [name for name in rest if name not in zips])
    return container, images, list(dict.fromkeys([tree, container])), notes


def _reason_for_none(folder, dataset, candidates):
    """Returns the sentence for a folder without photographs."""
    for archive, _, others in candidates[1:]:
        for name in others:
            if name.lower().endswith('.zip'):
                return (f'{archive.path} holds no photographs but {name}: unpack it into {folder}')
    if dataset == 'celeba':
        return celeba.HELP.format(folder=folder)
    if dataset == 'lfw':
        return f'{folder}: no photographs there; python download_lfw.py fetches them'
    others = candidates[0][2]
    return (f'{folder}: no photographs ({", ".join(photographs.readable_endings())}) in this folder'
            + (f', only {count_endings(others)}' if others else ''))


def _left_out(container, images, others):
    """Returns lines about the files that are not used, and about images that may be no faces."""
    notes = [f'left out: {container.path}/{folder}, {reason}'
             for folder, reason in container.excluded.items()]
    unused = [name for name in others if ending_of(name) not in lists.ENDINGS]
    if unused:
        notes.append(f'left out: {count_endings(unused)}')
    maps = collections.Counter(
        os.path.dirname(name) for name in images
        if any(MAPS.fullmatch(folder) for folder in name.split('/')[:-1]))
    for folder, count in sorted(maps.items())[:3]:
        notes.append(f'{container.path}/{folder}: are these {count:,} images photographs of faces? '
                     'If not, move the folder away')
    return notes


def _identity(names, stamp):
    """Returns a digest of names and stamps, which themselves take 60 MB for 200,000 files."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, *stamp(name)]).encode())
    return digest.hexdigest()


# labels

def find_labels(source, attributes):
    """Returns labels, int8 [n, l] of -1 and 1 in the order of attributes; None without attributes.

    They come from a list of labels; without a list from folders' names: a photograph has the label
    NAME if it lies in a folder NAME. Raises DataError if a photograph has no line.
    """
    if not attributes:
        return None
    known = label_names(source)
    for name in attributes:
        cli.check_name('--attributes', name, known)
    return read_labels(source, source.names, attributes)


def label_names(source):
    """Returns the names of the labels of a Source; DataError if it has none."""
    found = lists.find(source.containers, LABEL_LISTS)
    if found:
        return lists.read_heading(found)
    if source.dataset == 'celeba':
        raise DataError(f'no labels of CelebA: neither list_attr_celeba.txt nor .csv is in '
                        f'{source.folder}')
    names = sorted({folder for name in source.names for folder in name.split('/')[:-1]})
    if not names:
        raise DataError(f'{source.folder}: no labels: neither labels.csv nor folders whose names '
                        'are labels')
    return names


def labels_origin(source):
    """Returns where the labels of a Source come from: the path of a list, or its folders."""
    found = lists.find(source.containers, LABEL_LISTS)
    return lists.path_of(found) if found else f'names of folders in {source.folder}'


def read_labels(source, names, attributes):
    """Returns labels, int8 [n, l] of -1 and 1, of the photographs with these names."""
    found = lists.find(source.containers, LABEL_LISTS)
    if not found:
        folders = [set(name.split('/')[:-1]) for name in names]
        return np.array([[1 if attribute in parts else -1 for attribute in attributes]
                         for parts in folders], np.int8)
    row_of, values = lists.read_labels(found, attributes)
    rows = lists.lookup(row_of, names)
    if None in rows:
        raise DataError(f'{lists.path_of(found)}: has no line for {names[rows.index(None)]}')
    return values[rows]
