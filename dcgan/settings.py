"""The training options: default, range, help text and behaviour on --resume, in one table.

The table OPTIONS defines the command line, its help, the settings in a checkpoint's metadata and
the checks on them. A new option needs a row there and the code that uses it.
"""
import argparse
import collections

from dcgan import augment, cli

# name: the key in settings; with --, the option on the command line. default: None if there is
# none. kind: an argparse type, a tuple of choices, or bool for a switch. on_resume: SAME or KEPT.
Option = collections.namedtuple('Option', 'name default kind group metavar help on_resume')

SAME = 'same'       # defines the run: saved; another value on --resume is an error
KEPT = 'kept'       # saved; --resume uses the saved value unless another one is given

PHOTOGRAPHS, TRAINING, RUN = 'photographs', 'training', 'the run'

DIFFAUGMENT = ('color', 'translation', 'cutout')
IMAGE_SIZES = (32, 48, 64, 96, 128)
EPOCHS = 20         # if neither --epochs nor --max-steps is given

# The settings that a loss implies, from its paper.
LOSSES = {
    'gan': {},
    # Arjovsky et al. 2017, algorithm 1. Without a clipped scale batch norm would undo the clipping.
    'wgan': {'optimizer': 'rmsprop', 'lr': 0.00005, 'd_steps': 5, 'clip': 0.01,
             'norm_d': 'scaled'},
    # Gulrajani et al. 2017, algorithm 1 and section 4
    'wgan-gp': {'lr': 0.0001, 'beta1': 0.0, 'beta2': 0.9, 'd_steps': 5, 'gradient_penalty': 10.0,
                'norm_d': 'none'}}
RECIPES = {
    'original': {},
    # The comparison is in docs/recipe.md.
    'best': {'augment': ['flip'], 'average': 0.999, 'spectral_norm': True}}


def _int(low, high=2 ** 31 - 1):
    return cli.int_between(low, high)


def _float(low, high):
    return cli.float_between(low, high)


def _table(on_resume, group, *rows):
    return [Option(name, default, kind, group, metavar, text, on_resume)
            for name, default, kind, metavar, text in rows]


