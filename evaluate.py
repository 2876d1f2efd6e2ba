"""Measures the faces that a trained generator draws.

    python evaluate.py --ckpt model/ --dataset lfw
    python evaluate.py --ckpt model/dcgan_lfw --num 1000                a quick look
    python evaluate.py --inception classify_image_graph_def.pb --json figures.json
    python evaluate.py --all --sheet
    python evaluate.py --ckpt model/dcgan_celeba_attributes --labels model/labels.pb   does it obey?

Every figure stands beside its floor: the same figure of photographs against as many other
photographs of the set. Compare a figure only with its floor and with figures of the same protocol
(images, crop and set), which is printed first.

dcgan/metrics.py says how each figure is measured. FID, KID, precision and recall need the Inception
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

MAX_IMAGES = 10000          # images a side without --num
MIN_IMAGES = 8
KID_SUBSET = 1000
NETWORK_BATCH, SAMPLES_BATCH = 50, 64
ATTRIBUTE_LATENTS = 512     # latents that each attribute is measured with
CANDIDATES = 1000           # samples that --sheet compares with the photographs
SHEET_ROWS, SHEET_PHOTOGRAPHS = 12, 5       # samples that it shows; photographs beside each
MAX_FEATURES = 4096         # of an image; their covariance matrix has as many rows and columns
NETWORKS = ('ExpandDims', 'pool_3'), ('images', 'features')     # Inception's, classify.py's
FORMAT = 1                  # of the cached measures; a changed measure needs a new number
LABELS = {                  # {0}: the side of a pyramid's level, the image size at the first
    'swd': 'sliced Wasserstein · 10³, mean', 'swd_': 'sliced Wasserstein · 10³, {0}x{0}',
    'ms_ssim': 'MS-SSIM of pairs', 'fid': 'Fréchet distance', 'kid': 'kernel distance',
    'kid_deviation': 'kernel distance, deviation',
    'precision': 'precision', 'recall': 'recall', 'copies': 'copies of training photographs',
    'copies_deviation': 'copies, deviation by chance'}


def main(argv=None):
    return cli.run(evaluate, parse(argv), {
        DataError: '', checkpoint.CheckpointError: '--ckpt '})


def evaluate(args):
    # An output that can't be written fails before anything is measured.
    if args.json:
        cli.check_writable(args.json)
        if checkpoint.is_metadata(args.json):
            cli.fail(f'--json {args.json}: is the settings of a checkpoint')
    if args.all or args.sheet:
        os.makedirs(args.out, exist_ok=True)

    # what to compare
    newest = checkpoint.find(args.ckpt)
    cli.check_utf8('--ckpt', newest)
    saved = metadata.read(newest)
    checkpoints = checkpoints_of_run(newest) if args.all else [(saved.get('step'), newest)]
    args.dataset = args.dataset or saved.get('settings', {'dataset': 'lfw'})['dataset']
    source = datasets.find(args.dataset, args.data_dir)
    crop = find_crop(args.crop, saved, source, newest)
    inception_file = read_graph(args.inception) if args.inception else None
    labels_file = None
    if args.labels:
        labels_file, label_accuracy = read_graph(args.labels), read_labels(args.labels)
        attributes = metadata.read_labels(newest)[0]
        if not attributes:
            cli.fail(f'--labels {args.labels}: {newest} was trained without --attributes')
        for name in attributes:
            cli.check_name(f'--labels {args.labels}: label', name, label_accuracy)
    tf = session.set_up(args.verbose, args.device)
    inception_graph = parse_graph(tf, inception_file, f'--inception {args.inception}')
    labels_graph = parse_graph(tf, labels_file, f'--labels {args.labels}')
    if inception_graph:
        args.input, args.output = find_tensors(inception_graph, args.input, args.output)
    image_size = checkpoint.read_generator(newest)[0]
    photographs = cache.load(source, image_size, crop, args.data_dir, max_broken=args.max_broken)
    if len(photographs.images) < 2 * MIN_IMAGES:
        raise DataError(f'{source.folder}: {len(photographs.images)} photographs are too few '
                        f'to compare with; at least {2 * MIN_IMAGES} are needed')
    count = min(args.num or min(MAX_IMAGES, len(photographs.images) // 2),
                len(photographs.images))
    floor_count = min(count, len(photographs.images) // 2)
    is_training_set = saved.get('data', {}).get('crc32', photographs.crc32) == photographs.crc32
    if args.held_out and not is_training_set:
        cli.fail(f'--held-out {args.held_out}: {newest} was trained on other photographs than '
                 f'--dataset {source.name}')
    held_out = find_held_out(args, source, photographs, crop) if is_training_set else None

    protocol = {
        'dataset': source.name, 'photographs': len(photographs.images),
        'crc32': photographs.crc32, 'image_size': image_size, 'crop': crop,
        'resize': 'Pillow BILINEAR', 'images': count, 'floor_images': floor_count,
        'seed': args.seed, 'raw': args.raw,
        'held_out': held_out and {'dataset': held_out[0], 'photographs': len(held_out[1])},
        'network': None if inception_file is None else {
            'file': os.path.basename(args.inception), 'input': args.input, 'output': args.output,
            'sha256': hashlib.sha256(inception_file).hexdigest()},
        'labels': None if labels_file is None else {
            'file': os.path.basename(args.labels), 'latents': ATTRIBUTE_LATENTS,
            'sha256': hashlib.sha256(labels_file).hexdigest()}}
    if args.num and args.num > count:
        print(f'--num {args.num}: {source.folder} holds {count:,} photographs, so {count:,} images '
              'a side are compared')
    print_protocol(protocol, saved, newest, is_training_set)

    # measuring the real images, then each checkpoint
    with network(tf, inception_graph, f'--inception {args.inception}', args.input,
                 args.output) as compute_features, \
            network(tf, labels_graph, f'--labels {args.labels}', 'images',
                    'logits') as compute_logits:
        real, floor = measure_real(photographs, protocol, compute_features)
        if held_out:
            measure_copies, copies_floor = copies_measure(photographs.images, *held_out[1:],
                                                          args.seed)
            floor.update(copies_floor)
        evaluated = []
        for step, prefix in checkpoints:
            try:
                samples = draw(prefix, count, args)
            except checkpoint.CheckpointError as error:
                if os.path.basename(prefix) == os.path.basename(newest):
                    raise
                print(f'{error}: left out', file=sys.stderr)
                continue
            figures = compare(real, summary(samples, compute_features))
            if held_out:
                figures.update(measure_copies(samples))
            evaluated.append({'checkpoint': prefix, 'figures': figures, 'step': step})
            print_figures(prefix, figures, floor)
            if compute_logits:
                accuracy = attribute_accuracy(prefix, compute_logits, list(label_accuracy), args)
                evaluated[-1]['attributes'] = accuracy
                print_attribute_accuracy(accuracy, label_accuracy)
            if args.json:       # after each checkpoint, in case the program is stopped
                files.write_json(args.json, {'protocol': protocol, 'floor': floor,
                                             'checkpoints': evaluated})

    # pictures
    name = os.path.basename(evaluated[-1]['checkpoint'])
    if args.json:
        print(args.json)
    if args.all:
        path = os.path.join(args.out, f'measures_{checkpoint.STEP.sub("", name)}.png')
        steps = [entry['step'] for entry in evaluated]
        pictures.plot_measures(path, steps, {
            label(key): ([entry['figures'][key] for entry in evaluated], floor[key])
            for key in floor})
        print(path)
    if args.sheet and not is_training_set:
        print('no sheet of nearest photographs: these are not what it was trained on')
    elif args.sheet:
        path = os.path.join(args.out, f'nearest_{name}.png')
        pictures.write(path, nearest_sheet(samples, photographs.images))
        print(f'{path}: a sample a row, and the {SHEET_PHOTOGRAPHS} photographs nearest to it')
    return 0


# what to compare

def checkpoints_of_run(prefix):
    """[(step, prefix)] of all checkpoints of the run that prefix belongs to, by step."""
    name = checkpoint.STEP.sub('', os.path.basename(prefix))
    checkpoints = checkpoint.checkpoints_of(os.path.dirname(prefix) or '.', name)
    if not checkpoints:
        cli.fail(f'--all: {prefix} belongs to no run, its name ends in no step')
    return checkpoints


def find_crop(given, saved, source, prefix):
    """The crop that the model was trained with; exits if --crop gives another one.

    given: --crop, or None. saved: the checkpoint's metadata. Without a saved crop --crop counts,
    and without --crop the set's own.
    """
    trained = saved.get('settings', {}).get('crop')
    if given is not None and trained is not None and given != trained:
        cli.fail(f'--crop {given}: {prefix} was trained with --crop {trained}, and figures '
                 'across crops can\'t be compared')
    return next(crop for crop in (trained, given, source.crop) if crop is not None)


def find_held_out(args, source, photographs, crop):
    """(name, images, others) that the model was not trained on, or None if there are none.

    They are --held-out, otherwise CelebA's test part. others: images of yet other people, CelebA's
    valid part, or None.
    """
    def load(held_out):
        loaded = cache.load(held_out, photographs.images.shape[1], crop, args.data_dir, MIN_IMAGES,
                            args.max_broken)
        if loaded.crc32 == photographs.crc32:
            cli.fail(f'--held-out {args.held_out}: these are the photographs of --dataset '
                     f'{source.name}')
        return loaded.images

    if args.held_out:
        try:
            held_out = datasets.find(args.held_out, args.data_dir)
        except DataError as error:
            cli.fail(str(error).replace('--dataset', '--held-out', 1))
        return held_out.name, load(held_out), None
    if args.dataset != 'celeba':
        return None
    try:
        held_out = datasets.find('celeba', args.data_dir, 'test')
        images, others = load(held_out), None
    except DataError:      # missing, or too few
        return None
    with contextlib.suppress(DataError):
        others = load(datasets.find('celeba', args.data_dir, 'valid'))
    return held_out.name, images, others


def print_protocol(protocol, saved, prefix, is_training_set):
    """Prints what is compared, and which figures are left out and why."""
    crop, size = protocol['crop'], protocol['image_size']
    cut = f'middle {crop}x{crop}' if crop else 'largest square'
    print(f'{protocol["photographs"]:,} photographs of {protocol["dataset"]}, {cut} by '
          f'{protocol["resize"]} to {size}x{size}')
    floor = 'the floor likewise'
    if protocol['floor_images'] < protocol['images']:
        floor = f'for the floor {protocol["floor_images"]:,}, half of them all'
    print(f'{protocol["images"]:,} images a side, {floor}; seed {protocol["seed"]}')
    held_out, features = protocol['held_out'], protocol['network']
    if not saved:
        print(f'beside {prefix} nothing says what it was trained on: taken to be these')
    elif not is_training_set:
        print(f'{prefix} was trained on other photographs ({saved["data"]["dataset"]}): '
              'nothing is said of copies')
    elif held_out:
        print(f'copies: against {held_out["photographs"]:,} photographs of '
              f'{held_out["dataset"]} that it was not trained on')
    else:
        print('no photographs that it was not trained on, so nothing is said of copies: '
              '--held-out names some')
    if features:
        print(f'features: {features["output"]} of {features["file"]}')
    else:
        print('no --inception, so no Fréchet and kernel distance (FID, KID), precision and '
              'recall: --help says where it is published')
    sys.stdout.flush()


# measuring

def summary(images, compute_features):
    """{name: array} that compare needs of a set of images; with `features` if they are computed."""
    arrays = {f'swd_{side}': histogram for side, histogram in metrics.swd_profile(images).items()}
    pairs = len(images) // 2
    arrays['ms_ssim'] = metrics.ms_ssim(images[:pairs], images[pairs:2 * pairs])
    if compute_features:
        arrays['features'] = compute_features(images)
    return arrays


def compare(real, fake):
    """{name: figure} of fake images against real ones, from their summaries."""
    profiles = [{key: arrays[key] for key in arrays if key.startswith('swd_')}
                for arrays in (real, fake)]
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


def measure_real(photographs, protocol, compute_features):
    """(summary of the real images, {name: floor}), read from the cache or measured and kept."""
    depends_on = [FORMAT, [protocol[key] for key in ('crc32', 'images', 'seed', 'network')]]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    path = f'{photographs.path}.measures-{key}.npz'
    try:
        with np.load(path, allow_pickle=False) as file:
            cached = dict(file)
        return cached, json.loads(str(cached.pop('floor')))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass        # missing, cut short or damaged
    # Shuffled, because neighbours in a set are often photographs of one person.
    order = np.random.RandomState(protocol['seed']).permutation(len(photographs.images))
    count, floor_count = protocol['images'], protocol['floor_images']
    real = summary(photographs.images[order[:count]], compute_features)
    floor_real = real
    if floor_count < count:
        floor_real = summary(photographs.images[order[:floor_count]], compute_features)
    other_images = photographs.images[order[floor_count:2 * floor_count]]
    floor = compare(floor_real, summary(other_images, compute_features))
    with files.atomic_write(path, shared=True) as partial, open(partial, 'wb') as f:
        np.savez_compressed(f, floor=json.dumps(floor), **real)
    return real, floor


def copies_measure(photographs, held_out, others, seed):
    """(function, floor): the function takes samples and returns {name: figure} of copies.

    others: real images whose figures are the floor. If None, the floor is measured between the two
    halves of held_out; if both halves show the same people, they are near each other, and the
    floor's share is below 0.
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
    """Draws samples of a checkpoint, uint8 [count, image_size, image_size, 3]."""
    with sampler.Sampler(prefix, args.raw) as generator, \
            cli.Progress(count, 'samples') as progress:
        shape = (count, generator.image_size, generator.image_size, 3)
        images, done = np.empty(shape, np.uint8), 0
        for batch in generator.draw_many(args.seed, count):
            images[done:done + len(batch)] = batch
            done += len(batch)
            progress.update(len(batch))
    return images


