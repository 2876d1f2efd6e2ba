"""The metrics, compared with other implementations, closed forms and general properties."""
import json

import numpy as np
import pytest

import check_metrics as golden
from dcgan import metrics

with open(golden.PATH) as f:
    FIGURES = {name: record['figures'] for name, record in json.load(f).items()}
REAL, FAKE = golden.features()


# compared with other implementations; tolerances are 2 to 4 times the measured gaps, 10 for FID

def test_fid_is_that_of_torch_fidelity():
    fid = metrics.fid(metrics.statistics(REAL), metrics.statistics(FAKE))
    assert fid == pytest.approx(FIGURES['fid'], rel=3e-12)    # LAPACK's rounding


def test_kid_is_that_of_torch_fidelity():
    assert metrics.kid(REAL, FAKE, **golden.KID) == pytest.approx(FIGURES['kid'], rel=3e-8)


@pytest.mark.parametrize('name', ['precision_recall', 'precision_recall_prdc'])
def test_precision_and_recall_are_those_of_other_implementations(name):
    assert metrics.precision_recall(REAL, FAKE) == pytest.approx(FIGURES[name], rel=1e-7)


@pytest.mark.parametrize('side', [192, 64, 48])
def test_ms_ssim_is_that_of_pytorch_msssim(side):
    for a, b, figure in zip(*golden.pairs(side), FIGURES[f'ms_ssim_{side}']):
        if side == 192:
            a, b = golden.grey(a), golden.grey(b)
        assert metrics.ms_ssim(a[None], b[None]) == pytest.approx(figure, rel=1e-5)


def test_swd_is_that_of_sorted_projections():
    a, b = (metrics.swd_profile(golden.images(40, 64, width, seed))
            for width, seed in ((5, 3), (4, 4)))
    distances = metrics.swd(a, b)
    assert list(distances) == [64, 32, 16]
    for side, distance in distances.items():
        assert distance == pytest.approx(FIGURES['swd'][str(side)], rel=1e-4)


def test_the_nearest_images_are_those_of_scikit_learn(monkeypatch):
    samples, photographs = (metrics.thumbnails(golden.images(count, 64, width, seed))
                            for count, width, seed in ((6, 4, 6), (50, 5, 5)))
    for at_once in (metrics.DISTANCES_AT_ONCE, 50):
        monkeypatch.setattr(metrics, 'DISTANCES_AT_ONCE', at_once)      # 50: 4 photographs at once
        distances, numbers = metrics.nearest(samples, photographs, 3)
        np.testing.assert_allclose(distances, FIGURES['nearest'][0], rtol=1e-6)
        assert numbers.tolist() == FIGURES['nearest'][1]


# properties

def test_fid_of_shifted_and_scaled_normals_is_the_closed_form():
    rng = np.random.RandomState(1)
    mean, scales = rng.randn(20), rng.uniform(0.5, 2, 20)
    rotation = np.linalg.qr(rng.randn(20, 20))[0]

    def turned(scales):
        return rotation * scales ** 2 @ rotation.T

    fid = metrics.fid((np.zeros(20), turned(scales)), (mean, turned(scales[::-1])))
    assert fid == pytest.approx((mean ** 2).sum() + ((scales - scales[::-1]) ** 2).sum())


def test_fid_of_fewer_features_than_dimensions_is_finite_and_zero_to_itself():
    few = metrics.statistics(REAL[:10])
    assert metrics.fid(few, few) == pytest.approx(0, abs=1e-5 * np.trace(few[1]))
    assert metrics.fid(few, metrics.statistics(FAKE[:10])) > 1


def test_kid_of_one_distribution_is_on_either_side_of_zero():
    rng = np.random.RandomState(2)
    kids = [metrics.kid(rng.randn(300, 16), rng.randn(300, 16), subsets=1, size=300)[0]
            for _ in range(40)]
    assert 8 < sum(value > 0 for value in kids) < 32
    assert abs(np.mean(kids)) < 3 * np.std(kids) / 40 ** 0.5
    shifted, _ = metrics.kid(rng.randn(300, 16), rng.randn(300, 16) + 0.5, subsets=1, size=300)
    assert shifted > 5 * np.std(kids)


def test_precision_and_recall_of_equal_and_of_disjoint_sets(monkeypatch):
    assert metrics.precision_recall(REAL, REAL) == (1, 1)
    assert metrics.precision_recall(REAL, FAKE + 100) == (0, 0)
    # Samples of one of two clusters: all are precise, half of the real images are not covered.
    both = np.concatenate([REAL, REAL + 100])
    assert metrics.precision_recall(both, REAL) == (1, 0.5)
    expected = metrics.precision_recall(REAL, FAKE)
    monkeypatch.setattr(metrics, 'DISTANCES_AT_ONCE', 5000)
    assert metrics.precision_recall(REAL, FAKE) == expected


def test_swd_falls_as_noise_falls_and_is_zero_to_itself():
    images = golden.images(60, 32, 5, 7)
    profile = metrics.swd_profile(images)
    assert metrics.swd(profile, metrics.swd_profile(images)) == {32: 0, 16: 0}
    rng = np.random.RandomState(3)
    noise = rng.randn(*images.shape)
    finest = [metrics.swd(profile, metrics.swd_profile(
        np.clip(images + noise * sigma, 0, 255).astype(np.uint8)))[32]
              for sigma in (80, 40, 20, 10)]
    assert finest[0] > 1.3 * finest[1] > 1.3 ** 2 * finest[2] > 1.3 ** 3 * finest[3] > 5, finest


