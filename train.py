"""Trains a DCGAN on photographs of faces.

    python train.py --dataset lfw                       fetched by itself
    python train.py --dataset celeba --epochs 20        from datasets/celeba/
    python train.py --dataset toy --max-steps 500       drawn faces, nothing to fetch
    python train.py --dataset path/to/photographs
    python train.py --dataset lfw --fused-step --precision auto       the fastest
    python train.py --dataset celeba --resume           goes on where it was stopped
    python train.py --dataset lfw --cluster host1:2222,host2:2222 --task 0      on host1, 1 on host2

Checkpoints go to model/, sheets of samples, losses and TensorBoard's events to
samples/dcgan_<dataset>/. Ctrl-C saves and ends.
"""
import argparse
import contextlib
import os
import subprocess
import sys
import uuid
import zlib

import numpy as np

import augment
import checkpoint
import data
import log
import options
import pictures
import session
import trainer

# What makes a run what it is: saved with each checkpoint, and the same on --resume.
DEFAULTS = {
    'dataset': 'lfw', 'image_size': 64, 'crop': None, 'augment': [],
    'augment_crop': 4, 'augment_rotate': 10.0, 'augment_color': 0.1, 'batch_size': 64,
    'z_dim': 100, 'lr': 0.0002, 'lr_d': None, 'beta1': 0.5, 'init': 'glorot', 'g_steps': 1,
    'average': 0.0, 'diffaugment': [], 'smooth': 0.0, 'instance_noise': 0.0,
    'spectral_norm': False, 'r1': 0.0, 'attributes': [], 'condition': 'projection', 'loss': 'gan',
    'optimizer': 'adam', 'beta2': 0.999, 'd_steps': 1, 'clip': 0.0, 'gradient_penalty': 0.0,
    'norm_d': 'batch', 'fused_step': False, 'precision': 'float32', 'deterministic': False,
    'plain_convolutions': False, 'seed': 0, 'workers': 1, 'sync_batch_norm': False}
# What a loss brings with it, as its paper has it.
LOSSES = {
    'gan': {},
    # Arjovsky et al. 2017, algorithm 1. Batch norm without a scale to clip would undo the clipping.
    'wgan': {'optimizer': 'rmsprop', 'lr': 0.00005, 'd_steps': 5, 'clip': 0.01,
             'norm_d': 'scaled'},
    # Gulrajani et al. 2017, algorithm 1 and section 4
    'wgan-gp': {'lr': 0.0001, 'beta1': 0.0, 'beta2': 0.9, 'd_steps': 5, 'gradient_penalty': 10.0,
                'norm_d': 'none'}}
RECIPES = {
    'original': {},
    # docs/recipe.md has the comparison.
    'best': {'augment': ['flip'], 'average': 0.999, 'spectral_norm': True}}
DIFFAUGMENT = ('color', 'translation', 'cutout')
# What these settings may be, lists: of what.
CHOICES = {
    'image_size': (32, 48, 64, 96, 128), 'augment': tuple(augment.AUGMENTATIONS),
    'condition': ('projection', 'maps'), 'loss': tuple(LOSSES), 'optimizer': ('adam', 'rmsprop'),
    'norm_d': ('batch', 'scaled', 'none'), 'init': ('glorot', 'normal'),
    'diffaugment': DIFFAUGMENT, 'precision': ('float32', 'bfloat16', 'auto')}
KEPT_LABELS = 1000      # rows of them that a checkpoint knows, to draw by
EPOCHS = 20
LFW_COUNT = 13233


def main(argv=None):
    return options.run(train, parse(argv), {data.DataError: '', checkpoint.CheckpointError: ''})