OPTIONS = _table(
    SAME, PHOTOGRAPHS,
    ('dataset', 'lfw', cli.path, None,
     'lfw, celeba, toy or any folder of images (lfw; with --resume the dataset of the run there)'),
    ('image_size', 64, IMAGE_SIZES, None, 'pixels a side (%(default)s)'),
    ('crop', None, _int(0), 'N',
     'take the middle N x N pixels of each image; its largest square if it is smaller, or with 0 '
     '(lfw 150, celeba 178, else 0)'),
    ('augment', [], cli.comma_list_of(tuple(augment.AUGMENTATIONS)), 'LIST',
     'random augmentations of real images, comma-separated, from: '
     f'{", ".join(augment.AUGMENTATIONS)} (%(default)s)'),
    ('augment_crop', 4, _int(1), 'N', 'largest shift by crop, in pixels (%(default)s)'),
    ('augment_rotate', 10.0, _float(0, 180), 'X',
     'largest rotation by rotate, in degrees (%(default)s)'),
    ('augment_color', 0.1, _float(0, 1), 'X',
     'largest change of brightness, contrast, saturation and hue by color, as a fraction '
     '(%(default)s)'),
) + _table(
    SAME, TRAINING,
    ('attributes', [], cli.comma_list, 'LIST',
     "train a conditional GAN on these of CelebA's 40 labels, or of a folder's labels.csv or "
     'sub-folders, comma-separated, e.g. Smiling,Male (%(default)s)'),
    ('condition', 'projection', ('projection', 'maps'), None,
     'how D receives the attributes (%(default)s)'),
    ('batch_size', 64, _int(1), 'N', 'images in a batch (%(default)s)'),
    ('z_dim', 100, _int(1), 'N', 'size of the noise vector (%(default)s)'),
    ('lr', 0.0002, _float(0, 1), 'X', 'learning rate (0.0002; wgan: 0.00005, wgan-gp: 0.0001)'),
    ('lr_d', None, _float(0, 1), 'X', "D's learning rate, if it differs (as --lr)"),
    ('beta1', 0.5, _float(0, 1), 'X', "Adam's beta1 (%(default)s; wgan-gp: 0)"),
    ('beta2', 0.999, _float(0, 1), 'X', "Adam's beta2 (%(default)s; wgan-gp: 0.9)"),
    ('loss', 'gan', tuple(LOSSES), None,
     "gan: the original's loss. wgan: a critic with clipped weights. wgan-gp: a critic with a "
     'gradient penalty. Both set the options as in their papers (%(default)s)'),
    ('optimizer', 'adam', ('adam', 'rmsprop'), None, '(%(default)s; wgan: rmsprop)'),
    ('d_steps', 1, _int(1), 'N',
     'updates of D in each step, each on other real images (%(default)s; wgan, wgan-gp: 5)'),
    ('clip', 0.0, _float(0, 1e6), 'X', "clip D's weights to [-X, X]; 0: no (0; wgan: 0.01)"),
    ('gradient_penalty', 0.0, _float(0, 1e6), 'LAMBDA',
     "weight of the penalty on norms of D's gradient other than 1 (0; wgan-gp: 10)"),
    ('norm_d', 'batch', ('batch', 'scaled', 'none'), None,
     'normalisation in D; scaled: batch norm with a learnt scale (%(default)s; wgan: scaled, '
     'wgan-gp: none)'),
    ('g_steps', 1, _int(1), 'N',
     'updates of G in each step, on the same noise (%(default)s)'),
    ('init', 'glorot', ('glorot', 'normal'), None,
     'initial kernels: glorot_uniform, or normal with standard deviation 0.02 (%(default)s)'),
    ('average', 0.0, _float(0, 1), 'DECAY',
     "keep an EMA of G's weights with this decay, and draw samples with it (0: none)"),
    ('diffaugment', [], cli.comma_list_of(DIFFAUGMENT), 'LIST',
     'random changes of real and fake images alike before D; comma-separated, from: '
     f'{", ".join(DIFFAUGMENT)} (%(default)s)'),
    ('smooth', 0.0, _float(0, 1), 'X',
     'train D towards 1 - X on real images: one-sided label smoothing (0)'),
    ('instance_noise', 0.0, _float(0, 10), 'X',
     'standard deviation of noise added to the images before D, halved every 1,000 steps (0)'),
    ('spectral_norm', False, bool, None,
     "divide D's kernels by their largest singular value; batch norm undoes it for all layers but "
     'the first and the last, --norm-d none does not'),
    ('r1', 0.0, _float(0, 1e6), 'GAMMA',
     "weight of the penalty on D's gradients at real images; with batch norm, which mixes the "
     "images of a batch, on those of D's sum over the batch (0)"),
    ('fused_step', False, bool, None,
     "D's and G's updates in one run: the same gradients, less work"),
    ('precision', 'float32', ('float32', 'bfloat16', 'auto'), None,
     'precision of matrix products; auto: bfloat16 if the processor has it (%(default)s)'),
    ('deterministic', False, bool, None,
     "use TensorFlow 2's deterministic kernels only: the same run on the same machine gives the "
     'same bits, interrupted or not'),
    ('plain_convolutions', False, bool, None,
     "use TensorFlow's own kernels for all convolutions, even if another formulation of the same "
     'sum is faster'),
    ('sync_batch_norm', False, bool, None,
     "with --cluster: batch statistics over the batches of all workers together, as one worker "
     'with the same total batch would have them'),
    ('seed', 0, _int(0), 'N', 'seed of weights, order, augmentation and noise (%(default)s)'),
) + _table(
    SAME, None,     # set by --cluster
    ('workers', 1, _int(1), None, None),
) + _table(
    KEPT, RUN,
    ('samples_dir', None, cli.path, 'DIR',
     'folder for sheets, samples.gif, loss.csv, quality.csv, their curves and events/ '
     '(samples/dcgan_<dataset>)'),
    ('log_every', 10, _int(1), 'N', 'steps between rows of loss.csv (%(default)s)'),
    ('sample_every', 200, _int(1), 'N', 'steps between sheets (%(default)s)'),
    ('save_every', 500, _int(1), 'N', 'steps between checkpoints (%(default)s)'),
    ('max_to_keep', 5, _int(0), 'N', 'checkpoints to keep, 0: all (%(default)s)'),
)
BY_NAME = {option.name: option for option in OPTIONS}
DEFAULTS = {option.name: option.default for option in OPTIONS if option.on_resume == SAME}
SCHEDULE = {option.name: option.default for option in OPTIONS if option.on_resume == KEPT}

class SettingsError(ValueError):
    """Impossible settings; the message names them."""


# on the command line

def add_options(parser, group):
    """Adds a group of OPTIONS to an argparse parser; options that are not given become None."""
    for option in OPTIONS:
        if option.group == group:
            text = option.help.replace('%(default)s', str(format_setting(option.default)))
            keywords = {'action': 'store_true', 'default': None} if option.kind is bool else (
                {'choices': option.kind} if isinstance(option.kind, tuple) else
                {'type': option.kind, 'metavar': option.metavar})
            if isinstance(option.kind, tuple) and isinstance(option.default, int):
                keywords['type'] = int
            parser.add_argument(option_name(option.name), help=text, **keywords)