def test_swd_does_not_depend_on_brightness_or_contrast():
    images = golden.images(60, 32, 5, 7) // 2
    changed = metrics.swd(metrics.swd_profile(images), metrics.swd_profile(images * 2 + 1))
    assert max(changed.values()) < 0.5


def test_swd_does_not_depend_on_the_size_of_chunks(monkeypatch):
    images = golden.images(50, 32, 5, 8)
    a = metrics.swd_profile(images, seed=4)
    monkeypatch.setattr(metrics, 'AT_ONCE', 16)
    b = metrics.swd_profile(images, seed=4)
    assert max(metrics.swd(a, b).values()) < 1e-2
    assert max(metrics.swd(a, metrics.swd_profile(images, seed=5)).values()) > 1


@pytest.mark.parametrize('side, levels', [
    (32, [32, 16]), (48, [48, 24]), (64, [64, 32, 16]), (96, [96, 48, 24]),
    (128, [128, 64, 32, 16])])
def test_levels_of_each_image_size(side, levels):
    assert list(metrics.swd_profile(golden.images(2, side, 3, 0))) == levels


def test_a_pyramid_adds_up_to_the_image():
    images = golden.images(2, 32, 3, 0)
    fine, coarse = metrics.laplacian_pyramid(images, 2)
    spread = np.zeros_like(fine)
    spread[:, ::2, ::2] = coarse
    np.testing.assert_allclose(fine + metrics._blur(spread, 2 * metrics.BINOMIAL), images,
                               atol=1e-3)


def test_ms_ssim_of_equal_pairs_is_one_and_a_mean_over_pairs(monkeypatch):
    a, b = golden.pairs(64)
    assert metrics.ms_ssim(a, a) == pytest.approx(1, abs=1e-6)
    each = [metrics.ms_ssim(x[None], y[None]) for x, y in zip(a, b)]
    monkeypatch.setattr(metrics, 'AT_ONCE', 3)
    assert metrics.ms_ssim(a, b) == pytest.approx(np.mean(each), rel=1e-5)
    assert metrics.ms_ssim(a, 255 - a) < 0.05


def test_copied_share_is_1_for_copies_and_0_for_new_images():
    photographs = metrics.thumbnails(golden.images(400, 32, 5, 9))
    training, held_out = photographs[:150], photographs[150:300]
    # Smooth samples are nearer to all photographs than these to each other; this has no effect.
    new = (photographs[300:].astype(int) + 128) // 2
    copies = np.clip(training[:, :, ::-1].astype(int) + 3, 0, 255)
    for unseen in (held_out, held_out[:50]):
        share, _ = metrics.copied_share(new, training, unseen)
        assert share == pytest.approx(0, abs=3 * (150 / len(unseen) / 100) ** 0.5)
        assert metrics.copied_share(copies, training, unseen)[0] == 1
        mixed = np.concatenate([copies[:100], new])
        assert metrics.copied_share(mixed, training, unseen)[0] == pytest.approx((1 + share) / 2)
    assert metrics.copied_share(copies, held_out, training)[0] == -1
    assert metrics.copied_share(new, training, training)[0] == 0


def test_the_deviation_of_copied_share_is_its_spread():
    photographs = metrics.thumbnails(golden.images(600, 32, 5, 9))
    # The greyest photographs are the nearest ones of many samples.
    new, photographs = (photographs[400:].astype(int) + 384) // 4, photographs[:400]
    results = [metrics.copied_share(new, *np.split(np.random.RandomState(seed).permutation(
        photographs), [300])) for seed in range(100)]
    shares, deviations = np.transpose(results)
    assert np.mean(deviations) == pytest.approx(np.std(shares), rel=0.03)
    assert np.mean(deviations) > 5 * (300 / 100 / 200) ** 0.5     # if all nearest images differed


def test_thumbnails_are_means_of_blocks():
    images = golden.images(3, 48, 3, 1)
    small = metrics.thumbnails(images)
    assert small.shape == (3, 16, 16, 3) and small.dtype == np.uint8
    assert small[1, 2, 15, 0] == np.rint(images[1, 6:9, 45:48, 0].mean())


@pytest.mark.parametrize('call, message', [
    (lambda: metrics.swd_profile(np.zeros((0, 64, 64, 3), np.uint8)), '0 images are fewer than 1'),
    (lambda: metrics.swd_profile(np.zeros((9, 64, 64), np.uint8)), r'not \[9, 64, 64\]'),
    (lambda: metrics.swd(metrics.swd_profile(golden.images(2, 32, 3, 0)),
                         metrics.swd_profile(golden.images(3, 32, 3, 0))), 'equally many'),
    (lambda: metrics.ms_ssim(golden.images(2, 32, 3, 0), golden.images(3, 32, 3, 0)), 'pairs'),
    (lambda: metrics.ms_ssim(*np.zeros((2, 1, 40, 40, 3))), "40 pixels a side can't be halved"),
    (lambda: metrics.statistics(REAL[:1]), '1 features are fewer than 2'),
    (lambda: metrics.kid(REAL, FAKE), '800 features are fewer than 1000'),
    (lambda: metrics.kid(REAL, FAKE[:, :5], size=9), r'must be \[n, 32\], not \[700, 5\]'),
    (lambda: metrics.precision_recall(REAL[:3], FAKE), '3 features are fewer than 4'),
    (lambda: metrics.nearest(REAL, FAKE[:2], 3), '2 photographs are fewer than 3'),
    (lambda: metrics.thumbnails(np.zeros((1, 40, 40, 3))), '40 pixels a side are no multiple'),
])
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
