"""Augmentation of a batch of photographs, vectorised."""
import numpy as np


def flip(images, rng):
    """Mirrors each image left to right with probability 1/2; uint8 [n, h, w, 3], returns a new one.
    """
    mirrored = rng.random_sample(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


AUGMENTATIONS = {'flip': flip}


def apply(names, images, rng):
    """Each augmentation of names in turn; images: uint8 [n, h, w, 3]."""
    for name in names:
        images = AUGMENTATIONS[name](images, rng)
    return images
