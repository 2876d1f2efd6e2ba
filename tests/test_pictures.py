"""Sheets, GIFs, MP4s and curves."""
import os
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dcgan import pictures


def test_values_become_the_nearest_grey_levels():
    values = np.array([-2, -1, -0.999, 0, 0.5, 1, 7], np.float32)
    assert pictures.to_uint8(values).tolist() == [0, 0, 0, 128, 191, 255, 255]
    levels = np.arange(256)
    assert (pictures.to_uint8(levels / 127.5 - 1) == levels).all()


@pytest.mark.parametrize('count, columns, shape', [
    (1, None, (4, 6)), (2, None, (4, 12)), (5, None, (8, 18)), (7, None, (12, 18)),
    (64, None, (32, 48)), (5, 5, (4, 30)), (6, 4, (8, 24))])
def test_a_sheet_holds_any_number_of_images(count, columns, shape):
    images = np.random.RandomState(0).randint(0, 255, (count, 4, 6, 3)).astype(np.uint8)
    out = pictures.sheet(images, columns)
    assert out.shape == shape + (3,)
    columns = out.shape[1] // 6
    for number, image in enumerate(images):
        top, left = 4 * (number // columns), 6 * (number % columns)
        assert (out[top:top + 4, left:left + 6] == image).all()
    assert (out == 255).all(axis=2).sum() == out.shape[0] * out.shape[1] - count * 24


def grey(level):
    """A grey image."""
    return np.full((8, 10, 3), level, np.uint8)


def test_a_png_that_is_written_can_be_read(tmp_path):
    path = str(tmp_path / 'a.png')
    pictures.write(path, grey(100))
    with Image.open(path) as image:
        assert image.format == 'PNG'
    assert pictures.read(path).tolist() == grey(100).tolist()


def test_a_gif_takes_its_frames_one_at_a_time(tmp_path):
    path = str(tmp_path / 'all.gif')
    pictures.write_gif(path, map(grey, (0, 100, 200)), [200, 200, 2000])
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info['loop']) == (3, (10, 8), 0)
        frames = []
        for frame in range(3):
            gif.seek(frame)
            frames.append((gif.info['duration'], gif.convert('RGB').getpixel((3, 3))[0]))
    assert frames == [(200, 0), (200, 100), (2000, 200)]


def test_an_mp4_is_written_if_there_is_ffmpeg(tmp_path, monkeypatch):
    path = str(tmp_path / 'all.mp4')
    frames = [np.full((32, 48, 3), level, np.uint8) for level in (0, 100, 200)]
    assert pictures.write_mp4(path, frames, 80)
    assert imageio_ffmpeg.count_frames_and_secs(path) == (3, pytest.approx(0.24, abs=0.02))
    levels = [frame.mean() for frame in pictures.imageio.mimread(path)]
    assert levels == pytest.approx([0, 100, 200], abs=4)
    os.remove(path)
    monkeypatch.setattr(imageio_ffmpeg, 'get_ffmpeg_exe', raise_missing)
    assert not pictures.write_mp4(path, frames, 80)
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    assert not pictures.write_mp4(path, frames, 80)
    assert os.listdir(str(tmp_path)) == []


def raise_missing():
    raise RuntimeError('No ffmpeg exe could be found.')


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
