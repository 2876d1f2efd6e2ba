"""Measures the faces that a trained generator draws.

    python evaluate.py --ckpt model/ --dataset lfw
    python evaluate.py --ckpt model/dcgan_lfw --num 1000                a quick look
    python evaluate.py --inception classify_image_graph_def.pb --json figures.json
    python evaluate.py --all --sheet
    python evaluate.py --ckpt model/dcgan_celeba_attributes --labels model/labels.pb   does it obey?

Every figure stands beside the floor: the same figure of photographs against other photographs of
the set, as many on either side. A figure means something only beside its floor, and only beside
figures of the same protocol (which is printed first): images, crop and set.

What is measured, and how, is in metrics.py. FID, KID, precision and recall need the Inception
network that they are defined with: it is published as
http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz
and --inception names the file classify_image_graph_def.pb in it.
"""
import argparse
import contextlib
import hashlib
import json
import os
import sys
import zipfile
import zlib

import numpy as np

import sampler
from dcgan import cache, checkpoint, cli, datasets, files, metadata, metrics, pictures, session
from dcgan.photographs import DataError

MOST = 10000                # images a side, unless asked for otherwise
FEWEST = 8
KID_SUBSET = 1000
NETWORK_BATCH, SAMPLES_BATCH = 50, 64
ASKED = 512                 # latents by which an attribute is judged
CANDIDATES = 1000           # samples, of which
SHEET_ROWS, SHEET_PHOTOGRAPHS = 12, 5       # the nearest to a photograph are shown
MOST_FEATURES = 4096        # of an image: their covariances are a matrix as wide
NETWORKS = ('ExpandDims', 'pool_3'), ('images', 'features')     # Inception's, classify.py's
FORMAT = 1                  # of what is cached; a change to a measure makes all of it anew
LABELS = {                  # '' is the image size or that of a pyramid's level
    'swd': 'sliced Wasserstein · 10³, mean', 'swd_': 'sliced Wasserstein · 10³, {0}x{0}',
    'ms_ssim': 'MS-SSIM of pairs', 'fid': 'Fréchet distance', 'kid': 'kernel distance',
    'kid_deviation': 'kernel distance, deviation',
    'precision': 'precision', 'recall': 'recall', 'copies': 'copies of training photographs',
    'copies_deviation': 'copies, deviation by chance'}


def main(argv=None):
    return cli.run(evaluate, parse(argv), {
        DataError: '', checkpoint.CheckpointError: '--ckpt '})


