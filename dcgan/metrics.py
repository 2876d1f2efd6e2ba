"""Metrics of generated images: arrays in, numbers out, no TensorFlow.

Computed from images: the sliced Wasserstein distance, MS-SSIM between samples, and whether samples
are copies of training images. Computed from a network's features: FID, KID, precision and recall.
Images are uint8 [n, side, side, 3], features float [n, d]. Arrays that are too short or do not
match raise ValueError. Apart from images and features, memory grows by at most 12 kB per image.
"""
import concurrent.futures
import os

import numpy as np
from scipy import linalg, ndimage

# sliced Wasserstein distance (Karras et al. 2018, section 5), as in the authors' program
SMALLEST_LEVEL = 16
PATCH = 7                               # side in pixels
PATCHES = 128                           # per image and level
DIRECTIONS = 4 * 128
BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
# Projections have a standard deviation of about 1. Bins of width 1/128 from -16 to 16 give the
# distance within 0.1 % of that from sorting. Their memory does not grow with the number of images.
BINS_A_UNIT = 128
BINS = 2 * 16 * BINS_A_UNIT

# MS-SSIM (Wang et al. 2003)
WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
WINDOW, WINDOW_DEVIATION = 11, 1.5      # pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

AT_ONCE = 128                           # images processed at once
DISTANCES_AT_ONCE = 2 ** 22             # 16 MiB of float32


# sliced Wasserstein distance

