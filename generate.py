"""Draws faces with a trained generator.

    python generate.py --ckpt model/ --out samples/
    python generate.py --ckpt model/dcgan_lfw-4000 --num 1000 --separate --out faces/
    python generate.py --interpolate 1 2 --frames 32
    python generate.py --arithmetic "seeds:1,2,3 - 4,5,6 + 7,8,9"
    python generate.py --num 16 --truncate 0.7 --save-latents some.npy
    python generate.py --ckpt model/dcgan_celeba_attributes --attributes Smiling=1,Male=-1
    python generate.py --ckpt model/dcgan_celeba_attributes --attribute-sheet

--ckpt takes a folder (its newest checkpoint), a prefix or one of a checkpoint's files; the
checkpoint may come from the original program. The same seed draws the same faces; "the face of a
seed" is the first of them.
"""
import argparse
import contextlib
import hashlib
import itertools
import os
import re
import sys

import numpy as np

import sampler
from dcgan import checkpoint, cli, metadata, pictures, session
from dcgan.files import atomic_write

MAX_SHEET = 10000       # images on one sheet; at 64x64 the sheet has 6400x6400 pixels
FRAME_MILLISECONDS = 80
NEIGHBOUR_NOISE = 0.25  # ± around the result of --arithmetic (Radford et al. 2016, figure 7)
MAX_NAME = 200          # bytes; file systems allow 255, but a prefix, a number and an ending follow
EXAMPLE = 'seeds:1,2,3 - 4,5,6 + 7,8,9'     # of --arithmetic
seed = cli.int_between(0, 2 ** 32 - 1)        # the range of numpy's RandomState
TERM = re.compile(r'\s*([+-]?)\s*([0-9]+(?:\s*,\s*[0-9]+)*)\s*')


def main(argv=None):
    return cli.run(generate, parse(argv), {checkpoint.CheckpointError: '--ckpt '})


def generate(args):
    if not args.separate and args.num > MAX_SHEET:
        cli.fail(f'--num {args.num}: a sheet holds at most {MAX_SHEET}; add --separate')
    prefix = checkpoint.find(args.ckpt)
    cli.check_utf8('--ckpt', prefix)
    check_attributes(prefix, args)
    os.makedirs(args.out, exist_ok=True)
    if args.latents:
        with open(args.latents, 'rb'):      # a missing file fails before TensorFlow loads
            pass
    if args.save_latents:
        cli.check_writable(args.save_latents)
    if args.save_generator:
        cli.check_utf8('--save-generator', args.save_generator)
        with saving_generator():
            checkpoint.check_generator_prefix(args.save_generator, prefix)
    session.set_up(args.verbose, args.device)
    with sampler.Sampler(prefix, args.raw) as generator:
        print(describe(generator))
        if args.save_generator:
            with saving_generator():
                checkpoint.save_generator(generator.sess, generator.saver, args.save_generator,
                                          prefix, generator.averaged)
            print(args.save_generator)
        if args.interpolate:
            interpolate(generator, args)
        elif args.arithmetic:
            arithmetic(generator, args)
        elif args.attribute_sheet:
            attribute_sheet(generator, args)
        else:
            faces(generator, args)
    return 0


@contextlib.contextmanager
def saving_generator():
    """Reports saving errors under --save-generator, not --ckpt."""
    try:
        yield
    except checkpoint.CheckpointError as error:
        cli.fail(f'--save-generator {error}')


def faces(generator, args):
    """Draws the faces of --seed or of --latents."""
    if args.latents:
        latents = load_latents(args.latents, generator.z_dim)
        count, name = len(latents), os.path.splitext(os.path.basename(args.latents))[0]
        if count > MAX_SHEET and not args.separate:
            cli.fail(f'--latents {args.latents}: holds {count}; a sheet holds at most '
                     f'{MAX_SHEET}; add --separate')
        batches = in_batches(latents, args.batch_size)
    else:
        count, name = args.num, f'seed{args.seed}'
        batches = generator.latents(args.seed, count, args.batch_size)
    name = named(name, args)
    labels = generator.labels(args.seed, count, args.attributes)
    images = draw(generator, batches, labels, args)
    if args.separate:
        write_each(args.out, f'face_{name}', itertools.chain.from_iterable(images), count)
    else:
        write_sheet(args.out, f'faces_{name}', np.concatenate(list(images)))