def attribute_accuracy(prefix, compute_logits, labels, args):
    """{attribute: {figure: value}}: how well the samples have the attributes of their labels.

    Each attribute is set to 1 and then to -1, with the same latents and the same other labels.
    labels: names of the logits' columns. `asked` and `not_asked` are the shares that the network
    reads as having the attribute, at 1 and at -1; `balanced` is the mean share that it reads right.
    """
    accuracy = {}
    with sampler.Sampler(prefix, args.raw) as generator:
        latents = np.concatenate(list(generator.latents(args.seed, ATTRIBUTE_LATENTS)))
        for column, name in enumerate(generator.attributes):
            sample_labels = generator.labels(args.seed, ATTRIBUTE_LATENTS)
            shares = []
            for value in (1, -1):
                sample_labels[:, column] = value
                images = np.concatenate([
                    generator.draw(latents[start:start + SAMPLES_BATCH],
                                   sample_labels[start:start + SAMPLES_BATCH])
                    for start in range(0, ATTRIBUTE_LATENTS, SAMPLES_BATCH)])
                logits = compute_logits(images)
                if logits.shape[1] != len(labels):
                    cli.fail(f'--labels {args.labels}: reads {logits.shape[1]} labels, '
                             f'{args.labels}.json names {len(labels)}')
                shares.append(float((logits[:, labels.index(name)] > 0).mean()))
            accuracy[name] = {'asked': shares[0], 'not_asked': shares[1],
                              'balanced': (shares[0] + 1 - shares[1]) / 2}
    return accuracy


