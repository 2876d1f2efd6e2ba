"""Sheets, GIFs, curves."""
import numpy as np
import pytest
from PIL import Image

import pictures


def test_grey_levels_are_the_nearest():
    values = np.array([-2, -1, -0.999, 0, 0.5, 1, 7], np.float32)
    assert pictures.to_uint8(values).tolist() == [0, 0, 0, 128, 191, 255, 255]
    levels = np.arange(256)
    assert (pictures.to_uint8(levels / 127.5 - 1) == levels).all()


@pytest.mark.parametrize('count, columns, shape', [
    (1, None, (4, 6)), (2, None, (4, 12)), (5, None, (8, 18)), (7, None, (12, 18)),
    (64, None, (32, 48)), (5, 5, (4, 30)), (6, 4, (8, 24))])
def test_a_sheet_of_any_count(count, columns, shape):
    images = np.random.RandomState(0).randint(0, 255, (count, 4, 6, 3)).astype(np.uint8)
    out = pictures.sheet(images, columns)
    assert out.shape == shape + (3,)
    columns = out.shape[1] // 6
    for number, image in enumerate(images):
        top, left = 4 * (number // columns), 6 * (number % columns)
        assert (out[top:top + 4, left:left + 6] == image).all()
    assert (out == 255).all(axis=2).sum() == out.shape[0] * out.shape[1] - count * 24


def test_write_and_gif(tmp_path):
    paths = []
    for grey in (0, 100, 200):
        paths.append(str(tmp_path / f'{grey}.png'))
        pictures.write(paths[-1], np.full((8, 10, 3), grey, np.uint8))
    with Image.open(paths[1]) as image:
        assert image.format == 'PNG' and np.asarray(image).tolist() == [[[100] * 3] * 10] * 8
    pictures.write_gif(str(tmp_path / 'all.gif'), paths)
    with Image.open(str(tmp_path / 'all.gif')) as gif:
        assert (gif.n_frames, gif.size, gif.info['loop']) == (3, (10, 8), 0)
        seen = []
        for frame in range(3):
            gif.seek(frame)
            seen.append((gif.info['duration'], gif.convert('RGB').getpixel((3, 3))[0]))
    assert seen == [(200, 0), (200, 100), (2000, 200)]


@pytest.mark.parametrize('count', [0, 1, 3, 500])
def test_loss_curves_of_any_length(tmp_path, count):
    path = tmp_path / 'loss.csv'
    path.write_text('step,d_loss,g_loss\n' + ''.join(f'{n},{1 / n},{n}\n'
                                                     for n in range(1, count + 1)))
    pictures.plot_losses(str(path), str(tmp_path / 'loss.png'))
    assert (tmp_path / 'loss.png').exists() == bool(count)
    if count:
        with Image.open(str(tmp_path / 'loss.png')) as image:
            assert image.size[0] > 500