def attribute_sheet(generator, args):
    """Draws a row per latent: with its own labels, then with each attribute switched in turn."""
    rows, attributes = args.attribute_sheet, generator.attributes
    if rows * (1 + len(attributes)) > MAX_SHEET:
        cli.fail(f'--attribute-sheet {rows}: a sheet holds at most {MAX_SHEET} faces')
    latents = np.concatenate(list(generator.latents(args.seed, rows)))
    labels = np.repeat(generator.labels(args.seed, rows, args.attributes),
                       1 + len(attributes), axis=0)
    for column in range(len(attributes)):
        labels[1 + column::1 + len(attributes), column] *= -1
    images = draw_all(generator, np.repeat(latents, 1 + len(attributes), axis=0), labels, args)
    sheet = pictures.sheet(images, 1 + len(attributes))
    headings = pictures.headings(['as it is', *attributes], images.shape[2])
    path = os.path.join(args.out, named(f'attributes_seed{args.seed}', args) + '.png')
    pictures.write(path, np.concatenate([headings, sheet]))
    print(path)


def interpolate(generator, args):
    """Draws the faces on the path between two seeds, as images and as films."""
    ends = [generator.latent(seed) for seed in args.interpolate]
    labels = same_labels(generator, args.interpolate[0], args.frames, args)
    images = draw_all(generator, slerp(*ends, args.frames), labels, args)
    name = named('interpolate_{}_{}'.format(*args.interpolate), args)
    if args.separate:
        write_each(args.out, name, images, args.frames)
    else:
        write_sheet(args.out, name, images)
    there_and_back = [*images, *images[-2:0:-1]]
    stem = os.path.join(args.out, name)
    pictures.write_gif(stem + '.gif', there_and_back, [FRAME_MILLISECONDS] * len(there_and_back))
    print(stem + '.gif')
    if pictures.write_mp4(stem + '.mp4', there_and_back, FRAME_MILLISECONDS):
        print(stem + '.mp4')


def arithmetic(generator, args):
    """Adds and subtracts the mean latents of groups of seeds (Radford et al. 2016, 6.3.2).

    Each group has a row: the faces of its seeds, and in the last column the face of their mean.
    The last row has the result in the last column, and faces near the result to its left. So the
    last column shows the sum.
    """
    groups = [np.array([generator.latent(seed) for seed in seeds]) for _, seeds in args.arithmetic]
    means = [group.mean(axis=0) for group in groups]
    result = sum(sign * mean for (sign, _), mean in zip(args.arithmetic, means))
    columns = max(map(len, groups)) + 1
    noise = np.random.RandomState(args.seed).uniform(-NEIGHBOUR_NOISE, NEIGHBOUR_NOISE,
                                                     (columns - 1, len(result)))
    rows = [*zip(groups, means), (result + noise, result)]
    latents = np.concatenate([[*group, mean] for group, mean in rows])
    labels = same_labels(generator, args.seed, len(latents), args)
    images = draw_all(generator, latents, labels, args)
    used_cells = [row * columns + column for row, (group, _) in enumerate(rows)
                  for column in [*range(len(group)), columns - 1]]
    cells = np.full((len(rows) * columns,) + images.shape[1:], 255, np.uint8)
    cells[used_cells] = images
    terms = [('-' if sign < 0 else '+') + ','.join(map(str, seeds))
             for sign, seeds in args.arithmetic]
    name = named('arithmetic_seeds' + ''.join(terms).lstrip('+'), args)
    write_sheet(args.out, name, cells, columns)


def same_labels(generator, seed, count, args):
    """The first labels of a seed, count times, so that only the latents differ."""
    return np.repeat(generator.labels(seed, 1, args.attributes), count, axis=0)


def draw(generator, batches, labels, args):
    """Yields uint8 images [n, h, w, 3] of batches of latents, after --truncate.

    labels: of all latents together, [count, l]. With --save-latents the latents are also saved.
    """
    # float32 is the generator's precision, so the saved latents draw the same images again.
    batches = ((args.truncate * latents).astype(np.float32) for latents in batches)
    if args.save_latents:
        batches = list(batches)
        save_latents(args.save_latents, np.concatenate(batches))
    with cli.Progress(len(labels), 'images') as progress:
        for latents in batches:
            yield generator.draw(latents, labels[progress.done:progress.done + len(latents)])
            progress.update(len(latents))


