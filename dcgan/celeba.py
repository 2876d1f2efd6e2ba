"""CelebA's parts: which photographs are for training, and how many there should be."""
import os

from dcgan import lists
from dcgan.photographs import DataError

PARTS = dict(zip(('train', 'valid', 'test'), lists.PARTS))
COUNT = 202599

HELP = """\
{folder} holds no photographs of CelebA. It can't be fetched by a program (its host answers
with quota pages), so get img_align_celeba.zip in a browser:
  from the authors' page, mmlab.ie.cuhk.edu.hk/projects/CelebA.html ("Align&Cropped Images"),
  or as the Kaggle data set jessicali9530/celeba-dataset,
and put the zip itself, or the folder img_align_celeba/ unpacked from it, into {folder}."""


def select_part(containers, folder, names, part):
    """Returns (names that belong to the part `train`, `valid` or `test`, [lines for the user]).

    A list_eval_partition file in one of the containers assigns them. Without that file all
    photographs are `train`. Photographs without a line in it are `train` too. Raises DataError if
    no photograph is in the part.
    """
    found = lists.find(containers, ['list_eval_partition'])
    if not found:
        if part != 'train':
            raise DataError(f'{folder}: none of its {len(names):,} photographs is of the part '
                            f'{part}, as no list_eval_partition.txt or .csv is there')
        return names, ['no list_eval_partition.txt or .csv: all photographs are trained on, those '
                       'of the test part too']
    path, parts = lists.path_of(found), lists.read_parts(found)
    part_of = lists.lookup(parts, names)
    unlisted = part_of.count(None)
    if unlisted == len(names):
        raise DataError(f'{path}: has no line for any photograph in {folder}, not for '
                        f'{os.path.basename(names[0])}')
    selected = [name for name, number in zip(names, part_of)
                if (number or PARTS['train']) == PARTS[part]]
    if not selected:
        raise DataError(f'{folder}: none of its {len(names):,} photographs is of the part {part}')
    note = (f'{path}: {len(parts):,} lines, for {len(names) - unlisted:,} of {len(names):,} '
            f'photographs; {len(selected):,} are of the part {part}')
    return selected, [note + ', those without a line too' if unlisted and part == 'train' else note]
