"""Each augmentation changes an image as expected; the random numbers are chosen by hand."""
import numpy as np
import pytest

from dcgan import augment, batches

IMAGES = np.random.RandomState(0).randint(0, 256, (4, 9, 12, 3)).astype(np.uint8)


class Fixed:
    """A RandomState that returns these numbers."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def uniform(self, low, high, shape):
        return self.numbers.reshape(shape)

    def randint(self, low, high, shape):
        assert low <= self.numbers.min() and self.numbers.max() < high
        return self.numbers.reshape(shape)


def test_flip_mirrors_about_half():
    images = np.random.RandomState(0).randint(0, 256, (400, 2, 4, 3)).astype(np.uint8)
    out = augment.apply(['flip'], images, batches.rng(0, 0, 'augment'), {})
    same = (out == images).all(axis=(1, 2, 3))
    assert (out[~same] == images[~same][:, :, ::-1]).all()
    assert 160 < same.sum() < 240


def test_crop_shifts_and_fills_with_the_edge():
    out = augment.crop(IMAGES, Fixed([0, 2, -3, 0, 0, -1, 4, 4]), 4)     # down, then right
    assert (out[0] == IMAGES[0]).all()
    assert (out[1][2:, :-1] == IMAGES[1][:-2, 1:]).all()
    assert (out[1][:2, :-1] == IMAGES[1][0, 1:]).all()
    assert (out[2][:-3, 4:] == IMAGES[2][3:, :-4]).all()
    assert (out[3][:, :4] == IMAGES[3][:, :1]).all()


def test_rotate_by_known_angles():
    square = IMAGES[:, :, :9]
    out = augment.rotate(square, Fixed([0, 90, 180, 45]), 180)
    assert (out[0] == square[0]).all()
    assert (out[1] == np.rot90(square[1], -1)).all() or (out[1] == np.rot90(square[1])).all()
    assert (out[2] == square[2][::-1, ::-1]).all()
    assert (out[3][4, 4] == square[3][4, 4]).all() and (out[3] != square[3]).any()
    wide = augment.rotate(IMAGES, Fixed([0, 180, 0, 180]), 180)
    assert (wide[::2] == IMAGES[::2]).all() and (wide[1::2] == IMAGES[1::2, ::-1, ::-1]).all()
    ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8)[None, :, None], [9, 1, 3])[None]
    turned = augment.rotate(ramp, Fixed([10]), 10)[0].astype(float)
    # Bilinear interpolation of a ramp is exact: its slopes are 10 cos and 10 sin of the angle.
    down, right = (np.abs(np.diff(turned[3:6, 3:6], axis=axis)) for axis in (0, 1))
    assert np.abs(right - 10 * np.cos(np.radians(10))).max() <= 1
    assert np.abs(down - 10 * np.sin(np.radians(10))).max() <= 1


def test_color_changes_brightness_contrast_saturation_and_hue():
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    grey[0, :2] = 140
    assert (augment.color(grey, Fixed([0, 0, 0, 0]), 0.2) == grey).all()
    assert (augment.color(grey, Fixed([0.1, 0, 0, 0]), 0.2) == grey + 26).all()        # 25.5
    assert set(np.unique(augment.color(grey, Fixed([0, 0.5, 0, 0]), 0.5))) == {90, 150}
    # Grey has no colour that saturation or hue could change.
    assert np.abs(augment.color(grey, Fixed([0, 0, 0.5, 0.5]), 0.5).astype(int) - grey).max() <= 1
    red = np.zeros((1, 2, 2, 3), np.uint8) + np.array([180, 60, 60], np.uint8)
    pale, vivid, turned = (augment.color(red, Fixed([0, 0, *change]), 1)[0, 0, 0].astype(int)
                           for change in ((-1, 0), (0.3, 0), (0, 1)))
    assert np.ptp(pale) <= 1 and np.ptp(vivid) > 120 and turned[0] < 120
    luminance = np.array([0.299, 0.587, 0.114])
    for changed in (pale, vivid, turned):
        assert changed @ luminance == pytest.approx(red[0, 0, 0] @ luminance, abs=1.5)


@pytest.mark.parametrize('name, strength', [('crop', 3), ('rotate', 20), ('color', 0.3)])
def test_changes_are_a_function_of_the_seed_and_differ_by_image(name, strength):
    images = np.repeat(IMAGES[:1], 50, axis=0)
    first, again, other = (augment.apply([name], images, batches.rng(0, step, 'augment'),
                                         {name: strength}) for step in (1, 1, 2))
    assert first.dtype == np.uint8 and first.shape == images.shape
    assert (first == again).all() and (first != other).any()
    assert len({image.tobytes() for image in first}) > 15


def test_without_augmentations_images_are_unchanged():
    assert augment.apply([], IMAGES, None, {}) is IMAGES