def draw_all(generator, latents, labels, args):
    """All images of latents [n, z_dim] and labels [n, l] in one array, see draw."""
    batches = in_batches(latents, args.batch_size)
    return np.concatenate(list(draw(generator, batches, labels, args)))


# latents

def slerp(a, b, count):
    """Vectors [count, z_dim] from a to b, both included, along the sphere (Shoemake 1985).

    If a and b lie in the cube [-1, 1], one in twelve numbers of the middle vector lies outside it.
    These numbers are not clipped, because faces are better without it (docs/drawing.md). Parallel
    or opposite vectors have no unique path along the sphere; theirs is the straight line.
    """
    t = np.linspace(0, 1, count)[:, np.newaxis]
    angle = np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    vectors = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    vectors[0], vectors[-1] = a, b      # exactly, without rounding errors
    return vectors


def in_batches(latents, size):
    """Yields the latents in batches of size."""
    return (latents[start:start + size] for start in range(0, len(latents), size))


def load_latents(path, z_dim):
    """Reads latents, float32 [n, z_dim], from an npy file; exits if they are unusable."""
    expected = f'floating-point numbers [n, {z_dim}]'
    with open(path, 'rb') as f:
        try:
            latents = np.lib.format.read_array(f, allow_pickle=False)
        except Exception:       # a damaged header makes numpy raise more than ValueError
            cli.fail(f'--latents {path}: is no whole npy file of {expected}')
    if latents.dtype.kind != 'f' or latents.shape[1:] != (z_dim,) or not latents.size:
        cli.fail(f'--latents {path}: holds {latents.dtype} {list(latents.shape)}, '
                 f'not {expected}')
    with np.errstate(over='ignore'):
        latents = latents.astype(np.float32)
    finite = np.isfinite(latents).all(axis=1)
    if not finite.all():
        cli.fail(f'--latents {path}: row {finite.argmin()} holds a number that is not finite')
    return latents


def save_latents(path, latents):
    """Writes latents as an npy file."""
    with atomic_write(path) as partial, open(partial, 'wb') as f:
        np.save(f, latents)


# output

def named(name, args):
    """The name, followed by the options that change what a seed draws.

    A name that is too long for a file is cut and ends in a hash of the full name.
    """
    if args.seed and (args.arithmetic or args.latents):
        name += f'_seed{args.seed}'
    if args.raw:
        name += '_raw'
    if args.truncate != 1:
        name += f'_truncate={args.truncate}'
    name += ''.join(f'_{a}={value}' for a, value in args.attributes.items())
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME:
        return name
    ending = '_' + hashlib.sha256(encoded).hexdigest()[:8]
    # Ignoring errors drops a character that was cut in half, so the name stays valid text.
    start = encoded[:MAX_NAME - len(ending)].decode(sys.getfilesystemencoding(), 'ignore')
    return start + ending


def write_sheet(folder, name, images, columns=None):
    """Writes images as one PNG in folder and prints its path."""
    path = os.path.join(folder, f'{name}.png')
    pictures.write(path, pictures.sheet(images, columns))
    print(path)


def write_each(folder, name, images, count):
    """Writes each image as a PNG of its own. images: any iterable of count images."""
    digits = max(4, len(str(count - 1)))
    for number, image in enumerate(images):
        pictures.write(os.path.join(folder, f'{name}_{number:0{digits}d}.png'), image)
    print(f'{count:,} images in {folder}')


def check_attributes(prefix, args):
    """Exits if the options need attributes that the generator does not know."""
    known, _ = metadata.read_labels(prefix)
    if args.seed and args.latents and not known:
        cli.fail(f'--seed has no effect on --latents FILE: {prefix} knows no attributes')
    if not known and (args.attributes or args.attribute_sheet):
        option = '--attribute-sheet' if args.attribute_sheet else '--attributes'
        cli.fail(f'{option}: {prefix} was trained without --attributes')
    for name in args.attributes:
        cli.check_name('--attributes', name, known)


