"""Trains with one change at a time, as many images each, and measures what comes out.

    python benchmarks/recipe.py --dataset lfw --images 60000 --out runs/
    python benchmarks/recipe.py --dataset lfw --only g-steps-2 seed-1 --network model/labels.pb
    python benchmarks/recipe.py --dataset celeba --only projection maps --network model/labels.pb
    python benchmarks/recipe.py --images 499200 --only original --beside model/dcgan_lfw
    python benchmarks/recipe.py --photographs 100 --image-size 32 --only original translation

What was run before is not run again, so that it can be stopped at any time and called with more
--only. The table, in Markdown, is of all whole runs in --out on that set and of that length: for
each the figures of evaluate.py with averaged weights and with the weights themselves, and the loss
of D over its last 100 rows. Of models that know attributes it also has how often these are read on
the faces as they were asked for. A generator that --beside names has a row too. --sheet draws the
first faces of each, a row a run, with --raw two. --photographs trains on so many of the set alone;
measured it is by the whole set all the same.
"""
import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import sampler  # noqa: E402
from dcgan import checkpoint, cli, datasets, metadata, pictures, session  # noqa: E402
from dcgan.settings import LOSSES  # noqa: E402

# The original's settings, in the fastest way, with an average that changes nothing of the rest.
COMMON = {'augment': 'flip', 'fused-step': True, 'precision': 'bfloat16', 'average': 0.999,
          'batch-size': 64}
ATTRIBUTES = 'Male,Smiling,Eyeglasses,Blond_Hair,Black_Hair,Bangs,Young,Wearing_Hat'
CHANGES = {
    'original': {},
    'seed-1': {'seed': 1},
    'float32': {'precision': 'float32'},
    'g-steps-2': {'g-steps': 2},
    'spectral-norm': {'spectral-norm': True},
    'lr-d-0.00005': {'lr-d': 0.00005},
    'diffaugment': {'diffaugment': 'color,translation,cutout'},
    'color': {'diffaugment': 'color'},
    'translation': {'diffaugment': 'translation'},
    'cutout': {'diffaugment': 'cutout'},
    'translation-spectral-norm': {'diffaugment': 'translation', 'spectral-norm': True},
    'no-flips': {'augment': ''},
    'normal': {'init': 'normal'},
    'smooth-0.1': {'smooth': 0.1},
    'instance-noise-0.1': {'instance-noise': 0.1},
    'r1-10': {'r1': 10},
    'batch-100': {'batch-size': 100},
    'batch-128': {'batch-size': 128},
    'projection': {'attributes': ATTRIBUTES, 'spectral-norm': True},
    'maps': {'attributes': ATTRIBUTES, 'spectral-norm': True, 'condition': 'maps'},
    'wgan': {'loss': 'wgan', 'lr': 0.0002},
    'wgan-gp': {'loss': 'wgan-gp'},
}


def options_of(change):
    """The options of train.py that are a change, as on its command line."""
    given = []
    for name, value in dict(COMMON, **CHANGES[change]).items():
        given += [f'--{name}'] + ([] if value is True else [str(value)])
    return given


def name_of_set(args):
    return f'{args.dataset}_{args.photographs}' if args.photographs else args.dataset