def train(args):
    args.dataset = find_dataset(args)
    source = find_photographs(args)
    name = f'dcgan_{source.name}'
    above, folder = os.path.split(os.path.realpath(args.model_dir))
    if folder == checkpoint.BEST and checkpoint.of_run(above, name):
        options.fail(f'--model-dir {args.model_dir}: the run in {above} keeps its best checkpoint '
                     'there; a copy of it elsewhere goes on with --resume')
    samples_dir = args.samples_dir or os.path.join('samples', name)
    with contextlib.ExitStack() as alone:
        if args.task == 0 and not args.dry_run:         # it keeps what comes of the run
            folders = {os.path.realpath(folder): folder for folder in (args.model_dir, samples_dir)}
            for folder in folders.values():
                os.makedirs(folder, exist_ok=True)
                alone.enter_context(checkpoint.lock(folder))
            checkpoint.remove_remains(args.model_dir, name)
        step, prefix = starting_point(args, name) if args.task == 0 else (0, None)
        if not args.cluster or args.dry_run:
            return train_on(source, name, samples_dir, args, step, prefix)
        session.set_up(args.verbose, args.device)
        import cluster
        try:
            workers = cluster.Cluster(args.cluster, args.task)
            return train_on(source, name, samples_dir, args, step, prefix, workers)
        except cluster.ClusterError as error:
            options.fail(error)


def train_on(source, name, samples_dir, args, step, prefix, workers=None):
    # settings: the saved ones on --resume, else the defaults, under what was asked for
    saved = checkpoint.settings(prefix) if prefix else {}
    if workers:
        step, saved = workers.share([step, saved])[0]
    of = prefix or "worker 0's checkpoint"
    settings = merge_settings(args, saved.get('settings', {}), of)
    if settings['crop'] is None:
        settings['crop'] = source.crop
    step_size = trainer.step_size(settings)
    for key, value in settings.items():
        print(f'{key:16} {shown(value)}')

    # data
    labels = find_labels(source, settings['attributes'])
    if args.dry_run:
        print_plan(args, source, len(source.names), step_size, step, saved)
        if args.sheet:
            images = data.load(source, settings['image_size'], settings['crop'], args.data_dir,
                               step_size).images
            batches = trainer.Batches(images, labels, settings)
            pictures.write(args.sheet, pictures.sheet(batches.photographs(step)))
            print(args.sheet)
        return 0
    photographs = data.load(source, settings['image_size'], settings['crop'], args.data_dir,
                            step_size)
    images = photographs.images
    seen = {'dataset': source.name, 'photographs': len(images), 'crc32': photographs.crc32}
    described = {}
    if labels is not None:
        labels = labels[np.isin(source.names, photographs.names)]       # but for broken ones
        seen['labels_crc32'] = zlib.crc32(labels.tobytes())
        described['labels'] = checkpoint.labels_to_text(labels[
            data.rng(settings['seed'], 0, 'labels').permutation(len(labels))[:KEPT_LABELS]])
    if workers:
        workers.agree({
            **{'--' + key.replace('_', '-'): shown(value) for key, value in settings.items()
               if key != 'dataset'},
            'the number of photographs': len(images), "the photographs' checksum": seen['crc32'],
            "the labels' checksum": seen.get('labels_crc32')})
    if saved.get('data', seen) != seen:
        options.fail(f'{source.folder} is not what {of} was trained on: '
                     f'{saved["data"]["photographs"]:,} photographs then, {len(images):,} now, '
                     'or other pixels or labels')
    per_epoch, last_step, end = print_plan(args, source, len(images), step_size, step, saved)
    if workers:
        workers.agree({'the last step': last_step})
        if step >= last_step:       # what is left to do is for worker 0 alone
            workers.leave()
            workers = None
    # A run that was stopped after a checkpoint may have left it unmeasured, its last one without
    # the GIF.
    unmeasured = bool(prefix) and 'figures' not in saved
    gif = os.path.exists(os.path.join(samples_dir, log.GIF))
    if step >= last_step and (args.task or gif and not unmeasured):
        print('nothing left to do')
        return 0
    if args.task == 0:
        print(f'{"checkpoints":16} {os.path.join(args.model_dir, name)}-<step>')
        print(f'{"samples":16} {samples_dir}', flush=True)
    facts = {'run': saved.get('run') or uuid.uuid4().hex, 'settings': settings, 'end': end,
             'data': seen, 'computed_in': saved.get('computed_in'), **described}
    plan = trainer.Plan(name, samples_dir, settings, facts, step, prefix, unmeasured, per_epoch,
                        last_step)
    return trainer.run(plan, args, trainer.Batches(images, labels, settings, args.task), workers)


