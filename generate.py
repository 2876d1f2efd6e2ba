"""Draws faces with a trained generator.

    python generate.py --ckpt model/ --out samples/
    python generate.py --ckpt model/dcgan_lfw-4000 --num 1000 --separate --out faces/

--ckpt takes a folder (its newest checkpoint), a prefix or one of a checkpoint's files, of this
program or of the original one. The same seed draws the same faces.
"""
import argparse
import itertools
import os
import sys

import numpy as np

import checkpoint
import options
import pictures
import sampler
import session

MAX_SHEET = 10000       # images on one sheet: at 64x64 a picture of 6400x6400


def main(argv=None):
    return options.run(generate, parse(argv), {checkpoint.CheckpointError: '--ckpt '})


def generate(args):
    if not args.separate and args.num > MAX_SHEET:
        options.fail(f'--num {args.num}: a sheet holds at most {MAX_SHEET}; add --separate')
    prefix = checkpoint.find(args.ckpt)
    session.set_up(args.verbose, args.device)
    with sampler.Sampler(prefix, args.raw) as generator:
        print(describe(generator))
        if args.save_generator:
            checkpoint.save_generator(generator.sess, generator.saver, args.save_generator, prefix)
        os.makedirs(args.out, exist_ok=True)
        images = draw(generator, args)
        if args.separate:
            digits = max(4, len(str(args.num - 1)))
            for number, image in enumerate(itertools.chain.from_iterable(images)):
                name = f'face_seed{args.seed}_{number:0{digits}d}.png'
                pictures.write(os.path.join(args.out, name), image)
            print(f'{args.num:,} images in {args.out}')
        else:
            path = os.path.join(args.out, f'faces_seed{args.seed}.png')
            pictures.write(path, pictures.sheet(np.concatenate(list(images))))
            print(path)
    return 0


def draw(generator, args):
    """Yields the images in batches, uint8 [n, h, w, 3]."""
    with options.Progress(args.num, 'images') as progress:
        for images in generator.draw_many(args.seed, args.num, args.batch_size):
            yield images
            progress.update(len(images))


def describe(generator):
    """What was loaded and what it was trained on, in a line."""
    facts = checkpoint.settings(generator.prefix)
    what = f'{generator.prefix}: {generator.image_size}x{generator.image_size}'
    if generator.averaged:
        what += ', averaged weights'
    if not facts:
        return f'{what}, no settings beside it'
    data = facts['data']
    return (f'{what}, trained on {data["photographs"]:,} photographs '
            f'of {data["dataset"]} for {facts["step"]:,} steps ({facts["epoch"]:.1f} epochs)')


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = options.Parser(description=summary, epilog=details,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ckpt', default='model/', metavar='PATH',
                        help='folder, prefix or file of a checkpoint (%(default)s)')
    parser.add_argument('--out', default='samples/', metavar='DIR',
                        help='where the pictures go (%(default)s)')
    parser.add_argument('--num', type=options.whole(1), default=64, metavar='N',
                        help='how many faces (%(default)s)')
    parser.add_argument('--seed', type=options.whole(0, 2 ** 32 - 1), default=0, metavar='N',
                        help='of the noise (%(default)s)')
    parser.add_argument('--separate', action='store_true',
                        help='one PNG a face instead of a sheet')
    parser.add_argument('--batch-size', type=options.whole(1), default=64, metavar='N',
                        help='faces drawn at once (%(default)s)')
    parser.add_argument('--raw', action='store_true',
                        help="the weights themselves where the checkpoint holds their moving "
                             'average too')
    parser.add_argument('--save-generator', metavar='PREFIX',
                        help='also write the generator alone as a checkpoint, to pass on: a '
                             'sixth of the size')
    options.add_tensorflow(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
