"""Other people's figures of the pictures and features that tests/test_metrics.py measures.

    python tests/golden/check_metrics.py          writes metrics.json beside it

Needs, besides numpy: torch torchvision torch-fidelity pytorch-msssim prdc POT scikit-learn
opencv-python-headless. torchvision may be missing: torch-fidelity imports it, and what is called
of it here does without.
"""
import importlib
import json
import os
import sys
from unittest import mock

import numpy as np

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'metrics.json')
KID = {'subsets': 20, 'size': 300, 'seed': 3}
PATCHES, DIRECTIONS = 128, 512


# the material, the same on every machine

def features():
    """(real [800, 32], fake [700, 32]) float32: correlated normal ones, partly overlapping."""
    rng = np.random.RandomState(0)
    mixing = rng.randn(32, 32) / 4
    real = rng.randn(800, 32) @ mixing
    fake = rng.randn(700, 32) @ mixing * 0.9 + 0.25
    return real.astype(np.float32), fake.astype(np.float32)


def images(count, side, width, seed):
    """uint8 [count, side, side, 3]: noise, smoothed in integers over squares of width pixels."""
    noise = np.random.RandomState(seed).randint(-128, 128, (count, side, side, 3))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(width))
    return np.clip(128 + noise // width, 0, 255).astype(np.uint8)


def pairs(side):
    """(a, b), two images [4, side, side, 3] each: b is a with ever more of other images in it."""
    a, other = images(4, side, 5, 1).astype(int), images(4, side, 3, 2)
    share = np.arange(1, 5)[:, None, None, None]
    return a.astype(np.uint8), ((a * (5 - share) + other * share) // 5).astype(np.uint8)


def grey(x):
    """The same with red in all channels."""
    return np.repeat(x[..., :1], 3, axis=-1)


# figures

def main():
    with_torchvision()
    found = {'fid': fid(), 'kid': kid(), 'precision_recall': precision_recall(),
             'precision_recall_prdc': precision_recall_prdc(),
             'ms_ssim_192': ms_ssim_of_grey_images(192),
             'ms_ssim_64': ms_ssim_of_small_images(64),
             'ms_ssim_48': ms_ssim_of_small_images(48),
             'swd': swd(), 'nearest': nearest()}
    with open(PATH, 'w') as f:
        json.dump(found, f, indent=1)
        f.write('\n')


def with_torchvision():
    """Puts an empty one where there is none."""
    try:
        importlib.import_module('torchvision')
    except ImportError:
        for name in ('', '.transforms', '.transforms.functional', '.datasets', '.models',
                     '.models.inception'):
            sys.modules['torchvision' + name] = mock.MagicMock()


def by(package, figures):
    version = importlib.import_module('importlib.metadata').version(package)
    return {'figures': figures, 'by': f'{package} {version}'}


def fid():
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    a, b = ({'mu': x.mean(axis=0), 'sigma': np.cov(x, rowvar=False)}
            for x in (x.astype(np.float64) for x in features()))
    found = fid_statistics_to_metric(a, b, verbose=False)
    return by('torch-fidelity', found['frechet_inception_distance'])


def kid():
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric
    found = kid_features_to_metric(
        *(torch.from_numpy(x.astype(np.float64)) for x in features()), verbose=False,
        kid_subsets=KID['subsets'], kid_subset_size=KID['size'], rng_seed=KID['seed'])
    return by('torch-fidelity', [found['kernel_inception_distance_mean'],
                                 found['kernel_inception_distance_std']])


def precision_recall():
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric
    real, fake = (torch.from_numpy(x) for x in features())
    found = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    return by('torch-fidelity', [found['precision'], found['recall']])


def precision_recall_prdc():
    from prdc import compute_prdc
    real, fake = features()
    found = compute_prdc(real, fake, nearest_k=3)
    return by('prdc', [float(found['precision']), float(found['recall'])])


def ms_ssim_of_grey_images(side):
    """As it comes, on images in grey: of colours it averages after the levels, not within."""
    from pytorch_msssim import ms_ssim
    a, b = (as_torch(grey(x)) for x in pairs(side))
    return by('pytorch-msssim', [float(x) for x in ms_ssim(a, b, size_average=False)])


def ms_ssim_of_small_images(side):
    """Its SSIM of each level, with a window of min(11, side) and a deviation in proportion."""
    import torch
    module = importlib.import_module('pytorch_msssim.ssim')
    a, b = (as_torch(x) for x in pairs(side))
    product = 1
    for level, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        size = min(11, a.shape[-1])
        places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        window = torch.exp(-places ** 2 / (2 * (1.5 * size / 11) ** 2))
        window = (window / window.sum()).repeat(3, 1, 1, 1)
        found = module._ssim(a, b, 255, window)[level < 4].mean(dim=1)      # ssim or contrast
        product = product * torch.relu(found) ** weight
        a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
    return by('pytorch-msssim', [float(x) for x in product])


def as_torch(x):
    import torch
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64))


def swd():
    """OpenCV's pyramid, patches taken one by one, POT's distance; places as metrics.py draws."""
    import cv2
    import ot
    pyramids = []
    for width, seed in ((5, 3), (4, 4)):
        levels = {64: [], 32: [], 16: []}
        for image in images(40, 64, width, seed).astype(np.float32):
            for side in levels:
                smaller = cv2.pyrDown(image)
                levels[side].append(image if side == 16 else image - cv2.pyrUp(smaller))
                image = smaller
        pyramids.append(levels)
    rng = np.random.RandomState(0)
    places = {side: rng.randint(0, side - 6, (2, 40, PATCHES)) for side in (64, 32, 16)}
    directions = rng.randn(DIRECTIONS, 7 * 7 * 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = {}
    for side in places:
        sets = []
        for levels in pyramids:
            patches = np.array([levels[side][i][y:y + 7, x:x + 7] for i in range(40)
                                for y, x in places[side][:, i].T], np.float64)
            patches -= patches.mean(axis=(0, 1, 2))
            patches /= patches.std(axis=(0, 1, 2))
            sets.append(patches.reshape(len(patches), -1))
        found[side] = 1e3 * float(ot.sliced_wasserstein_distance(*sets, projections=directions.T,
                                                                 p=1))
    version = cv2.__version__
    return dict(by('POT', found), pyramid=f'opencv {version}')


def nearest():
    """[distances, numbers] of the 3 nearest of 50 in 16x16 pixels, of either mirroring."""
    import cv2
    from sklearn.neighbors import NearestNeighbors

    def small(x):
        return np.array([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in x])

    photographs = small(images(50, 64, 5, 5)).reshape(50, -1)
    samples = small(images(6, 64, 4, 6))
    search = NearestNeighbors(n_neighbors=50, algorithm='brute').fit(photographs)
    every = np.empty((2, 6, 50))
    for way, mirrored in zip(every, (samples, samples[:, :, ::-1])):
        distances, numbers = search.kneighbors(mirrored.reshape(6, -1))
        np.put_along_axis(way, numbers, distances, axis=1)
    every = every.min(axis=0)
    numbers = np.argsort(every, axis=1)[:, :3]
    return by('scikit-learn', [np.take_along_axis(every, numbers, axis=1).tolist(),
                               numbers.tolist()])


if __name__ == '__main__':
    main()
