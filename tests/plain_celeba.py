"""A small CelebA of plain images, whose labels are visible as colours."""
import numpy as np
from PIL import Image


def write(home, names, labels, colours, parts=None):
    """Writes the images and lists to home/datasets/celeba.

    names: of the l labels. labels: bool [n, l]. colours: [n, 3], the mean colour of each image.
    parts: for each image its number in list_eval_partition.txt, 0 for training.
    """
    folder = home / 'datasets' / 'celeba'
    (folder / 'img_align_celeba').mkdir(parents=True)
    rng = np.random.RandomState(0)
    files = [f'{number:06d}.jpg' for number in range(len(labels))]
    for file, colour in zip(files, colours):
        pixels = np.clip(rng.normal(colour, 15, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(str(folder / 'img_align_celeba' / file))
    lines = [f'{file} ' + ' '.join('1' if value else '-1' for value in row)
             for file, row in zip(files, labels)]
    (folder / 'list_attr_celeba.txt').write_text(
        '\n'.join([str(len(files)), ' '.join(names), *lines, '']))
    if parts is not None:
        (folder / 'list_eval_partition.txt').write_text(
            ''.join(f'{file} {int(part)}\n' for file, part in zip(files, parts)))