def trained_on(args):
    """The options of train.py for the data set: the whole set, or a folder of links to some of it.

    These are taken at equal distances from the set's own order, in which one person's stand side
    by side.
    """
    if not args.photographs:
        return ['--dataset', args.dataset]
    source = datasets.find(args.dataset, args.data_dir)
    folder = os.path.join(args.out, name_of_set(args))
    os.makedirs(folder, exist_ok=True)
    for number in range(args.photographs):
        name = source.names[number * len(source.names) // args.photographs]
        link = os.path.join(folder, os.path.basename(name))
        if not os.path.lexists(link):
            os.symlink(os.path.abspath(os.path.join(source.folder, name)), link)
    return ['--dataset', folder, '--crop', str(source.crop)]


def folder_of(change, args):
    size = '' if args.image_size == 64 else f'{args.image_size}px-'
    return os.path.join(args.out, f'{name_of_set(args)}-{args.images}-{size}{change}')


def steps_of(change, args):
    settings = dict(COMMON, **CHANGES[change])
    d_steps = LOSSES[settings.get('loss', 'gan')].get('d_steps', 1)
    return args.images // (settings['batch-size'] * d_steps)


def is_whole(change, args):
    last = f'dcgan_{name_of_set(args)}-{steps_of(change, args)}.index'
    return os.path.exists(os.path.join(folder_of(change, args), last))


def run(change, args):
    folder, steps = folder_of(change, args), steps_of(change, args)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, 'train.log'), 'a') as log:
        subprocess.check_call(
            [sys.executable, os.path.join(ROOT, 'train.py'), *trained_on(args),
             '--data-dir', args.data_dir, '--image-size', str(args.image_size),
             '--model-dir', folder, '--samples-dir', os.path.join(folder, 'samples'),
             '--max-steps', str(steps),
             '--save-every', str(steps // 4), '--sample-every', str(steps // 4), '--resume']
            + options_of(change), stdout=log, stderr=subprocess.STDOUT)


def evaluate(ckpt, args, raw):
    """The figures of evaluate.py --json for a run's folder or a generator's prefix."""
    name = f'{"raw" if raw else "averaged"}-{args.num}.json'
    path = os.path.join(ckpt, name) if os.path.isdir(ckpt) else os.path.join(
        args.out, f'{args.dataset}-{os.path.basename(ckpt)}-{name}')
    network = ['--inception', args.network]
    if metadata.read_labels(checkpoint.find(ckpt))[0]:
        network += ['--labels', args.network]
    if not os.path.exists(path) or network_of(path) != sha256(args.network):
        subprocess.check_call(
            [sys.executable, os.path.join(ROOT, 'evaluate.py'), '--ckpt', ckpt, '--dataset',
             args.dataset, '--data-dir', args.data_dir, '--num', str(args.num), '--json', path]
            + ['--raw'] * raw + network * bool(args.network), stdout=subprocess.DEVNULL)
    with open(path) as f:
        return json.load(f)


def network_of(path):
    """The checksum of the network whose features the figures in a file are by, None of none."""
    with open(path) as f:
        return (json.load(f)['protocol']['network'] or {}).get('sha256')


def sha256(path):
    if path is None:
        return None
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def loss_of_d(folder):
    with open(os.path.join(folder, 'samples', 'loss.csv'), newline='') as f:
        losses = [float(row['d_loss']) for row in csv.DictReader(f)][-100:]
    return sum(losses) / len(losses)


def table(runs, args):
    keys = ['swd', 'ms_ssim'] + ['fid', 'precision', 'recall'] * bool(args.network)
    yield f'| change | {" | ".join(keys)} | D\'s loss | attributes |'
    yield '| --- |' + ' --- |' * (len(keys) + 2)
    for change, ckpt in runs.items():
        both = [evaluate(ckpt, args, raw) for raw in weights_of(ckpt)]
        cells = [' / '.join(f'{one["checkpoints"][0]["figures"][key]:.4g}' for one in both)
                 for key in keys]
        obeyed = ' / '.join(read(one['checkpoints'][0].get('attributes', {})) for one in both)
        loss = f'{loss_of_d(ckpt):.2f}' if os.path.isdir(ckpt) else ''
        yield f'| {change} | {" | ".join(cells)} | {loss} | {obeyed} |'
    floor = both[0]['floor']
    yield f'| photographs | {" | ".join(f"{floor[key]:.4g}" for key in keys)} | | |'


def weights_of(ckpt):
    """Whether raw, of each of the weights that there are: a generator's alone are plain."""
    return [False, True] if os.path.isdir(ckpt) else [False]


def read(attributes):
    """The mean share read as asked, over the attributes."""
    shares = [figures['balanced'] for figures in attributes.values()]
    return f'{sum(shares) / len(shares):.1%}' if shares else '-'


def sheet(runs, args, count=16):
    """A row a run, its name and what its averaged weights draw; with --raw another of its own."""
    session.set_up()
    faces = {}
    for change, ckpt in runs.items():
        for raw in weights_of(ckpt) if args.raw else [False]:
            with sampler.Sampler(checkpoint.find(ckpt), raw) as generator:
                faces[f'{change}, raw' if raw else change] = pictures.sheet(
                    next(generator.draw_many(0, count, count)), count)
    names, faces = list(faces), list(faces.values())
    names = pictures.headings(names, faces[0].shape[0])
    return np.concatenate([np.rot90(names, -1), np.concatenate(faces)], axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--dataset', type=cli.path, default='lfw')
    parser.add_argument('--data-dir', type=cli.path, default='datasets')
    parser.add_argument('--images', type=int, default=60000, help='that each run sees')
    parser.add_argument('--photographs', type=int, metavar='N',
                        help='train on N of the set, which then has to lie unpacked (all)')
    parser.add_argument('--image-size', type=int, default=64)
    parser.add_argument('--num', type=int, default=2000, help='images that measure it')
    parser.add_argument('--network', type=cli.path, help='frozen graph that classify.py wrote')
    parser.add_argument('--only', nargs='+', choices=CHANGES, metavar='NAME',
                        help=f'of: {", ".join(CHANGES)} (all that the set has labels for)')
    parser.add_argument('--out', type=cli.path, default='runs')
    parser.add_argument('--beside', type=cli.path, metavar='PREFIX',
                        help='a generator to measure beside them')
    parser.add_argument('--sheet', type=cli.path, metavar='PNG',
                        help='of the first 16 faces of seed 0 of each')
    parser.add_argument('--raw', action='store_true',
                        help='on the sheet also what the weights draw that are not averaged')
    args = parser.parse_args()
    for change in args.only or [name for name, change in CHANGES.items()
                                if args.dataset == 'celeba' or 'attributes' not in change]:
        if not is_whole(change, args):
            run(change, args)
    runs = {change: folder_of(change, args) for change in CHANGES if is_whole(change, args)}
    if args.beside:
        runs[os.path.basename(args.beside)] = args.beside
    print('\n'.join(table(runs, args)))
    if args.sheet:
        pictures.write(args.sheet, sheet(runs, args))


if __name__ == '__main__':
    main()
