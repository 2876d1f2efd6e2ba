"""Draws faces with a trained generator.

    python generate.py --ckpt model/ --out samples/
    python generate.py --ckpt model/dcgan_lfw-4000 --num 1000 --separate --out faces/
    python generate.py --interpolate 1 2 --frames 32
    python generate.py --arithmetic "seeds:1,2,3 - 4,5,6 + 7,8,9"
    python generate.py --num 16 --truncate 0.7 --save-latents some.npy
    python generate.py --ckpt model/dcgan_celeba_attributes --attributes Smiling=1,Male=-1
    python generate.py --ckpt model/dcgan_celeba_attributes --attribute-sheet

--ckpt takes a folder (its newest checkpoint), a prefix or one of a checkpoint's files, of this
program or of the original one. The same seed draws the same faces; the face of a seed is the
first of them.
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

MAX_SHEET = 10000       # images on one sheet: at 64x64 a picture of 6400x6400
FRAME = 80              # milliseconds
NEAR = 0.25             # noise around the result of --arithmetic (Radford et al. 2016, figure 7)
LONGEST_NAME = 200      # bytes; file systems take 255, with what is drawn, a number and an ending
EXAMPLE = 'seeds:1,2,3 - 4,5,6 + 7,8,9'     # of --arithmetic
seed = cli.int_between(0, 2 ** 32 - 1)        # what numpy's RandomState takes
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
        with open(args.latents, 'rb'):      # should it be missing, before TensorFlow is imported
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
    """Has what is said of --save-generator not be said of --ckpt."""
    try:
        yield
    except checkpoint.CheckpointError as error:
        cli.fail(f'--save-generator {error}')


def faces(generator, args):
    """Draws those of a seed or of a file of latents."""
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
    """Draws each latent as its labels are, and then with one after the other of them switched."""
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
    """Draws the faces on the way from that of one seed to that of another."""
    ends = [generator.latent(seed) for seed in args.interpolate]
    labels = same_labels(generator, args.interpolate[0], args.frames, args)
    images = draw_all(generator, slerp(*ends, args.frames), labels, args)
    name = named('interpolate_{}_{}'.format(*args.interpolate), args)
    if args.separate:
        write_each(args.out, name, images, args.frames)
    else:
        write_sheet(args.out, name, images)
    there_and_back = [*images, *images[-2:0:-1]]
    film = os.path.join(args.out, name)
    pictures.write_gif(film + '.gif', there_and_back, [FRAME] * len(there_and_back))
    print(film + '.gif')
    if pictures.write_mp4(film + '.mp4', there_and_back, FRAME):
        print(film + '.mp4')


def arithmetic(generator, args):
    """Adds and subtracts the mean latents of groups of seeds (Radford et al. 2016, 6.3.2).

    A row a group: its faces, and in the last column that of its mean. So the last column is the
    sum; at its foot is the result, with faces near it to the left.
    """
    groups = [np.array([generator.latent(seed) for seed in seeds]) for _, seeds in args.arithmetic]
    means = [group.mean(axis=0) for group in groups]
    result = sum(sign * mean for (sign, _), mean in zip(args.arithmetic, means))
    columns = max(map(len, groups)) + 1
    noise = np.random.RandomState(args.seed).uniform(-NEAR, NEAR, (columns - 1, len(result)))
    rows = [*zip(groups, means), (result + noise, result)]
    latents = np.concatenate([[*group, mean] for group, mean in rows])
    labels = same_labels(generator, args.seed, len(latents), args)
    images = draw_all(generator, latents, labels, args)
    places = [row * columns + column for row, (group, _) in enumerate(rows)
              for column in [*range(len(group)), columns - 1]]
    cells = np.full((len(rows) * columns,) + images.shape[1:], 255, np.uint8)
    cells[places] = images
    terms = [('-' if sign < 0 else '+') + ','.join(map(str, seeds))
             for sign, seeds in args.arithmetic]
    name = named('arithmetic_seeds' + ''.join(terms).lstrip('+'), args)
    write_sheet(args.out, name, cells, columns)


def same_labels(generator, seed, count, args):
    """The first labels of a seed, count times: where only latents are to differ."""
    return np.repeat(generator.labels(seed, 1, args.attributes), count, axis=0)


def draw(generator, batches, labels, args):
    """Yields the images of batches of latents, uint8 [n, h, w, 3], as --truncate has them.

    labels: those of all of them, [count, l].
    """
    # In the generator's precision, so that what --save-latents writes draws the same again.
    batches = ((args.truncate * latents).astype(np.float32) for latents in batches)
    if args.save_latents:
        batches = list(batches)
        save_latents(args.save_latents, np.concatenate(batches))
    with cli.Progress(len(labels), 'images') as progress:
        for latents in batches:
            yield generator.draw(latents, labels[progress.done:progress.done + len(latents)])
            progress.update(len(latents))


def draw_all(generator, latents, labels, args):
    """The images of latents [n, z_dim] and labels [n, l]."""
    batches = in_batches(latents, args.batch_size)
    return np.concatenate(list(draw(generator, batches, labels, args)))


# latents

def slerp(a, b, count):
    """count vectors from a to b, both included, along the sphere (Shoemake 1985); [count, z_dim].

    Between latents of the cube [-1, 1] one in twelve of the middle one's numbers lies outside it.
    They are not clipped, as faces are better for it (docs/drawing.md). Between
    vectors that are parallel or opposite, where that has no one way, along the line.
    """
    t = np.linspace(0, 1, count)[:, np.newaxis]
    angle = np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    way = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    way[0], way[-1] = a, b      # without rounding
    return way


def in_batches(latents, size):
    return (latents[start:start + size] for start in range(0, len(latents), size))


def load_latents(path, z_dim):
    """float32 [n, z_dim] of an npy file."""
    wanted = f'floating-point numbers [n, {z_dim}]'
    with open(path, 'rb') as f:
        try:
            latents = np.lib.format.read_array(f, allow_pickle=False)
        except Exception:       # what a damaged header makes numpy raise is not only ValueError
            cli.fail(f'--latents {path}: is no whole npy file of {wanted}')
    if latents.dtype.kind != 'f' or latents.shape[1:] != (z_dim,) or not latents.size:
        cli.fail(f'--latents {path}: holds {latents.dtype} {list(latents.shape)}, '
                 f'not {wanted}')
    with np.errstate(over='ignore'):
        latents = latents.astype(np.float32)
    finite = np.isfinite(latents).all(axis=1)
    if not finite.all():
        cli.fail(f'--latents {path}: row {finite.argmin()} holds a number that is not finite')
    return latents


def save_latents(path, latents):
    """Writes an npy file."""
    with atomic_write(path) as partial, open(partial, 'wb') as f:
        np.save(f, latents)


# what is written and said

def named(name, args):
    """A picture's name with the options that change what a seed draws.

    One that is too long for a file ends in a hash of all of it.
    """
    if args.seed and (args.arithmetic or args.latents):
        name += f'_seed{args.seed}'
    if args.raw:
        name += '_raw'
    if args.truncate != 1:
        name += f'_truncate={args.truncate}'
    name += ''.join(f'_{a}={value}' for a, value in args.attributes.items())
    whole = os.fsencode(name)
    if len(whole) <= LONGEST_NAME:
        return name
    ending = '_' + hashlib.sha256(whole).hexdigest()[:8]
    # No half of a character, which would be a name that is no text.
    start = whole[:LONGEST_NAME - len(ending)].decode(sys.getfilesystemencoding(), 'ignore')
    return start + ending


def write_sheet(folder, name, images, columns=None):
    path = os.path.join(folder, f'{name}.png')
    pictures.write(path, pictures.sheet(images, columns))
    print(path)


def write_each(folder, name, images, count):
    """images: any iterable of count pictures."""
    digits = max(4, len(str(count - 1)))
    for number, image in enumerate(images):
        pictures.write(os.path.join(folder, f'{name}_{number:0{digits}d}.png'), image)
    print(f'{count:,} images in {folder}')


def check_attributes(prefix, args):
    """Ends with a sentence where what is asked for is not what the generator knows."""
    known, _ = metadata.read_labels(prefix)
    if args.seed and args.latents and not known:
        cli.fail(f'--seed has no effect on --latents FILE: {prefix} knows no attributes')
    if not known and (args.attributes or args.attribute_sheet):
        option = '--attribute-sheet' if args.attribute_sheet else '--attributes'
        cli.fail(f'{option}: {prefix} was trained without --attributes')
    for name in args.attributes:
        cli.check_name('--attributes', name, known)


def describe(generator):
    """What was loaded and what it was trained on, in a line."""
    facts = metadata.read(generator.prefix)
    what = f'{generator.prefix}: {generator.image_size}x{generator.image_size}'
    if generator.averaged:
        what += ', averaged weights'
    if not facts:
        return f'{what}, no settings beside it'
    data = facts['data']
    what += (f', trained on {data["photographs"]:,} photographs '
             f'of {data["dataset"]} for {facts["step"]:,} steps ({facts["epoch"]:.1f} epochs)')
    if generator.attributes:
        what += f', knows {", ".join(generator.attributes)}'
    return what


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_checkpoint(parser)
    parser.add_argument('--out', default='samples/', metavar='DIR',
                        help='where the pictures go (%(default)s)')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--num', type=cli.int_between(1), default=64, metavar='N',
                       help='how many faces (%(default)s)')
    which.add_argument('--interpolate', type=seed, nargs=2, metavar=('A', 'B'),
                       help='the way from the face of seed A to that of seed B, as a sheet and a '
                            'GIF, with imageio-ffmpeg also as MP4; along the sphere, so that some '
                            'numbers of its latents are beyond 1 or -1')
    which.add_argument('--arithmetic', type=sum_of_seeds, metavar='EXPR',
                       help=f'means of seeds added and subtracted: "{EXAMPLE}"')
    which.add_argument('--latents', metavar='FILE',
                       help='the faces of an npy file, floating-point numbers [n, z_dim]')
    which.add_argument('--attribute-sheet', type=cli.int_between(1, 1000), nargs='?', const=8,
                       metavar='ROWS',
                       help='a face a row (8), in each further column with another attribute '
                            'switched')
    parser.add_argument('--attributes', type=wishes, default={}, metavar='LIST',
                        help='of a model that knows attributes: what all faces have, 1, or lack, '
                             '-1, as in Smiling=1,Male=-1; the others are as in its training set')
    parser.add_argument('--frames', type=cli.int_between(2, MAX_SHEET), default=16, metavar='N',
                        help='of --interpolate, A and B included (%(default)s)')
    parser.add_argument('--seed', type=seed, default=0, metavar='N',
                        help='of the noise, and of the attributes that are not asked for '
                             '(%(default)s)')
    parser.add_argument('--truncate', type=cli.fraction, default=1.0, metavar='T',
                        help='the latents times T, 0 < T <= 1, nearer to the middle of the cube '
                             'they come from: less varied, more typical faces, dull where T is '
                             'small (1)')
    parser.add_argument('--save-latents', metavar='FILE',
                        help='also write the latents of all that is drawn, in reading order, for '
                             '--latents; attributes are not in them but follow --seed')
    parser.add_argument('--separate', action='store_true',
                        help='one PNG a face instead of a sheet')
    parser.add_argument('--batch-size', type=cli.int_between(1), default=64, metavar='N',
                        help='faces drawn at once (%(default)s)')
    parser.add_argument('--save-generator', metavar='PREFIX',
                        help='also write the generator alone as a checkpoint, to pass on: a '
                             'sixth of the size')
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
    """An argparse type: 'Smiling=1,Male=-1' as {'Smiling': 1, 'Male': -1}."""
    found = {}
    for wish in cli.comma_list(text):
        name, _, value = (part.strip() for part in wish.partition('='))
        if value not in ('1', '-1', '+1') or found.setdefault(name, int(value)) != int(value):
            raise argparse.ArgumentTypeError(f'{wish!r} should be a name, = and 1 or -1, each name '
                                             'once')
        found[name] = int(value)
    return found


def sum_of_seeds(text):
    """An argparse type: '1,2 - 3' as [(1, [1, 2]), (-1, [3])]."""
    terms = []
    start = at = re.match(r'\s*(seeds:)?', text).end()
    while at < len(text) or not terms:
        term = TERM.match(text, at)
        if not term or not (term[1] or at == start):
            raise argparse.ArgumentTypeError(
                f'{text!r} is no sum of seeds from {text[at:]!r} on; one is "{EXAMPLE}"')
        terms.append((-1 if term[1] == '-' else 1, [seed(s) for s in term[2].split(',')]))
        at = term.end()
    return terms


if __name__ == '__main__':
    sys.exit(main())