def option_name(name):
    """Returns the option of a setting: `--batch-size` for `batch_size`."""
    return '--' + name.replace('_', '-')


def as_option(name, value):
    """Returns a setting as text for the command line, e.g. `--batch-size 64`."""
    return option_name(name) if value is True else f'{option_name(name)} {format_setting(value)}'


def format_setting(value):
    """Formats a value for the command line; quotes a name that would disturb a terminal."""
    if isinstance(value, list):
        value = ','.join(value) or 'none'
    return cli.printable(value) if isinstance(value, str) else value


# saved with a checkpoint

def check_saved(saved):
    """Raises SettingsError if one of the saved values, {name: value}, is impossible."""
    for name in set(saved) & set(BY_NAME):
        if not is_possible(BY_NAME[name], saved[name]):
            raise SettingsError(f'{name} is {saved[name]!r}, as no run has it')


def is_possible(option, value):
    """Whether the command line could give this value, which was read from a file."""
    if value is None or option.kind is bool:
        return isinstance(value, type(option.default))
    if isinstance(option.kind, tuple):
        return isinstance(value, type(option.kind[0])) and value in option.kind
    if option.kind is cli.path:     # `~` is expanded on the command line alone
        return isinstance(value, str) and value != ''
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    text = ','.join(value) if is_list else str(value)
    try:
        return bool(text or is_list) and option.kind(text) == value
    except (argparse.ArgumentTypeError, ValueError):
        return False


# the settings of a run

def merge(given, recipe, saved, checkpoint):
    """Returns {name: value} of all options that are SAME on resume.

    Priority, lowest first: defaults, loss, saved, recipe, given. On resume a difference is an
    error. given: {name: value} of the command line. saved: the same of `checkpoint`, {} for a new
    run.
    """
    loss = saved.get('loss', given.get('loss', DEFAULTS['loss']))
    settings = {**DEFAULTS, **LOSSES[loss],
                **{name: value for name, value in saved.items() if name in DEFAULTS}}
    for name, value in {**RECIPES[recipe], **given}.items():
        if name not in DEFAULTS:
            continue
        if saved and name == 'workers' and value != settings[name]:
            cli.fail(f'{checkpoint} was trained by {settings[name]} workers, not by {value}')
        # The data set is compared by its pixels: its folder may have moved.
        if saved and name != 'dataset' and value != settings[name]:
            by = '' if name in given else f'--recipe {recipe}, '
            cli.fail(f'{by}{as_option(name, value)}: {checkpoint} was trained '
                     + ('without it' if settings[name] is None or value is True else
                        f'with {as_option(name, settings[name])}'))
        settings[name] = value
    check_combination(settings, given)
    return settings


def check_combination(settings, given):
    """Exits with an error sentence if settings do not go together."""
    if settings['loss'] != 'gan' and settings['smooth']:
        cli.fail(f'--smooth {settings["smooth"]}: does not apply to --loss {settings["loss"]}: a '
                 'critic does not output probabilities')
    if settings['clip'] and settings['spectral_norm']:
        cli.fail(f'--clip {settings["clip"]}: goes without --spectral-norm, which makes the '
                 'kernels large again')
    if settings['optimizer'] != 'adam' and {'beta1', 'beta2'} & set(given):
        cli.fail(f'--beta1, --beta2: {settings["optimizer"]} has none')
    if settings['gradient_penalty'] and settings['norm_d'] != 'none':
        # The penalty is on each image's own gradient (Gulrajani et al. 2017, section 4).
        cli.fail(f'--gradient-penalty {settings["gradient_penalty"]}: goes with --norm-d none')
    if settings['condition'] != DEFAULTS['condition'] and not settings['attributes']:
        cli.fail(f'--condition {settings["condition"]}: goes with --attributes')
    for kind in ('crop', 'rotate', 'color'):
        strength = given.get(f'augment_{kind}')
        if strength is not None and kind not in settings['augment']:
            cli.fail(f'--augment-{kind} {strength}: goes with --augment {kind}')
    if settings['sync_batch_norm'] and settings['workers'] == 1:
        cli.fail('--sync-batch-norm: goes with --cluster')


def merge_schedule(given, saved):
    """Returns {name: value} of all options that are KEPT: given, else saved, else the default."""
    return {name: given.get(name, saved.get(name, default))
            for name, default in SCHEDULE.items()}
