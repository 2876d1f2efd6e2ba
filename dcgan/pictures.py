"""Contact sheets, GIFs, films and curves. Images are uint8 [n, h, w, 3] by default."""
import csv
import math

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan.files import atomic_write


def to_uint8(images):
    """Converts floats in [-1, 1] of any shape to the nearest grey levels, uint8."""
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def sheet(images, columns=None):
    """Joins any number of images to one picture [rows·h, columns·w, 3]; empty cells are white.

    columns: by default as many as make the picture about square.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, channels)


def headings(texts, width):
    """Draws texts upwards, each in the middle of its column: [h, len(texts)·width, 3]."""
    font = ImageFont.load_default()
    boxes = [ImageDraw.Draw(Image.new('RGB', (1, 1))).textbbox((0, 0), text, font=font)
             for text in texts]
    height = max(box[2] for box in boxes) + 8
    picture = Image.new('RGB', (height, len(texts) * width), 'white')
    for number, (text, box) in enumerate(zip(texts, boxes)):
        top = (number + 0.5) * width - box[3] / 2
        ImageDraw.Draw(picture).text((4, top), text, fill='black', font=font)
    return np.asarray(picture.transpose(Image.Transpose.ROTATE_90))


def write(path, image):
    """Writes a picture [h, w, 3] to a PNG file."""
    with atomic_write(path) as partial:
        imageio.imwrite(partial, image, format='png')


def read(path):
    """Reads a picture [h, w, 3] that `write` has written."""
    return np.asarray(imageio.imread(path))


def write_gif(path, frames, milliseconds):
    """Writes a looping GIF of pictures of one size.

    frames: any iterable of pictures [h, w, 3], read one at a time.
    milliseconds: a list of the display times of the frames.
    """
    images = map(Image.fromarray, frames)
    with atomic_write(path) as partial:
        next(images).save(partial, 'GIF', save_all=True, append_images=images,
                          duration=milliseconds, loop=0)


def write_mp4(path, frames, milliseconds):
    """Writes an H.264 film of pictures of one size; returns False if this is not possible.

    It needs the package imageio-ffmpeg, and a program ffmpeg in the package or on the machine.
    milliseconds: the display time of each frame.
    """
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    with atomic_write(path, ending='.mp4') as partial:
        imageio.mimwrite(partial, frames, format='FFMPEG', fps=1000 / milliseconds,
                         ffmpeg_log_level='error')
    return True


def plot_losses(csv_path, path):
    """Plots d_loss and g_loss of a loss.csv over the steps: values faint, moving means strong."""
    from matplotlib.figure import Figure  # unlike pyplot: no global state, no display
    with open(csv_path, newline='') as f:
        rows = list(csv.DictReader(f))
    if not rows:
        return
    steps = np.array([int(row['step']) for row in rows])
    figure = Figure(figsize=(8, 4.5), dpi=100)
    axes = figure.add_subplot(111)
    window = max(1, len(rows) // 50)
    for column, label, colour in (('d_loss', 'D', 'tab:blue'), ('g_loss', 'G', 'tab:orange')):
        values = np.array([float(row[column]) for row in rows])
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        mean = np.convolve(values, np.ones(window) / window, mode='valid')
        axes.plot(steps[window - 1:], mean, color=colour,
                  label=f'{label}, mean of {window}' if window > 1 else label)
    axes.set_xlabel('step')
    axes.set_ylabel('loss')
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_write(path) as partial:
        figure.savefig(partial, format='png', bbox_inches='tight')


def plot_measures(path, steps, curves):
    """Plots each of curves, {title: (values at steps, floor)}, with a dashed line at the floor.

    A floor of None is unknown and not drawn.
    """
    from matplotlib.figure import Figure
    columns = min(len(curves), 3)
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), dpi=100)
    for number, (title, (values, floor)) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(steps, values, marker='.', label='samples')
        if floor is not None:
            axes.axhline(floor, color='tab:grey', linestyle='--', label='photographs')
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_xlabel('step')
    figure.tight_layout()
    with atomic_write(path) as partial:
        figure.savefig(partial, format='png')