def find_dataset(args):
    """What --dataset says; without it that of the one run there is to --resume, else LFW."""
    if args.dataset or not args.resume:
        return args.dataset or DEFAULTS['dataset']
    found = checkpoint.runs(args.model_dir)
    if len(found) > 1:
        options.fail(f'--resume: {args.model_dir} holds more than one run, {", ".join(found)}; '
                     '--dataset says which')
    for name in found:
        for _, prefix in reversed(checkpoint.of_run(args.model_dir, name)):
            with contextlib.suppress(checkpoint.CheckpointError):   # starting_point says so
                facts = checkpoint.settings(prefix)
                if facts:
                    return facts['settings']['dataset']
    return DEFAULTS['dataset']


def find_photographs(args):
    """The Source of --dataset; LFW is fetched where there is no photograph of it."""
    try:
        source = data.find(args.dataset, args.data_dir)
    except data.DataError:
        if args.dataset != 'lfw' or args.dry_run:
            raise
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'download_lfw.py')
        code = subprocess.call([sys.executable, program, '--data-dir', args.data_dir])
        if code:
            sys.exit(code)      # it has said why
        source = data.find(args.dataset, args.data_dir)
    if args.dataset == 'lfw' and len(source.names) != LFW_COUNT:
        print(f'{source.folder} holds {len(source.names):,} of the {LFW_COUNT:,} photographs')
    return source


def starting_point(args, name):
    """(step, prefix) of the newest whole checkpoint of this run, (0, None) for a new one."""
    kept = checkpoint.of_run(args.model_dir, name)
    best = checkpoint.of_run(os.path.join(args.model_dir, checkpoint.BEST), name)
    if best and not kept:
        options.fail(f'{best[-1][1]} is all that is left of a run: a copy of it in another '
                     '--model-dir goes on with --resume')
    if kept and not args.resume:
        options.fail(f'{kept[-1][1]} is there already: --resume goes on from it, '
                     'another --model-dir begins anew')
    if args.resume and not kept:
        print(f'no checkpoint {name}-<step> in {args.model_dir} yet: beginning at step 0')
    if not kept:
        return 0, None
    session.set_up(args.verbose, args.device)       # to read them
    # Those of the original program have no settings; of this one's, whose have none has lost them.
    settings = any(os.path.exists(prefix + '.json') for _, prefix in kept)
    for step, prefix in reversed(kept):
        if is_whole(prefix, settings):
            if not settings:
                print(f'{prefix}: no settings beside it, taken to have been trained with the '
                      'defaults', file=sys.stderr)
            return step, prefix
    options.fail(f'{args.model_dir}: none of the {len(kept)} checkpoints {name}-<step> is whole'
                 + (f'; a copy of {best[-1][1]} in another --model-dir goes on'
                    if best and is_whole(best[-1][1]) else ''))


def is_whole(prefix, settings=True):
    """Whether a checkpoint can be read; what keeps it from that is said.

    settings: whether there must be some beside it.
    """
    try:
        checkpoint.verify(prefix)
        if settings and not checkpoint.settings(prefix):
            raise checkpoint.CheckpointError(f'{prefix}.json is missing')
    except checkpoint.CheckpointError as error:
        print(f'{error}: it is not used', file=sys.stderr)
        return False
    return True


def find_labels(source, attributes):
    """The photographs' labels, int8 [n, l] in the order of attributes; None without any."""
    if not attributes:
        return None
    known, labels = data.attributes(source.folder, source.names)
    for name in attributes:
        options.check_name('--attributes', name, known)
    return labels[:, [known.index(name) for name in attributes]]


def print_plan(args, source, count, step_size, step, saved):
    """(steps an epoch, last step, {epochs, max_steps}), also printed.

    A run that is resumed without a new end keeps the one it had.
    """
    if count < step_size:
        raise data.DataError(f'{source.folder}: {count:,} photographs are too few: '
                             f'a step takes {step_size}')
    end = {'epochs': args.epochs, 'max_steps': args.max_steps}
    if not any(end.values()):
        end = saved.get('end', {'epochs': EPOCHS, 'max_steps': None})
    per_epoch = count // step_size
    ends = [end['max_steps'], end['epochs'] and end['epochs'] * per_epoch]
    last_step = min(steps for steps in ends if steps)
    print(f'{"photographs":16} {count:,} of {source.folder}: {per_epoch:,} steps an epoch')
    print(f'{"steps":16} {step:,} done of {last_step:,}')
    return per_epoch, last_step, end


