"""Vectorised augmentation of a batch of real images: uint8 [n, h, w, 3] in, a new batch out.

G learns to reproduce augmentations that are applied only to real images. diffaugment.py has those
that it does not reproduce.
"""
import numpy as np

# From RGB to brightness and two colour differences (YIQ, NTSC 1953). The vector of the two
# differences has the saturation as its length and the hue as its angle.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def flip(images, rng):
    """Mirrors each image left to right with probability 1/2."""
    mirrored = rng.random_sample(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop(images, rng, pixels):
    """Shifts each image by up to `pixels` in each direction; its edge fills the empty border."""
    count, height, width, _ = images.shape
    down, right = rng.randint(-pixels, pixels + 1, (2, count, 1))
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def rotate(images, rng, degrees):
    """Rotates each image by up to ±degrees, bilinear; its edge fills the empty corners."""
    count, height, width, _ = images.shape
    angle = np.radians(rng.uniform(-degrees, degrees, (count, 1, 1)))
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    from_y = np.cos(angle) * y[:, None] - np.sin(angle) * x + (height - 1) / 2
    from_x = np.sin(angle) * y[:, None] + np.cos(angle) * x + (width - 1) / 2
    from_y, from_x = np.clip(from_y, 0, height - 1), np.clip(from_x, 0, width - 1)
    top = np.minimum(from_y.astype(int), height - 2)
    left = np.minimum(from_x.astype(int), width - 2)
    v, h = (part.astype(np.float32) for part in (from_y - top, from_x - left))
    index = (np.arange(count)[:, None, None] * height + top) * width + left
    rotated = np.empty_like(images)
    for channel in range(3):            # numpy is slow along an axis of length 3
        plane = images[..., channel].astype(np.float32).ravel()
        upper = plane[index] * (1 - h) + plane[index + 1] * h
        lower = plane[index + width] * (1 - h) + plane[index + width + 1] * h
        rotated[..., channel] = np.rint(upper * (1 - v) + lower * v)
    return rotated


def color(images, rng, strength):
    """Changes brightness, contrast, saturation and hue of each image at random.

    Brightness changes by up to ±strength of the range of values. Contrast and saturation are
    multiplied by 1 ± strength. Hue turns by up to ±strength · 90 degrees.
    """
    count = len(images)
    brightness, contrast, saturation, hue = rng.uniform(-strength, strength, (4, count))
    angle = hue * np.pi / 2
    transform = np.zeros([count, 3, 3])
    transform[:, 0, 0] = 1
    transform[:, 1, 1] = transform[:, 2, 2] = (1 + saturation) * np.cos(angle)
    transform[:, 2, 1] = (1 + saturation) * np.sin(angle)
    transform[:, 1, 2] = -transform[:, 2, 1]
    matrix = (1 + contrast)[:, None, None] * (np.linalg.inv(YIQ) @ transform @ YIQ)
    pixels = images.reshape(count, -1, 3).astype(np.float32)
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    pixels = (pixels - mean) @ matrix.swapaxes(1, 2).astype(np.float32) + mean
    pixels += (255 * brightness[:, None, None]).astype(np.float32)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8).reshape(images.shape)


AUGMENTATIONS = {'flip': flip, 'crop': crop, 'rotate': rotate, 'color': color}


def apply(names, images, rng, strengths):
    """Applies each augmentation of names in turn, with its strength if strengths has one."""
    for name in names:
        images = AUGMENTATIONS[name](images, rng, *([strengths[name]] if name in strengths else []))
    return images