def describe(generator):
    """One line on the loaded checkpoint and what it was trained on."""
    saved = metadata.read(generator.prefix)
    line = f'{generator.prefix}: {generator.image_size}x{generator.image_size}'
    if generator.averaged:
        line += ', averaged weights'
    if not saved:
        return f'{line}, no settings beside it'
    data = saved['data']
    line += (f', trained on {data["photographs"]:,} photographs '
             f'of {data["dataset"]} for {saved["step"]:,} steps ({saved["epoch"]:.1f} epochs)')
    if generator.attributes:
        line += f', knows {", ".join(generator.attributes)}'
    return line


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_checkpoint(parser)
    parser.add_argument('--out', type=cli.path, default='samples/', metavar='DIR',
                        help='where the pictures go (%(default)s)')
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument('--num', type=cli.int_between(1), default=64, metavar='N',
                      help='how many faces (%(default)s)')
    mode.add_argument('--interpolate', type=seed, nargs=2, metavar=('A', 'B'),
                      help='the path from the face of seed A to that of seed B, as a sheet and a '
                           'GIF, with imageio-ffmpeg also as an MP4; it follows the sphere, so '
                           'some numbers of its latents are beyond 1 or -1')
    mode.add_argument('--arithmetic', type=sum_of_seeds, metavar='EXPR',
                      help=f'means of seeds added and subtracted: "{EXAMPLE}"')
    mode.add_argument('--latents', type=cli.path, metavar='FILE',
                      help='the faces of an npy file, floating-point numbers [n, z_dim]')
    mode.add_argument('--attribute-sheet', type=cli.int_between(1, 1000), nargs='?', const=8,
                      metavar='ROWS',
                      help='one face per row (8 rows); each further column switches another '
                           'attribute')
    parser.add_argument('--attributes', type=wishes, default={}, metavar='LIST',
                        help='for a model that knows attributes: 1 for those that all faces have, '
                             '-1 for those that they lack, as in Smiling=1,Male=-1; the others '
                             'are as in its training set')
    parser.add_argument('--frames', type=cli.int_between(2, MAX_SHEET), default=16, metavar='N',
                        help='frames of --interpolate, A and B included (%(default)s)')
    parser.add_argument('--seed', type=seed, default=0, metavar='N',
                        help='seed of the noise and of the attributes that --attributes does not '
                             'name (%(default)s)')
    parser.add_argument('--truncate', type=cli.fraction, default=1.0, metavar='T',
                        help='multiply the latents by T, 0 < T <= 1, so they are nearer to the '
                             'middle of the cube they come from: less varied, more typical faces, '
                             'dull if T is small (1)')
    parser.add_argument('--save-latents', type=cli.path, metavar='FILE',
                        help='also write the latents of all faces drawn, in reading order, for '
                             '--latents; they do not hold attributes, which follow --seed')
    parser.add_argument('--separate', action='store_true',
                        help='one PNG per face instead of a sheet')
    parser.add_argument('--batch-size', type=cli.int_between(1), default=64, metavar='N',
                        help='faces drawn at once (%(default)s)')
    parser.add_argument('--save-generator', type=cli.path, metavar='PREFIX',
                        help='also write only the generator as a checkpoint, to pass on: a sixth '
                             'of the size')
    cli.add_tensorflow(parser)
    args = parser.parse_args(argv)
    if args.frames != parser.get_default('frames') and not args.interpolate:
        parser.error('--frames belongs to --interpolate A B')
    if args.seed and args.interpolate:
        parser.error('--seed has no effect on --interpolate A B')
    if args.separate and (args.arithmetic or args.attribute_sheet):
        option = '--arithmetic' if args.arithmetic else '--attribute-sheet'
        parser.error(f'--separate: what {option} draws is one picture')
    return args


def wishes(text):
    """Parses 'Smiling=1,Male=-1' as {'Smiling': 1, 'Male': -1}; an argparse type."""
    attributes = {}
    for item in cli.comma_list(text):
        name, _, value = (part.strip() for part in item.partition('='))
        if value not in ('1', '-1', '+1') or attributes.setdefault(name, int(value)) != int(value):
            raise argparse.ArgumentTypeError(f'{item!r} should be a name, = and 1 or -1, each name '
                                             'once')
        attributes[name] = int(value)
    return attributes


def sum_of_seeds(text):
    """Parses '1,2 - 3' as [(1, [1, 2]), (-1, [3])]; an argparse type."""
    terms = []
    start = position = re.match(r'\s*(seeds:)?', text).end()
    while position < len(text) or not terms:
        term = TERM.match(text, position)
        if not term or not (term[1] or position == start):
            raise argparse.ArgumentTypeError(
                f'{text!r} is no sum of seeds from {text[position:]!r} on; one is "{EXAMPLE}"')
        terms.append((-1 if term[1] == '-' else 1, [seed(s) for s in term[2].split(',')]))
        position = term.end()
    return terms


if __name__ == '__main__':
    sys.exit(main())