def merge_settings(args, saved, prefix):
    """DEFAULTS under the saved settings under recipe and options given; these must not differ."""
    for key in set(saved) & set(DEFAULTS):
        if not is_like(saved[key], DEFAULTS[key]) or not is_choice(key, saved[key]):
            options.fail(f'{prefix}.json: {key} is {saved[key]!r}, as no run has it')
    loss = saved.get('loss', args.loss or DEFAULTS['loss'])
    settings = {**DEFAULTS, **LOSSES[loss], **saved}
    given = {key: getattr(args, key) for key in DEFAULTS if getattr(args, key) is not None}
    for key, value in dict(RECIPES[args.recipe], **given).items():
        if saved and key == 'workers' and value != settings[key]:
            options.fail(f'{prefix} was trained by {settings[key]} workers, not by {value}')
        # The data set is compared by its pixels: its folder may have moved.
        if saved and key != 'dataset' and value != settings[key]:
            by = '' if key in given else f'--recipe {args.recipe}, '
            options.fail(f'{by}{as_option(key, value)}: {prefix} was trained '
                         + ('without it' if settings[key] is None or value is True else
                            f'with {as_option(key, settings[key])}'))
        settings[key] = value
    if settings['loss'] != 'gan' and settings['smooth']:
        options.fail(f'--smooth {settings["smooth"]}: a critic, as --loss {settings["loss"]} has '
                     'it, tells no probabilities')
    if settings['clip'] and settings['spectral_norm']:
        options.fail(f'--clip {settings["clip"]}: goes without --spectral-norm, which makes the '
                     'kernels large again')
    if settings['optimizer'] != 'adam' and {'beta1', 'beta2'} & set(given):
        options.fail(f'--beta1, --beta2: {settings["optimizer"]} has none')
    if settings['gradient_penalty'] and settings['norm_d'] != 'none':
        # It is one on each image's own slope (Gulrajani et al. 2017, section 4).
        options.fail(f'--gradient-penalty {settings["gradient_penalty"]}: goes with --norm-d none')
    if settings['condition'] != DEFAULTS['condition'] and not settings['attributes']:
        options.fail(f'--condition {settings["condition"]}: goes with --attributes')
    for kind in ('crop', 'rotate', 'color'):
        strength = given.get(f'augment_{kind}')
        if strength is not None and kind not in settings['augment']:
            options.fail(f'--augment-{kind} {strength}: goes with --augment {kind}')
    if settings['sync_batch_norm'] and settings['workers'] == 1:
        options.fail('--sync-batch-norm: goes with --cluster')
    return settings


def as_option(key, value):
    """A setting as on the command line."""
    option = '--' + key.replace('_', '-')
    return option if value is True else f'{option} {shown(value)}'


def is_like(value, default):
    """Whether a saved setting is of its default's kind."""
    if default is None:
        return value is None or is_like(value, 0)
    return isinstance(value, (int, float) if isinstance(default, (int, float)) else type(default))