def swd_profile(images, seed=0):
    """Returns the histograms that swd compares, {side of a level: int32 [DIRECTIONS, BINS]}.

    Patches of a Laplacian pyramid's levels are projected on random directions. Before that each
    channel is scaled to mean 0 and standard deviation 1 over the set. The seed fixes the positions
    of the patches and the directions; it must be the same for both sets.
    """
    _check_images(images, 1)
    sides = _levels(images.shape[1])
    rng = np.random.RandomState(seed)
    positions = [rng.randint(0, side - PATCH + 1, (2, len(images), PATCHES)) for side in sides]
    directions = rng.randn(DIRECTIONS, PATCH * PATCH * 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    # Two passes over the images are cheaper than keeping the patches, 75 kB per image and level.
    def moments(start):
        return np.array([[x.sum(axis=0, dtype=np.float64) for x in (patches, patches ** 2)]
                         for patches in _patches(images, positions, start)])

    # over all pixels of all patches: [level, sum and sum of squares, channel]
    totals = _sum_of(moments, len(images)).reshape(len(sides), 2, PATCH * PATCH, 3).sum(axis=2)
    means, squares = (totals / (len(images) * PATCHES * PATCH * PATCH)).swapaxes(0, 1)
    deviations = np.sqrt(np.maximum(squares - means ** 2, 1e-12))

    def histograms(start):
        counts = np.empty((len(sides), DIRECTIONS, BINS), np.int32)
        for level, patches in enumerate(_patches(images, positions, start)):
            mean, deviation = (np.tile(x[level], PATCH * PATCH) for x in (means, deviations))
            kernel = directions * BINS_A_UNIT / deviation
            bins = kernel.astype(np.float32) @ patches.T                    # [direction, patch]
            bins += (BINS / 2 - kernel @ mean).astype(np.float32)[:, None]
            bins = np.clip(bins, 0, BINS - 1, out=bins).astype(np.intp)
            counts[level] = [np.bincount(row, minlength=BINS) for row in bins]
        return counts

    return dict(zip(sides, _sum_of(histograms, len(images))))


def _sum_of(function, count):
    """Returns the sum of function(start) over portions of count images, on a few cores."""
    # Threads suffice: the slow parts of numpy and scipy release the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count())) as pool:
        return sum(pool.map(function, range(0, count, AT_ONCE)))


def swd(profile_a, profile_b):
    """Returns {side of a level: distance · 10³} from the profiles of two sets of equal size.

    The mean difference of sorted projections is the area between their distribution functions.
    """
    distances = {}
    for side, a in profile_a.items():
        difference = np.cumsum(a - profile_b[side], axis=1)
        if difference[:, -1].any():
            raise ValueError('the sets must be of equally many images')
        distances[side] = float(1e3 * np.abs(difference).sum(axis=1).mean()
                                / a[0].sum() / BINS_A_UNIT)
    return distances


def _levels(side):
    sides = [side]
    while sides[-1] % 2 == 0 and sides[-1] // 2 >= SMALLEST_LEVEL:
        sides.append(sides[-1] // 2)
    return sides


def _patches(images, positions, start):
    """Yields each level's patches of the images from start on, float32 [n, PATCH · PATCH · 3]."""
    pyramid = laplacian_pyramid(images[start:start + AT_ONCE], len(positions))
    for pixels, (y, x) in zip(pyramid, positions):
        count, side = pixels.shape[:2]
        y, x = y[start:start + count], x[start:start + count]
        corner = (np.arange(count)[:, None] * side + y) * side + x
        offsets = (np.arange(PATCH)[:, None] * side + np.arange(PATCH)).ravel()
        pixels = pixels.reshape(-1, 3)[corner.reshape(-1, 1) + offsets]
        yield pixels.reshape(-1, PATCH * PATCH * 3)


def laplacian_pyramid(images, levels):
    """Returns the levels of a Laplacian pyramid, a list of float32 [n, side / 2^level, …, 3].

    A level is the difference between an image and the enlarged next smaller one; the last level is
    the smallest image itself. The filter is the 5-tap binomial one, mirrored at the edge (Burt and
    Adelson 1983, OpenCV's pyrDown).
    """
    pyramid = [images.astype(np.float32)]
    for _ in range(1, levels):
        image = pyramid[-1]
        smaller = _blur(image, BINOMIAL)[:, ::2, ::2]
        enlarged = np.zeros_like(image)
        enlarged[:, ::2, ::2] = smaller
        pyramid[-1] = image - _blur(enlarged, 2 * BINOMIAL)
        pyramid.append(smaller)
    return pyramid


def _blur(images, taps):
    rows = ndimage.correlate1d(images, taps, axis=1, mode='mirror')
    return ndimage.correlate1d(rows, taps, axis=2, mode='mirror')


# MS-SSIM

def ms_ssim(images_a, images_b):
    """Returns the mean MS-SSIM of images_a[i] and images_b[i], in [0, 1] (Wang et al. 2003).

    Between samples it measures how alike they are: lower is more varied (Odena et al. 2017). If a
    level is smaller than the window of 11 pixels, the window gets the level's side and a deviation
    in proportion, as in the program of Karras et al. 2018. The side must be divisible by 16.
    """
    _check_images(images_a, 1)
    if images_a.shape != images_b.shape:
        raise ValueError(f'pairs of images are needed, not {images_a.shape} and {images_b.shape}')
    if images_a.shape[1] % 2 ** (len(WEIGHTS) - 1):
        raise ValueError(f'images of {images_a.shape[1]} pixels a side can\'t be halved '
                         f'{len(WEIGHTS) - 1} times')
    def scores(start):
        a, b = (images[start:start + AT_ONCE].transpose(0, 3, 1, 2).astype(np.float32, order='C')
                for images in (images_a, images_b))                 # [n, 3, side, side]
        contrasts = []
        for _ in WEIGHTS:
            ssim, contrast = _ssim(a, b)
            contrasts.append(contrast)
            a, b = _halved(a), _halved(b)
        factors = np.maximum(contrasts[:-1] + [ssim], 0)            # [level, n]
        return np.prod(factors ** WEIGHTS[:, None], axis=0).sum()

    return float(_sum_of(scores, len(images_a)) / len(images_a))


def _ssim(a, b):
    """Returns the SSIM of pairs [n, 3, side, side] and its contrast-structure part, both [n]."""
    side = a.shape[-1]
    size = min(WINDOW, side)
    deviation = WINDOW_DEVIATION * size / WINDOW
    taps = np.exp(-(np.arange(size) - (size - 1) / 2) ** 2 / (2 * deviation ** 2))
    window = np.zeros((side - size + 1, side), np.float32)
    for row in range(len(window)):
        window[row, row:row + size] = taps / taps.sum()

    def mean(x):
        return window @ x @ window.T

    mean_a, mean_b = mean(a), mean(b)
    covariance = mean(a * b) - mean_a * mean_b
    variances = mean(a * a) - mean_a ** 2 + mean(b * b) - mean_b ** 2
    contrast = (2 * covariance + C2) / (variances + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a ** 2 + mean_b ** 2 + C1)
    return (luminance * contrast).mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))


