"""Augmentation of a batch of photographs, vectorised: uint8 [n, h, w, 3] in, a new one out.

What is done to photographs alone G learns to draw; see diffaugment.py for what it does not.
"""
import numpy as np

# From RGB to brightness and two differences of colour (YIQ, NTSC 1953): there saturation is the
# length of the latter two, hue their angle.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def flip(images, rng):
    """Mirrors each image left to right with probability 1/2."""
    mirrored = rng.random_sample(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop(images, rng, pixels):
    """Shifts each image by up to that many pixels each way; its edge fills what is laid bare."""
    count, height, width, _ = images.shape
    down, right = rng.randint(-pixels, pixels + 1, (2, count, 1))
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def rotate(images, rng, degrees):
    """Turns each image by up to that many degrees either way, bilinear; its edge fills the rest."""
    count, height, width, _ = images.shape
    angle = np.radians(rng.uniform(-degrees, degrees, (count, 1, 1)))
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    from_y = np.cos(angle) * y[:, None] - np.sin(angle) * x + (height - 1) / 2
    from_x = np.sin(angle) * y[:, None] + np.cos(angle) * x + (width - 1) / 2
    from_y, from_x = np.clip(from_y, 0, height - 1), np.clip(from_x, 0, width - 1)
    top = np.minimum(from_y.astype(int), height - 2)
    left = np.minimum(from_x.astype(int), width - 2)
    v, h = (part.astype(np.float32) for part in (from_y - top, from_x - left))
    place = (np.arange(count)[:, None, None] * height + top) * width + left
    turned = np.empty_like(images)
    for channel in range(3):            # whole planes: numpy is slow along an axis of three
        plane = images[..., channel].astype(np.float32).ravel()
        upper = plane[place] * (1 - h) + plane[place + 1] * h
        lower = plane[place + width] * (1 - h) + plane[place + width + 1] * h
        turned[..., channel] = np.rint(upper * (1 - v) + lower * v)
    return turned


def color(images, rng, strength):
    """Brightness ± strength of the range, contrast and saturation times 1 ± strength, hue turned.

    Hue by up to strength · 90 degrees either way.
    """
    count = len(images)
    brightness, contrast, saturation, hue = rng.uniform(-strength, strength, (4, count))
    angle = hue * np.pi / 2
    turn = np.zeros([count, 3, 3])
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = (1 + saturation) * np.cos(angle)
    turn[:, 2, 1] = (1 + saturation) * np.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = (1 + contrast)[:, None, None] * (np.linalg.inv(YIQ) @ turn @ YIQ)
    pixels = images.reshape(count, -1, 3).astype(np.float32)
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    pixels = (pixels - mean) @ matrix.swapaxes(1, 2).astype(np.float32) + mean
    pixels += (255 * brightness[:, None, None]).astype(np.float32)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8).reshape(images.shape)


AUGMENTATIONS = {'flip': flip, 'crop': crop, 'rotate': rotate, 'color': color}


def apply(names, images, rng, strengths):
    """Each augmentation of names in turn, by its strength where strengths has one."""
    for name in names:
        images = AUGMENTATIONS[name](images, rng, *([strengths[name]] if name in strengths else []))
    return images
