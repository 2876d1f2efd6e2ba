"""The toy data set: drawn faces, without a download."""
import zlib

import numpy as np
from PIL import Image, ImageDraw

COUNT = 4000


def draw(name):
    """Draws the face of this name, a 128x128 Pillow image; the same at every call."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    skin = np.array([[255, 219, 190], [234, 192, 155], [198, 140, 100], [141, 92, 62],
                     [92, 58, 40]][rng.randint(5)]) + rng.randint(-12, 13)
    hair = np.array([[30, 24, 20], [84, 54, 32], [150, 100, 50], [214, 180, 110],
                     [130, 50, 30], [170, 170, 170]][rng.randint(6)]) + rng.randint(-15, 16)
    background, clothes = rng.randint(60, 230, 3), rng.randint(20, 220, 3)
    iris = [[70, 110, 160], [80, 120, 70], [90, 60, 35], [40, 30, 25]][rng.randint(4)]

    def colour(rgb, shade=1.0):
        return tuple(int(v) for v in np.clip(np.asarray(rgb) * shade, 0, 255))

    image = Image.new('RGB', (128, 128), colour(background))
    draw = ImageDraw.Draw(image)

    def ellipse(x, y, width, height, rgb, shade=1.0):
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour(rgb, shade))

    x, y = 64 + rng.randint(-5, 6), 66 + rng.randint(-4, 5)
    width, height = rng.randint(30, 39), rng.randint(40, 49)
    long_hair = rng.random_sample() < 0.5
    if long_hair:
        ellipse(x, y + 8, width + 12, height + 18, hair, 0.9)
    draw.rectangle((x - 13, y + 20, x + 13, 128), fill=colour(skin, 0.85))
    ellipse(x, 138, 58, 26, clothes)
    ellipse(x, y - 6, width + 5, height + 3, hair)
    ellipse(x, y + 3, width, height, skin)
    fringe = rng.randint(14, 24)
    draw.pieslice((x - width, y - height, x + width, y - height + 2 * fringe), 180, 360,
                  fill=colour(hair))
    eyes, gap, open_ = y - rng.randint(2, 8), rng.randint(13, 18), rng.randint(3, 6)
    for side in (-1, 1):
        ellipse(x + side * gap, eyes, 8, open_, [245, 245, 245])
        ellipse(x + side * gap, eyes, 3.5, min(open_, 3.5), iris)
        draw.line((x + side * (gap - 8), eyes - 10, x + side * (gap + 8), eyes - 11),
                  fill=colour(hair, 0.7), width=3)
    if rng.random_sample() < 0.2:
        for side in (-1, 1):
            draw.ellipse((x + side * gap - 11, eyes - 9, x + side * gap + 11, eyes + 9),
                         outline=(25, 25, 25), width=2)
        draw.line((x - gap + 11, eyes, x + gap - 11, eyes), fill=(25, 25, 25), width=2)
    draw.line((x, eyes + 6, x - 4, y + 15, x + 3, y + 16), fill=colour(skin, 0.75), width=2)
    mouth, smile, lips = rng.randint(9, 16), rng.randint(1, 9), [176, 70, 70]
    draw.chord((x - mouth, y + 26 - smile, x + mouth, y + 26 + smile), 0, 180, fill=colour(lips))
    draw.line((x - mouth, y + 26, x + mouth, y + 26), fill=colour(lips, 0.6), width=2)
    return image