def _halved(images):
    return (images[..., ::2, ::2] + images[..., 1::2, ::2]
            + images[..., ::2, 1::2] + images[..., 1::2, 1::2]) / 4


# FID, KID, precision and recall

def statistics(features):
    """Returns (mean [d], covariance [d, d]) of features, float64."""
    _check_features(features, 2)
    features = np.asarray(features, np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False).reshape(2 * features.shape[1:])


def fid(statistics_a, statistics_b):
    """Returns the Fréchet distance of two normal distributions (Heusel et al. 2017).

    Each is a tuple (mean, covariance).
    """
    (mean_a, cov_a), (mean_b, cov_b) = statistics_a, statistics_b
    # The trace of (A B)^½ is that of (A^½ B A^½)^½, which is symmetric: no imaginary parts.
    values, vectors = linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    values = linalg.eigvalsh(root_a @ cov_b @ root_a)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b)
                 - 2 * np.sqrt(np.maximum(values, 0)).sum())


def kid(features_a, features_b, subsets=100, size=1000, seed=0):
    """Returns (mean, standard deviation) of the squared MMD over random subsets.

    The source is Bińkowski et al. 2018. The kernel is (x · y / d + 1)³. The estimate is unbiased:
    for equal distributions it is about 0 and can be negative. Both sets must hold at least size
    features. The subsets are drawn as in torch-fidelity.
    """
    _check_features(features_a, size)
    _check_features(features_b, size, like=features_a)
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a, b = (features[rng.choice(len(features), size, replace=False)]
                for features in (features_a, features_b))
        within = sum(kernel.sum(dtype=np.float64) - np.trace(kernel, dtype=np.float64)
                     for kernel in (_cubic(a, a), _cubic(b, b)))
        values.append(within / (size * (size - 1)) - 2 * _cubic(a, b).mean(dtype=np.float64))
    return float(np.mean(values)), float(np.std(values))