def nearest_sheet(samples, photographs):
    """A sheet of the samples nearest to a photograph, each before its nearest photographs.

    Only the first CANDIDATES samples are compared.
    """
    samples = samples[:CANDIDATES]
    distances, numbers = metrics.nearest(metrics.thumbnails(samples),
                                         metrics.thumbnails(photographs), SHEET_PHOTOGRAPHS)
    rows = [np.concatenate([samples[i:i + 1], photographs[numbers[i]]])
            for i in np.argsort(distances[:, 0], kind='stable')[:SHEET_ROWS]]
    return pictures.sheet(np.concatenate(rows), 1 + SHEET_PHOTOGRAPHS)


# networks: Inception for FID, KID, precision and recall; classify.py's also for labels

def read_graph(path):
    """Reads a frozen graph's file as bytes."""
    with open(path, 'rb') as f:
        return f.read()


def parse_graph(tf, content, option):
    """The GraphDef in a file's content; None for None. option: see network."""
    if content is None:
        return None
    from google.protobuf.message import DecodeError
    frozen = tf.GraphDef()
    try:
        frozen.ParseFromString(content)
    except DecodeError:
        frozen.Clear()
    if not frozen.node:
        cli.fail(f'{option}: is no frozen graph, or damaged')
    return frozen


def find_tensors(frozen, input, output):
    """(input, output), names of a network's tensors: those given, else those of NETWORKS."""
    names = {node.name for node in frozen.node}
    known = next((pair for pair in NETWORKS if names.issuperset(pair)), NETWORKS[0])
    return input or known[0] + ':0', output or known[1] + ':0'