def is_choice(key, value):
    """Whether a saved setting is one of those that there are."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) if key == 'attributes' else one in CHOICES.get(key, [one])
               for one in values)


def shown(value):
    return ','.join(value) or 'none' if isinstance(value, list) else value


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = options.Parser(description=summary, epilog=details,
                            formatter_class=argparse.RawDescriptionHelpFormatter)

    group = parser.add_argument_group('photographs')
    group.add_argument('--dataset',
                       help='lfw, celeba, toy or any folder of images (lfw; with --resume what '
                            'the run there was trained on)')
    group.add_argument('--data-dir', default='datasets', metavar='DIR',
                       help='holds lfw/, celeba/ and the decoded arrays (%(default)s)')
    group.add_argument('--image-size', type=int, choices=CHOICES['image_size'],
                       help='pixels a side (64)')
    group.add_argument('--crop', type=options.whole(0), metavar='N',
                       help='take the middle N x N pixels of a photograph, of a smaller one and '
                            'with 0 the largest square (lfw 150, celeba 178, else 0)')
    group.add_argument('--augment', type=options.names(CHOICES['augment']), metavar='LIST',
                       help='what is done to photographs at random, comma-separated, of: '
                            f'{", ".join(CHOICES["augment"])} (none)')
    group.add_argument('--augment-crop', type=options.whole(1), metavar='N',
                       help='pixels that crop shifts by at most (4)')
    group.add_argument('--augment-rotate', type=options.real(0, 180), metavar='X',
                       help='degrees that rotate turns by at most (10)')
    group.add_argument('--augment-color', type=options.real(0, 1), metavar='X',
                       help='share by which color changes brightness, contrast, saturation and '
                            'hue at most (0.1)')

    group = parser.add_argument_group('training')
    group.add_argument('--recipe', choices=RECIPES, default='original',
                       help="settings in a word: the original's, or what gave the best faces here "
                            '(%(default)s); options given beside it come first')
    group.add_argument('--epochs', type=options.whole(1), metavar='N',
                       help=f'times through the photographs ({EPOCHS}, without --max-steps)')
    group.add_argument('--max-steps', type=options.whole(1), metavar='N',
                       help='end after N steps in all')
    group.add_argument('--attributes', type=options.listed, metavar='LIST',
                       help='also learn to draw these of the 40 labels of CelebA on request, '
                            'comma-separated: Smiling,Male (none)')
    group.add_argument('--condition', choices=CHOICES['condition'],
                       help='how D sees attributes (projection)')
    group.add_argument('--batch-size', type=options.whole(1), metavar='N', help='images (64)')
    group.add_argument('--z-dim', type=options.whole(1), metavar='N',
                       help='numbers of noise an image (100)')
    group.add_argument('--lr', type=options.real(0, 1), metavar='X',
                       help='learning rate (0.0002; wgan: 0.00005, wgan-gp: 0.0001)')
    group.add_argument('--lr-d', type=options.real(0, 1), metavar='X',
                       help="D's learning rate where it is another one (as --lr)")
    group.add_argument('--beta1', type=options.real(0, 1), metavar='X',
                       help="Adam's beta1 (0.5; wgan-gp: 0)")
    group.add_argument('--beta2', type=options.real(0, 1), metavar='X',
                       help="Adam's beta2 (0.999; wgan-gp: 0.9)")
    group.add_argument('--loss', choices=CHOICES['loss'],
                       help="gan: the original's. wgan: a critic with clipped weights. wgan-gp: "
                            "one with a penalty on its slope. These bring their papers' settings "
                            'with them (gan)')
    group.add_argument('--optimizer', choices=CHOICES['optimizer'], help='(adam; wgan: rmsprop)')
    group.add_argument('--d-steps', type=options.whole(1), metavar='N',
                       help="runs of D's optimizer a step, each on other photographs (1; wgan, "
                            'wgan-gp: 5)')
    group.add_argument('--clip', type=options.real(0, 1e6), metavar='X',
                       help="keep D's weights in [-X, X], 0: no (0; wgan: 0.01)")
    group.add_argument('--gradient-penalty', type=options.real(0, 1e6), metavar='LAMBDA',
                       help="weight of the penalty on D's slopes other than 1 (0; wgan-gp: 10)")
    group.add_argument('--norm-d', choices=CHOICES['norm_d'],
                       help='normalisation in D; scaled: batch norm with a learnt scale (batch; '
                            'wgan: scaled, wgan-gp: none)')
    group.add_argument('--g-steps', type=options.whole(1), metavar='N',
                       help="runs of G's optimizer a step, on the same noise (1)")
    group.add_argument('--init', choices=CHOICES['init'],
                       help='initial kernels: glorot_uniform, or normal of deviation 0.02 (glorot)')
    group.add_argument('--average', type=options.real(0, 1), metavar='DECAY',
                       help="also keep a moving average of G's weights, and draw with it (0: none)")
    group.add_argument('--diffaugment', type=options.names(DIFFAUGMENT), metavar='LIST',
                       help='change at random what D sees of photographs and drawings alike; '
                            f'comma-separated, of: {", ".join(DIFFAUGMENT)} (none)')
    group.add_argument('--smooth', type=options.real(0, 1), metavar='X',
                       help='D is to say 1 - X to photographs: one-sided label smoothing (0)')
    group.add_argument('--instance-noise', type=options.real(0, 10), metavar='X',
                       help='deviation of noise on all that D sees, halved every 1,000 steps (0)')
    group.add_argument('--spectral-norm', action='store_true', default=None,
                       help="divide D's kernels by their largest singular value")
    group.add_argument('--r1', type=options.real(0, 1e6), metavar='GAMMA',
                       help="weight of the penalty on D's slopes at photographs; with batch norm, "
                            "which mixes them, on those of the batch's sum (0)")
    group.add_argument('--fused-step', action='store_true', default=None,
                       help="D's and G's update in one run: the same gradients, less work")
    group.add_argument('--precision', choices=CHOICES['precision'],
                       help='in which matrices are multiplied; auto: bfloat16 where the processor '
                            'has it (float32)')
    group.add_argument('--deterministic', action='store_true', default=None,
                       help="only TensorFlow 2's deterministic kernels: the same run on the same "
                            'machine comes out the same to the bit, stopped or not')
    group.add_argument('--plain-convolutions', action='store_true', default=None,
                       help="TensorFlow's own kernels for all convolutions, also where another "
                            'formulation of the same sum is faster')
    group.add_argument('--sync-batch-norm', action='store_true', default=None,
                       help="with --cluster: batch statistics of all workers' shares, as one "
                            'worker with a batch as large would have them')
    group.add_argument('--seed', type=options.whole(0), metavar='N',
                       help='of the weights, the order, augmentation and noise (0)')

    group = parser.add_argument_group('the run')
    group.add_argument('--model-dir', default='model', metavar='DIR',
                       help='where checkpoints go (%(default)s)')
    group.add_argument('--samples-dir', metavar='DIR',
                       help='where sheets, samples.gif, loss.csv, quality.csv, their curves '
                            'and events/ go (samples/dcgan_<dataset>)')
    group.add_argument('--resume', action='store_true',
                       help='go on from the newest checkpoint, with its settings')
    group.add_argument('--log-every', type=options.whole(1), default=10, metavar='N',
                       help='steps between rows of loss.csv (%(default)s)')
    group.add_argument('--sample-every', type=options.whole(1), default=200, metavar='N',
                       help='steps between sheets (%(default)s)')
    group.add_argument('--save-every', type=options.whole(1), default=500, metavar='N',
                       help='steps between checkpoints (%(default)s)')
    group.add_argument('--max-to-keep', type=options.whole(0), default=5, metavar='N',
                       help='checkpoints that stay, 0: all (%(default)s)')
    group.add_argument('--cluster', type=options.addresses, metavar='HOST:PORT,...',
                       help='train with a process at each of these addresses, in a network of '
                            'their own: who reaches a port can do what the process can')
    group.add_argument('--task', type=options.whole(0), metavar='N',
                       help='with --cluster: which of them this one is; number 0 keeps the '
                            'checkpoints')
    group.add_argument('--dry-run', action='store_true',
                       help='print settings and counts, and end')
    group.add_argument('--sheet', metavar='FILE',
                       help='with --dry-run: also write the photographs of the next step, as '
                            '--augment has them')
    options.add_tensorflow(group)
    args = parser.parse_args(argv)
    options.check_utf8('--model-dir', args.model_dir)
    options.check_utf8('--samples-dir', args.samples_dir or '')
    if args.sheet and not args.dry_run:
        parser.error('--sheet goes with --dry-run')
    if bool(args.cluster) != (args.task is not None):
        parser.error('--cluster goes with --task, the number of this worker, and that with it')
    if args.cluster and args.resume and not args.dataset:
        parser.error('--resume with --cluster: --dataset says which photographs; what the run was '
                     'trained on stands beside its checkpoints, which one worker has')
    args.workers = len(args.cluster or [0])
    args.task = args.task or 0
    if args.task and args.dry_run:
        parser.error('--dry-run: of a --cluster is for --task 0, which knows the checkpoints')
    if args.task >= args.workers:
        parser.error(f'--task {args.task}: the --cluster has 0 to {args.workers - 1}')
    return args


if __name__ == '__main__':
    sys.exit(main())
