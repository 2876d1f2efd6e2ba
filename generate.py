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
import session

MAX_SHEET = 10000       # images on one sheet: at 64x64 a picture of 6400x6400


def main(argv=None):
    options.print_anything()
    args = parse(argv)
    try:
        return generate(args)
    except checkpoint.CheckpointError as error:
        options.fail(f'--ckpt {error}')
    except OSError as error:
        options.fail(f'{error.filename}: {error.strerror}' if error.filename else error)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def generate(args):
    if not args.separate and args.num > MAX_SHEET:
        options.fail(f'--num {args.num}: a sheet holds at most {MAX_SHEET}; add --separate')
    prefix = checkpoint.find(args.ckpt)
    tf = session.set_up(args.verbose)
    import models
    image_size, z_dim, width = checkpoint.generator_size(prefix)
    print(describe(prefix, image_size))

    with tf.Graph().as_default() as graph:
        noise = tf.placeholder(tf.float32, [None, z_dim], name='noise')
        g = models.generator(noise, is_training=False, image_size=image_size, width=width)
        variables = tf.global_variables()
        saver = tf.train.Saver(variables)
    with tf.Session(graph=graph) as sess:
        checkpoint.restore(sess, saver, prefix, variables)
        if args.save_generator:
            checkpoint.save_generator(sess, saver, args.save_generator, prefix)
        os.makedirs(args.out, exist_ok=True)
        batches = draw(sess, g, noise, args, z_dim)
        if args.separate:
            digits = max(4, len(str(args.num - 1)))
            for number, image in enumerate(itertools.chain.from_iterable(batches)):
                name = f'face_seed{args.seed}_{number:0{digits}d}.png'
                pictures.write(os.path.join(args.out, name), image)
            print(f'{args.num:,} images in {args.out}')
        else:
            path = os.path.join(args.out, f'faces_seed{args.seed}.png')
            pictures.write(path, pictures.sheet(np.concatenate(list(batches))))
            print(path)
    return 0


def draw(sess, g, noise, args, z_dim):
    """Yields the images in batches, uint8 [n, h, w, 3].

    One stream of noise is cut into batches, so an image does not depend on their size.
    """
    rng = np.random.RandomState(args.seed)
    with options.Progress(args.num, 'images') as progress:
        for start in range(0, args.num, args.batch_size):
            count = min(args.batch_size, args.num - start)
            z = rng.uniform(-1, 1, (count, z_dim))
            yield pictures.to_uint8(sess.run(g, {noise: z}))
            progress.update(count)


def describe(prefix, image_size):
    """What was loaded and what it was trained on, in a line."""
    facts = checkpoint.settings(prefix)
    if not facts:
        return f'{prefix}: {image_size}x{image_size}, no settings beside it'
    data = facts['data']
    return (f'{prefix}: {image_size}x{image_size}, trained on {data["photographs"]:,} photographs '
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
    parser.add_argument('--save-generator', metavar='PREFIX',
                        help='also write the generator alone as a checkpoint, to pass on: a '
                             'sixth of the size')
    parser.add_argument('--verbose', action='store_true', help="show TensorFlow's own messages")
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
