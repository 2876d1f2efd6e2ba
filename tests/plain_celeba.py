"""A CelebA of plain pictures, whose labels can be seen in their colours."""
import numpy as np
from PIL import Image


def write(home, names, labels, colours, parts=None):
    """Writes it to home/datasets/celeba.

    labels: bool [n, l], names: those of the l. colours: [n, 3], about which pixels vary. parts: for
    each picture whether it is kept for testing.
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