def _cubic(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def precision_recall(real, fake, k=3):
    """Returns (precision, recall) of fake features, in [0, 1] (Kynkäänniemi et al. 2019).

    Each real feature has a radius, its distance to its k-th nearest real one. Precision is the
    share of fake features that lie within the radius of some real one. Recall is the same with
    real and fake exchanged.
    """
    _check_features(real, k + 1)
    _check_features(fake, k + 1, like=real)
    return _share_within(fake, real, k), _share_within(real, fake, k)


def _share_within(features, others, k):
    # Index 0 is the feature itself, so index k is its k-th nearest neighbour.
    radii = np.concatenate([np.partition(rows, k, axis=1)[:, k]
                            for _, rows in _squared_distances(others, others)])
    return float(np.mean(np.concatenate([(rows <= radii).any(axis=1)
                                         for _, rows in _squared_distances(features, others)])))


def _squared_distances(a, b):
    """Yields (first, squared distances of a[first:first + rows] to b, float32 [rows, len(b)])."""
    b = np.asarray(b, np.float32).reshape(len(b), -1)
    centre = b.mean(axis=0)             # near 0 the squares lose the fewest digits
    b = b - centre
    squares = np.einsum('nd,nd->n', b, b)
    rows = max(1, DISTANCES_AT_ONCE // len(b))
    for first in range(0, len(a), rows):
        part = np.asarray(a[first:first + rows], np.float32).reshape(-1, b.shape[1]) - centre
        distances = squares - 2 * (part @ b.T) + np.einsum('nd,nd->n', part, part)[:, None]
        yield first, np.maximum(distances, 0, out=distances)


# copies of training images

def thumbnails(images, side=16):
    """Returns means of square blocks, uint8 [n, side, side, 3], for the search for copies."""
    block = images.shape[1] // side
    if block * side != images.shape[1]:
        raise ValueError(f'images of {images.shape[1]} pixels a side are no multiple of {side}')
    small = np.empty((len(images), side, side, 3), np.uint8)
    for start in range(0, len(images), AT_ONCE):
        blocks = images[start:start + AT_ONCE].reshape(-1, side, block, side, block, 3)
        small[start:start + AT_ONCE] = np.rint(blocks.mean(axis=(2, 4)))
    return small


def nearest(samples, real, count=1):
    """Returns (distances, numbers), both [n, count]: each sample's nearest real images.

    The nearest comes first. Distances are Euclidean, of thumbnails or of features. Thumbnails are
    also compared mirrored, as training shows them. `real` may be a memory map of any length.
    """
    if count > len(real):
        raise ValueError(f'{len(real)} photographs are fewer than {count}')
    total, with_mirrored = len(samples), samples
    if samples.ndim == 4:
        with_mirrored = np.concatenate([samples, samples[:, :, ::-1]])
    distances, numbers = np.empty((total, 0), np.float32), np.empty((total, 0), int)
    for first, rows in _squared_distances(real, with_mirrored):
        rows = np.minimum(rows[:, :total], rows[:, -total:])
        distances = np.hstack([distances, rows.T])
        new = np.broadcast_to(np.arange(first, first + len(rows)), rows.T.shape)
        numbers = np.hstack([numbers, new])
        keep = np.argpartition(distances, min(count, distances.shape[1]) - 1, axis=1)[:, :count]
        distances = np.take_along_axis(distances, keep, axis=1)
        numbers = np.take_along_axis(numbers, keep, axis=1)
    order = np.argsort(distances, axis=1, kind='stable')
    return (np.sqrt(np.take_along_axis(distances, order, axis=1)),
            np.take_along_axis(numbers, order, axis=1))


def copied_share(samples, training, held_out):
    """Returns (estimated share of samples that are copies of training images, its deviation).

    Take n training and m held-out images. If G memorises nothing, a sample's nearest image is a
    training image with probability n / (n + m), however smooth the samples are. If each sample is
    a copy, this share is 1. The estimate says how far the share has risen from n / (n + m) to 1;
    it is at most 1. (Distances between real images are no yardstick, because a sample lies nearer
    to all real images than these lie to each other.)

    The deviation is the standard deviation of the estimate if G memorises nothing and chance alone
    decides which images are for training: √(n / m · Σ h²), where h is the share of samples that
    have one particular image as the nearest. Few images are the nearest of many smooth samples.
    """
    n, m = len(training), len(held_out)
    (to_training, training_number), (to_held_out, held_out_number) = (
        nearest(samples, images) for images in (training, held_out))
    share = np.mean(to_training < to_held_out) + np.mean(to_training == to_held_out) / 2
    _, counts = np.unique(np.where(to_training < to_held_out, training_number,
                                   n + held_out_number), return_counts=True)
    chance = n / (n + m)
    return (float((share - chance) / (1 - chance)),
            float(np.sqrt(n / m * np.sum(np.square(counts / len(samples))))))


# checks of the arguments

def _check_images(images, at_least):
    if len(images.shape) != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f'images must be [n, side, side, 3], not {list(images.shape)}')
    if len(images) < at_least:
        raise ValueError(f'{len(images)} images are fewer than {at_least}')


def _check_features(features, at_least, like=None):
    if features.ndim != 2 or like is not None and features.shape[1] != like.shape[1]:
        raise ValueError(f'features must be [n, {"d" if like is None else like.shape[1]}], '
                         f'not {list(features.shape)}')
    if len(features) < at_least:
        raise ValueError(f'{len(features)} features are fewer than {at_least}')