def evaluate(args):
    # Before anything is measured: can it be written?
    if args.json:
        cli.check_writable(args.json)
        if checkpoint.is_metadata(args.json):
            cli.fail(f'--json {args.json}: is the settings of a checkpoint')
    if args.all or args.sheet:
        os.makedirs(args.out, exist_ok=True)

    # what is compared with what
    newest = checkpoint.find(args.ckpt)
    cli.check_utf8('--ckpt', newest)
    facts = metadata.read(newest)
    checkpoints = of_the_run(newest) if args.all else [(facts.get('step'), newest)]
    args.dataset = args.dataset or facts.get('settings', {'dataset': 'lfw'})['dataset']
    source = datasets.find(args.dataset, args.data_dir)
    crop = find_crop(args.crop, facts, source, newest)
    graph_def = read_graph(args.inception) if args.inception else None
    labels_def = None
    if args.labels:
        labels_def, read_on_photographs = read_graph(args.labels), read_labels(args.labels)
        known = metadata.read_labels(newest)[0]
        if not known:
            cli.fail(f'--labels {args.labels}: {newest} was trained without --attributes')
        for name in known:
            cli.check_name(f'--labels {args.labels}: label', name, read_on_photographs)
    tf = session.set_up(args.verbose, args.device)
    by_features = parse_graph(tf, graph_def, f'--inception {args.inception}')
    by_labels = parse_graph(tf, labels_def, f'--labels {args.labels}')
    if by_features:
        args.input, args.output = tensors_of(by_features, args.input, args.output)
    image_size = checkpoint.read_generator(newest)[0]
    photographs = cache.load(source, image_size, crop, args.data_dir)
    if len(photographs.images) < 2 * FEWEST:
        raise DataError(f'{source.folder}: {len(photographs.images)} photographs are too few '
                             f'to compare with; at least {2 * FEWEST} are needed')
    count = min(args.num or min(MOST, len(photographs.images) // 2), len(photographs.images))
    floor_count = min(count, len(photographs.images) // 2)
    trained_on_these = facts.get('data', {}).get('crc32', photographs.crc32) == photographs.crc32
    if args.held_out and not trained_on_these:
        cli.fail(f'--held-out {args.held_out}: {newest} was trained on other photographs than '
                 f'--dataset {source.name}')
    held_out = find_held_out(args, source, photographs, crop) if trained_on_these else None

    protocol = {
        'dataset': source.name, 'photographs': len(photographs.images),
        'crc32': photographs.crc32, 'image_size': image_size, 'crop': crop,
        'resize': 'Pillow BILINEAR', 'images': count, 'floor_images': floor_count,
        'seed': args.seed, 'raw': args.raw,
        'held_out': held_out and {'dataset': held_out[0], 'photographs': len(held_out[1])},
        'network': None if graph_def is None else {
            'file': os.path.basename(args.inception), 'input': args.input, 'output': args.output,
            'sha256': hashlib.sha256(graph_def).hexdigest()},
        'labels': None if labels_def is None else {
            'file': os.path.basename(args.labels), 'latents': ASKED,
            'sha256': hashlib.sha256(labels_def).hexdigest()}}
    if args.num and args.num > count:
        print(f'--num {args.num}: {source.folder} holds {count:,} photographs, so {count:,} images '
              'a side are compared')
    print_protocol(protocol, facts, newest, trained_on_these)

    # the photographs' side, then each checkpoint's
    with network(tf, by_features, f'--inception {args.inception}', args.input,
                 args.output) as features_of, network(
                     tf, by_labels, f'--labels {args.labels}', 'images', 'logits') as logits_of:
        real, floor = photographs_side(photographs, protocol, features_of)
        if held_out:
            copies_of, of_floor = copies_side(photographs.images, *held_out[1:], args.seed)
            floor.update(of_floor)
        evaluated = []
        for step, prefix in checkpoints:
            try:
                samples = draw(prefix, count, args)
            except checkpoint.CheckpointError as error:
                if os.path.basename(prefix) == os.path.basename(newest):
                    raise
                print(f'{error}: left out', file=sys.stderr)
                continue
            figures = compare(real, summary(samples, features_of))
            if held_out:
                figures.update(copies_of(samples))
            evaluated.append({'checkpoint': prefix, 'figures': figures, 'step': step})
            print_figures(prefix, figures, floor)
            if logits_of:
                found = obeyed(prefix, logits_of, list(read_on_photographs), args)
                evaluated[-1]['attributes'] = found
                print_obeyed(found, read_on_photographs)
            if args.json:       # all so far, should it be stopped
                files.write_json(args.json, {'protocol': protocol, 'floor': floor,
                                                  'checkpoints': evaluated})

    # what is written beside the last of them
    name = os.path.basename(evaluated[-1]['checkpoint'])
    if args.json:
        print(args.json)
    if args.all:
        path = os.path.join(args.out, f'measures_{checkpoint.STEP.sub("", name)}.png')
        steps = [one['step'] for one in evaluated]
        pictures.plot_measures(path, steps, {
            label(key): ([one['figures'][key] for one in evaluated], floor[key]) for key in floor})
        print(path)
    if args.sheet and not trained_on_these:
        print('no sheet of nearest photographs: these are not what it was trained on')
    elif args.sheet:
        path = os.path.join(args.out, f'nearest_{name}.png')
        pictures.write(path, nearest_sheet(samples, photographs.images))
        print(f'{path}: a sample a row, and the {SHEET_PHOTOGRAPHS} photographs nearest to it')
    return 0


# what is compared with what

def of_the_run(prefix):
    """[(step, prefix)] of all checkpoints of the run that prefix belongs to, by step."""
    name = checkpoint.STEP.sub('', os.path.basename(prefix))
    found = checkpoint.checkpoints_of(os.path.dirname(prefix) or '.', name)
    if not found:
        cli.fail(f'--all: {prefix} belongs to no run, its name ends in no step')
    return found


def find_crop(asked, facts, source, prefix):
    """The crop that the model was trained with; another one is refused."""
    saved = facts.get('settings', {}).get('crop')
    if asked is not None and saved is not None and asked != saved:
        cli.fail(f'--crop {asked}: {prefix} was trained with --crop {saved}, and figures '
                 'across crops can\'t be compared')
    return next(crop for crop in (saved, asked, source.crop) if crop is not None)


def find_held_out(args, source, photographs, crop):
    """(name, images, others) that the model was not trained on, or None where there are none.

    CelebA's own test part, unless others are named. others: images of yet other people, CelebA's
    valid part, or None.
    """
    def load(found):
        loaded = cache.load(found, photographs.images.shape[1], crop, args.data_dir, FEWEST)
        if loaded.crc32 == photographs.crc32:
            cli.fail(f'--held-out {args.held_out}: these are the photographs of --dataset '
                     f'{source.name}')
        return loaded.images

    if args.held_out:
        try:
            found = datasets.find(args.held_out, args.data_dir)
        except DataError as error:
            cli.fail(str(error).replace('--dataset', '--held-out', 1))
        return found.name, load(found), None
    if args.dataset != 'celeba':
        return None
    try:
        found = datasets.find('celeba', args.data_dir, 'test')
        images, others = load(found), None
    except DataError:      # not there, or too few
        return None
    with contextlib.suppress(DataError):
        others = load(datasets.find('celeba', args.data_dir, 'valid'))
    return found.name, images, others


def print_protocol(protocol, facts, prefix, trained_on_these):
    p = protocol
    crop = f'middle {p["crop"]}x{p["crop"]}' if p['crop'] else 'largest square'
    print(f'{p["photographs"]:,} photographs of {p["dataset"]}, {crop} by {p["resize"]} to '
          f'{p["image_size"]}x{p["image_size"]}')
    floor = 'the floor likewise'
    if p['floor_images'] < p['images']:
        floor = f'for the floor {p["floor_images"]:,}, half of them all'
    print(f'{p["images"]:,} images a side, {floor}; seed {p["seed"]}')
    if not facts:
        print(f'beside {prefix} nothing says what it was trained on: taken to be these')
    elif not trained_on_these:
        print(f'{prefix} was trained on other photographs ({facts["data"]["dataset"]}): '
              'nothing is said of copies')
    elif p['held_out']:
        print(f'copies: against {p["held_out"]["photographs"]:,} photographs of '
              f'{p["held_out"]["dataset"]} that it was not trained on')
    else:
        print('no photographs that it was not trained on, so nothing is said of copies: '
              '--held-out names some')
    if p['network']:
        print(f'features: {p["network"]["output"]} of {p["network"]["file"]}')
    else:
        print('no --inception, so no Fréchet and kernel distance (FID, KID), precision and '
              'recall: --help says where it is published')
    sys.stdout.flush()


# measuring

def summary(images, features_of):
    """{name: array} that compare needs of a set of images."""
    found = {f'swd_{side}': histogram for side, histogram in metrics.swd_profile(images).items()}
    pairs = len(images) // 2
    found['ms_ssim'] = metrics.ms_ssim(images[:pairs], images[pairs:2 * pairs])
    if features_of:
        found['features'] = features_of(images)
    return found


def compare(real, fake):
    """{name: figure} of the summary of fake images against that of real ones."""
    profiles = [{key: one[key] for key in one if key.startswith('swd_')} for one in (real, fake)]
    figures = metrics.swd(*profiles)
    figures['swd'] = float(np.mean(list(figures.values())))
    figures['ms_ssim'] = float(fake['ms_ssim'])
    if 'features' in fake:
        sets = real['features'], fake['features']
        size = min(KID_SUBSET, len(fake['features']) // 2)      # so that subsets differ
        figures['fid'] = metrics.fid(*map(metrics.statistics, sets))
        figures['kid'], figures['kid_deviation'] = metrics.kid(*sets, size=size)
        figures['precision'], figures['recall'] = metrics.precision_recall(*sets)
    return figures


def photographs_side(photographs, protocol, features_of):
    """(summary of the photographs, {name: floor}), from the cache or measured and kept there."""
    kept_for = [FORMAT, [protocol[key] for key in ('crc32', 'images', 'seed', 'network')]]
    key = hashlib.sha256(json.dumps(kept_for).encode()).hexdigest()[:16]
    path = f'{photographs.path}.measures-{key}.npz'
    try:
        with np.load(path, allow_pickle=False) as kept:
            kept = dict(kept)
        return kept, json.loads(str(kept.pop('floor')))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass        # not there, half of it or damaged
    # Shuffled, as neighbours in a set are alike: photographs of one person.
    order = np.random.RandomState(protocol['seed']).permutation(len(photographs.images))
    count, floor_count = protocol['images'], protocol['floor_images']
    real = summary(photographs.images[order[:count]], features_of)
    half = real
    if floor_count < count:
        half = summary(photographs.images[order[:floor_count]], features_of)
    others = photographs.images[order[floor_count:2 * floor_count]]
    floor = compare(half, summary(others, features_of))
    with files.atomic_write(path, shared=True) as partial, open(partial, 'wb') as f:
        np.savez_compressed(f, floor=json.dumps(floor), **real)
    return real, floor


def copies_side(photographs, held_out, others, seed):
    """(function: samples -> figures of copies, those of others, None: by halves of held_out).

    Where both halves show the same people they are near each other, and the share is below 0.
    """
    training, unseen = metrics.thumbnails(photographs), metrics.thumbnails(held_out)

    def figures(samples, unseen=unseen):
        return dict(zip(('copies', 'copies_deviation'), metrics.copied_share(
            metrics.thumbnails(samples), training, unseen)))

    if others is not None:
        return figures, figures(others)
    order = np.random.RandomState(seed).permutation(len(held_out))
    half = len(held_out) // 2
    return figures, figures(held_out[order[:half]], unseen[order[half:]])


def draw(prefix, count, args):
    """uint8 [count, image_size, image_size, 3]."""
    with sampler.Sampler(prefix, args.raw) as generator, \
            cli.Progress(count, 'samples') as progress:
        shape = (count, generator.image_size, generator.image_size, 3)
        images, done = np.empty(shape, np.uint8), 0
        for batch in generator.draw_many(args.seed, count):
            images[done:done + len(batch)] = batch
            done += len(batch)
            progress.update(len(batch))
    return images


def obeyed(prefix, logits_of, labels, args):
    """{attribute: {figure: value}} of whether the faces have what is asked of them.

    The same latents and other labels with 1 and with -1 asked for. labels: what logits are of.
    `asked` and `not_asked` are the shares read as having it, `balanced` the mean share read right.
    """
    found = {}
    with sampler.Sampler(prefix, args.raw) as generator:
        latents = np.concatenate(list(generator.latents(args.seed, ASKED)))
        for number, name in enumerate(generator.attributes):
            wanted = generator.labels(args.seed, ASKED)
            shares = []
            for value in (1, -1):
                wanted[:, number] = value
                images = np.concatenate([
                    generator.draw(latents[start:start + SAMPLES_BATCH],
                                   wanted[start:start + SAMPLES_BATCH])
                    for start in range(0, ASKED, SAMPLES_BATCH)])
                logits = logits_of(images)
                if logits.shape[1] != len(labels):
                    cli.fail(f'--labels {args.labels}: reads {logits.shape[1]} labels, '
                             f'{args.labels}.json names {len(labels)}')
                shares.append(float((logits[:, labels.index(name)] > 0).mean()))
            found[name] = {'asked': shares[0], 'not_asked': shares[1],
                           'balanced': (shares[0] + 1 - shares[1]) / 2}
    return found


def nearest_sheet(samples, photographs):
    """Of the first samples those nearest to a photograph, each before its nearest photographs."""
    samples = samples[:CANDIDATES]
    distances, numbers = metrics.nearest(metrics.thumbnails(samples),
                                         metrics.thumbnails(photographs), SHEET_PHOTOGRAPHS)
    rows = [np.concatenate([samples[i:i + 1], photographs[numbers[i]]])
            for i in np.argsort(distances[:, 0], kind='stable')[:SHEET_ROWS]]
    return pictures.sheet(np.concatenate(rows), 1 + SHEET_PHOTOGRAPHS)


# the network whose features FID, KID, precision and recall compare

def read_graph(path):
    with open(path, 'rb') as f:
        return f.read()


def parse_graph(tf, graph_def, named):
    """The GraphDef in a file's content; None of None."""
    if graph_def is None:
        return None
    from google.protobuf.message import DecodeError
    frozen = tf.GraphDef()
    try:
        frozen.ParseFromString(graph_def)
    except DecodeError:
        frozen.Clear()
    if not frozen.node:
        cli.fail(f'{named}: is no frozen graph, or damaged')
    return frozen


def tensors_of(frozen, input, output):
    """The names of a network's tensors: those asked for, else those of a network that is known."""
    names = {node.name for node in frozen.node}
    known = next((pair for pair in NETWORKS if names.issuperset(pair)), NETWORKS[0])
    return input or known[0] + ':0', output or known[1] + ':0'


def read_labels(path):
    """{label: balanced accuracy on photographs} that classify.py has written beside its graph."""
    try:
        with open(path + '.json', encoding='utf-8') as f:
            return {str(name): float(accuracy) for name, accuracy in json.load(f).items()}
    except (ValueError, TypeError, AttributeError):
        cli.fail(f'--labels {path}: {path}.json is not what classify.py writes')


@contextlib.contextmanager
def network(tf, frozen, named, input, output):
    """A function from uint8 images to features, float32 [n, d], by a GraphDef; or None.

    named: the option and the file. The graph takes float images [n, h, w, 3] in [0, 255] and
    scales them itself. Its input is replaced, since the published one takes a single image.
    """
    if frozen is None:
        yield None
        return
    names = {node.name for node in frozen.node}
    for name in (input, output):
        name = name.partition(':')[0]
        if name not in names:
            cli.fail(f'{named}: has no {name}; it {contents(frozen)}')
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, None, None, 3])
        try:
            found, = tf.import_graph_def(frozen, {tensor_name(input): images},
                                         [tensor_name(output)])
        except ValueError as error:
            cli.fail(f'{named}: {str(error).splitlines()[0]}')

    def features_of(batch_of):
        features = []
        with cli.Progress(len(batch_of), 'images through the network') as progress:
            for start in range(0, len(batch_of), NETWORK_BATCH):
                batch = batch_of[start:start + NETWORK_BATCH].astype(np.float32)
                try:
                    features.append(sess.run(found, {images: batch}))
                except tf.errors.OpError as error:
                    cli.fail(f'{named}: {checkpoint.first_line(error)}')
                if features[-1].shape[:1] != (len(batch),) or (
                        features[-1].size > MOST_FEATURES * len(batch)):
                    cli.fail(f'{named}: {output} of {len(batch)} images of '
                             f'{batch.shape[1]}x{batch.shape[2]} is '
                             f'{list(features[-1].shape)}, not {len(batch)} rows of at most '
                             f'{MOST_FEATURES:,} features')
                progress.update(len(batch))
        features = np.concatenate(features)
        return features.reshape(len(features), -1).astype(np.float32, copy=False)

    with session.open_session(graph) as sess:
        yield features_of


def tensor_name(name):
    return name if ':' in name else name + ':0'


def contents(graph_def):
    """What might be meant for input and output, of a graph that lacks what was."""
    used = {name.lstrip('^').partition(':')[0] for node in graph_def.node for name in node.input}
    inputs = [node.name for node in graph_def.node if node.op == 'Placeholder']
    outputs = [node.name for node in graph_def.node if node.name not in used]
    return (f'takes {", ".join(inputs[:5]) or "nothing"} and '
            f'ends in {", ".join(outputs[:5]) or "nothing"}')


# printing

def label(key):
    name, _, side = key.rpartition('_')
    return LABELS[f'{name}_'].format(side) if side.isdigit() else LABELS[key]


def print_figures(prefix, figures, floor):
    print(f'\n{prefix:36} {"samples":>11} {"photographs":>11}')
    for key, value in figures.items():
        print(f'{label(key):36} {value:11.4f} {floor[key]:11.4f}')
    sys.stdout.flush()


def print_obeyed(found, on_photographs):
    print(f'\n{"read on faces":22} {"asked 1":>8} {"asked -1":>8} {"right":>8} {"photographs":>12}')
    for name, figures in found.items():
        print(f'{name:22} {figures["asked"]:8.1%} {figures["not_asked"]:8.1%} '
              f'{figures["balanced"]:8.1%} {on_photographs[name]:12.1%}')
    sys.stdout.flush()


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_checkpoint(parser)
    parser.add_argument('--all', action='store_true',
                        help='all checkpoints of its run, and a picture of the figures by step')
    parser.add_argument('--num', '--max-images', type=cli.int_between(FEWEST), metavar='N',
                        help=f'images a side, as many as the set has at most (half of the set, '
                             f'{MOST:,} at most)')
    parser.add_argument('--seed', type=cli.int_between(0, 2 ** 32 - 1), default=0, metavar='N',
                        help='of the noise and of which photographs (%(default)s)')

    group = parser.add_argument_group('photographs')
    group.add_argument('--dataset',
                       help='lfw, celeba, toy or any folder of images (what the checkpoint was '
                            'trained on, or lfw)')
    group.add_argument('--data-dir', default='datasets', metavar='DIR',
                       help='holds lfw/, celeba/ and the decoded arrays (%(default)s)')
    group.add_argument('--crop', type=cli.int_between(0), metavar='N',
                       help='for a checkpoint without settings: take the middle N x N pixels of '
                            "a photograph (the set's own)")
    group.add_argument('--held-out', metavar='SET',
                       help='photographs that the model was not trained on, of the same kind as '
                            "those it was (CelebA's test part)")

    group = parser.add_argument_group('network')
    group.add_argument('--inception', metavar='FILE',
                       help='frozen graph for FID, KID, precision and recall; see below')
    group.add_argument('--input', metavar='NAME',
                       help='its tensor for images, float [n, h, w, 3] in [0, 255] '
                            f'({NETWORKS[0][0]}; images of a graph of classify.py)')
    group.add_argument('--output', metavar='NAME',
                       help=f'its tensor of features ({NETWORKS[0][1]}; features)')

    group.add_argument('--labels', metavar='FILE',
                       help="classify.py's graph: reads on the faces whether they have what "
                            'was asked for, of the same latents once with and once without it')

    group = parser.add_argument_group('output')
    group.add_argument('--json', metavar='FILE', help='also write the figures and the protocol')
    group.add_argument('--sheet', action='store_true',
                       help='also a sheet of the samples most like a photograph, each before its '
                            'nearest ones: it shows photographs, so mind where it goes')
    group.add_argument('--out', default='samples/', metavar='DIR',
                       help='where the pictures go (%(default)s)')
    cli.add_tensorflow(parser)
    args = parser.parse_args(argv)
    if (args.input or args.output) and not args.inception:
        parser.error('--input, --output: go with --inception')
    return args


if __name__ == '__main__':
    sys.exit(main())