def read_labels(path):
    """Reads {label: balanced accuracy on photographs}, which classify.py wrote beside its graph."""
    try:
        with open(path + '.json', encoding='utf-8') as f:
            return {str(name): float(accuracy) for name, accuracy in json.load(f).items()}
    except (ValueError, TypeError, AttributeError):
        cli.fail(f'--labels {path}: {path}.json is not what classify.py writes')


@contextlib.contextmanager
def network(tf, frozen, option, input, output):
    """Yields a function from uint8 images to a GraphDef's output, float32 [n, d]; None for None.

    option: the option and its file, for messages. The graph takes float images [n, h, w, 3] in
    [0, 255] and scales them itself. Its input is replaced, because the published one takes a single
    image.
    """
    if frozen is None:
        yield None
        return
    names = {node.name for node in frozen.node}
    for name in (input, output):
        name = name.partition(':')[0]
        if name not in names:
            cli.fail(f'{option}: has no {name}; it {describe(frozen)}')
    with tf.Graph().as_default() as graph:
        placeholder = tf.placeholder(tf.float32, [None, None, None, 3])
        try:
            output_tensor, = tf.import_graph_def(frozen, {tensor_name(input): placeholder},
                                                 [tensor_name(output)])
        except ValueError as error:
            cli.fail(f'{option}: {str(error).splitlines()[0]}')

    def compute_features(images):
        features = []
        with cli.Progress(len(images), 'images through the network') as progress:
            for start in range(0, len(images), NETWORK_BATCH):
                batch = images[start:start + NETWORK_BATCH].astype(np.float32)
                try:
                    features.append(sess.run(output_tensor, {placeholder: batch}))
                except tf.errors.OpError as error:
                    cli.fail(f'{option}: {checkpoint.first_line(error)}')
                if features[-1].shape[:1] != (len(batch),) or (
                        features[-1].size > MAX_FEATURES * len(batch)):
                    cli.fail(f'{option}: {output} of {len(batch)} images of '
                             f'{batch.shape[1]}x{batch.shape[2]} is '
                             f'{list(features[-1].shape)}, not {len(batch)} rows of at most '
                             f'{MAX_FEATURES:,} features')
                progress.update(len(batch))
        features = np.concatenate(features)
        return features.reshape(len(features), -1).astype(np.float32, copy=False)

    with session.open_session(graph) as sess:
        yield compute_features


def tensor_name(name):
    """The name of a tensor, also for that of its op."""
    return name if ':' in name else name + ':0'


def describe(frozen):
    """Names a graph's inputs and outputs, for the message that a tensor is missing."""
    used = {name.lstrip('^').partition(':')[0] for node in frozen.node for name in node.input}
    inputs = [node.name for node in frozen.node if node.op == 'Placeholder']
    outputs = [node.name for node in frozen.node if node.name not in used]
    return (f'takes {", ".join(inputs[:5]) or "nothing"} and '
            f'ends in {", ".join(outputs[:5]) or "nothing"}')


# printing

def label(key):
    """The printed label of a figure."""
    name, _, side = key.rpartition('_')
    return LABELS[f'{name}_'].format(side) if side.isdigit() else LABELS[key]


def print_figures(prefix, figures, floor):
    print(f'\n{prefix:36} {"samples":>11} {"photographs":>11}')
    for key, value in figures.items():
        print(f'{label(key):36} {value:11.4f} {floor[key]:11.4f}')
    sys.stdout.flush()


def print_attribute_accuracy(accuracy, label_accuracy):
    """Prints attribute_accuracy's figures beside read_labels' accuracy on photographs."""
    print(f'\n{"read on faces":22} {"asked 1":>8} {"asked -1":>8} {"right":>8} {"photographs":>12}')
    for name, figures in accuracy.items():
        print(f'{name:22} {figures["asked"]:8.1%} {figures["not_asked"]:8.1%} '
              f'{figures["balanced"]:8.1%} {label_accuracy[name]:12.1%}')
    sys.stdout.flush()


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_checkpoint(parser)
    parser.add_argument('--all', action='store_true',
                        help='all checkpoints of its run, and a picture of the figures by step')
    parser.add_argument('--num', '--max-images', type=cli.int_between(MIN_IMAGES), metavar='N',
                        help=f'images a side, at most as many as the set has (half of the set, at '
                             f'most {MAX_IMAGES:,})')
    parser.add_argument('--seed', type=cli.int_between(0, 2 ** 32 - 1), default=0, metavar='N',
                        help='seed of the noise and of the choice of photographs (%(default)s)')

    group = parser.add_argument_group('photographs')
    group.add_argument('--dataset', type=cli.path,
                       help='lfw, celeba, toy or any folder of images (what the checkpoint was '
                            'trained on, or lfw)')
    cli.add_data(group)
    group.add_argument('--crop', type=cli.int_between(0), metavar='N',
                       help='for a checkpoint without metadata: take the middle N x N pixels of '
                            "a photograph (the set's own)")
    group.add_argument('--held-out', type=cli.path, metavar='SET',
                       help='photographs that the model was not trained on, of the same kind as '
                            "its training set (CelebA's test part)")

    group = parser.add_argument_group('network')
    group.add_argument('--inception', type=cli.path, metavar='FILE',
                       help='frozen graph for FID, KID, precision and recall; see below')
    group.add_argument('--input', metavar='NAME',
                       help='its tensor for images, float [n, h, w, 3] in [0, 255] '
                            f'({NETWORKS[0][0]}; images of a graph of classify.py)')
    group.add_argument('--output', metavar='NAME',
                       help=f'its tensor of features ({NETWORKS[0][1]}; features)')

    group.add_argument('--labels', type=cli.path, metavar='FILE',
                       help="classify.py's graph: reads on the faces whether they have each "
                            'attribute, drawn from the same latents once with and once without it')

    group = parser.add_argument_group('output')
    group.add_argument('--json', type=cli.path, metavar='FILE',
                       help='also write the figures and the protocol')
    group.add_argument('--sheet', action='store_true',
                       help='also a sheet of the samples most like a photograph, each before its '
                            'nearest photographs: it shows them, so mind where it goes')
    group.add_argument('--out', type=cli.path, default='samples/', metavar='DIR',
                       help='where the pictures go (%(default)s)')
    cli.add_tensorflow(parser)
    args = parser.parse_args(argv)
    if (args.input or args.output) and not args.inception:
        parser.error('--input, --output: go with --inception')
    return args


if __name__ == '__main__':
    sys.exit(main())
