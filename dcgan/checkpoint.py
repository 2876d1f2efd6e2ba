"""Checkpoints: which one a path means, saving, restoring.

A checkpoint is the files that `tf.train.Saver` writes, `<prefix>.index` and
`<prefix>.data-00000-of-00001`, with the metadata of its run beside them in `<prefix>.json`. A
prefix with a step, `model/dcgan_lfw-2350`, belongs to a run; one without, `model/dcgan_lfw`, is a
generator that comes with the project. Graphs (`.meta`) are neither written nor read: a graph is
a program, a checkpoint is data.

TensorFlow is imported only to open a checkpoint, so a wrong path is reported at once.
"""
import contextlib
import glob
import os
import pathlib
import re

from dcgan import files, metadata
from dcgan.files import write_json
from dcgan.metadata import CheckpointError
from dcgan.settings import IMAGE_SIZES

FILE_ENDINGS = re.compile(r'\.(index|meta|json|data-\d{5}-of-\d{5})$')
STEP = re.compile(r'-(\d+)$')
EMA_SUFFIX = '/ExponentialMovingAverage'     # what tf.train.ExponentialMovingAverage adds to a name
RECORDED = re.compile(r'^(?:all_)?model_checkpoint_paths?: "(?:.*/)?([^"/]+)"$', re.MULTILINE)


# finding

def find(path):
    """Returns the prefix that a folder, a prefix or one of a checkpoint's files means.

    In a folder: the newest of a run, by Saver's own record, or else by time; without any run, the
    generator that comes with the project. Only names inside the folder count, so a folder that
    was moved still works. Raises CheckpointError that says where it looked.
    """
    if os.path.basename(path) == 'checkpoint' and os.path.isfile(path):
        path = os.path.dirname(path) or '.'
    refuse_patterns(path)
    if not os.path.isdir(path):
        if path.endswith(os.sep):
            raise CheckpointError(f'{path}: no such folder')
        prefix = normalized(FILE_ENDINGS.sub('', path))
        files.finish_replacing(os.path.dirname(prefix) or '.')
        if _is_complete(prefix):
            return prefix
        if os.path.exists(prefix + '.index'):
            raise CheckpointError(f'{prefix}: its data file is missing')
        raise CheckpointError(f'{path}: no checkpoint there (looked for {prefix}.index)')
    path = normalized(path)
    files.finish_replacing(path)
    candidates = _recorded(path) + _by_time(path)
    for prefix in candidates:
        if _is_complete(prefix):
            return prefix
    if candidates:
        raise CheckpointError(f'{candidates[0]}: its data file is missing')
    raise CheckpointError(f'{path}: no checkpoint in this folder (looked for *.index)')


def normalized(path):
    """The path without `.` parts and double slashes, beyond which TensorFlow 1.15 finds nothing.

    `..` stays: after a link, the parent is that of the link's target.
    """
    return str(pathlib.PurePath(path))


def checkpoints_of(folder, name):
    """[(step, prefix)] of the complete checkpoints <name>-<step> in a folder, by step."""
    refuse_patterns(folder)
    pattern = re.compile(re.escape(name) + r'-(\d+)')
    found = [(pattern.fullmatch(os.path.basename(prefix)), prefix) for prefix in _prefixes(folder)]
    return sorted((int(match.group(1)), prefix) for match, prefix in found
                  if match and _is_complete(prefix))


def exists(prefix):
    """Whether there is a checkpoint with this prefix, complete or not."""
    return os.path.exists(prefix + '.index')


def runs_in(folder):
    """Names, without the step, of the runs that have a checkpoint in a folder."""
    return sorted({STEP.sub('', os.path.basename(prefix)) for prefix in _prefixes(folder)
                   if STEP.search(prefix) and _is_complete(prefix)})


def is_metadata(path):
    """Whether a file is the metadata of a checkpoint."""
    return path.endswith('.json') and exists(path[:-len('.json')])


def refuse_patterns(path):
    """Raises CheckpointError if TensorFlow would read the path as a pattern."""
    if re.search(r'[*?\[]', path):
        raise CheckpointError(f'{path}: TensorFlow takes *, ? and [ in a path for a pattern; '
                              'rename it')


def _recorded(folder):
    """Prefixes that Saver's file `checkpoint` lists, newest first, as names in this folder."""
    try:
        with open(os.path.join(folder, 'checkpoint'), encoding='utf-8') as f:
            newest, *kept = RECORDED.findall(f.read()) or ['']
    except (OSError, UnicodeDecodeError):
        return []
    prefixes = [os.path.join(folder, name) for name in [newest] + kept[::-1]]
    return [prefix for prefix in prefixes if os.path.exists(prefix + '.index')]


def _by_time(folder):
    prefixes = _prefixes(folder)
    of_runs = [prefix for prefix in prefixes if STEP.search(prefix)]
    newest_first = sorted(of_runs, key=lambda p: os.path.getmtime(p + '.index'), reverse=True)
    return newest_first + [prefix for prefix in prefixes if prefix not in of_runs]


def _prefixes(folder):
    return sorted(path[:-len('.index')]
                  for path in glob.glob(os.path.join(glob.escape(folder), '*.index')))


def files_of(prefix):
    """Names, without the folder, of a checkpoint's files."""
    folder, name = os.path.split(prefix)
    return [file for file in os.listdir(folder or '.')
            if FILE_ENDINGS.search(file) and FILE_ENDINGS.sub('', file) == name]


def _is_complete(prefix):
    shards = glob.glob(glob.escape(prefix) + '.data-?????-of-?????')
    return (os.path.exists(prefix + '.index') and bool(shards)
            and len(shards) == int(shards[0][-5:]))


def read_generator(prefix):
    """(image_size, z_dim, width, has_ema) of a checkpoint's generator, from its shapes.

    z_dim: numbers of noise, without the labels that are joined to it. has_ema: whether there is an
    EMA of its weights too. Works for checkpoints of the original program, which have no metadata.
    Raises CheckpointError if the checkpoint holds no generator of this program.
    """
    with explained_errors(prefix):
        shapes = _shapes(prefix)
    first, last = (shapes.get(f'generator/{layer}/kernel', []) for layer in ('dense', 'g'))
    if len(first) != 2 or len(last) != 4 or not all(first + last):
        raise CheckpointError(f'{prefix}: holds no generator of this network')
    inputs, units = first
    z_dim = inputs - len(metadata.read_labels(prefix)[0])
    if z_dim < 1:
        raise CheckpointError(f'{prefix}: its generator is not that of {prefix}.json')
    width = last[-1]
    image_size = 16 * int(round((units / (8 * width)) ** 0.5))
    if image_size not in IMAGE_SIZES:
        raise CheckpointError(f'{prefix}: its generator draws {image_size}x{image_size}, '
                              f'which is none of {IMAGE_SIZES}')
    return image_size, z_dim, width, 'generator/g/kernel' + EMA_SUFFIX in shapes


# saving and restoring


def save(session, saver, folder, name, step, details, keep=0):
    """Writes the checkpoint <folder>/<name>-<step> with metadata details; returns the prefix.

    The metadata is written first, and Saver renames its files into place with the index last, so a
    checkpoint that is found is whole. Keeps the newest `keep` up to this step, 0: all. Raises
    CheckpointError if the folder can't be written.
    """
    import tensorflow.compat.v1 as tf
    prefix = os.path.join(folder, f'{name}-{step}')
    os.makedirs(folder, exist_ok=True)
    write_json(prefix + '.json', dict(details, format=metadata.FORMAT))
    try:
        saver.save(session, os.path.join(folder, name), global_step=step, write_meta_graph=False)
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f'{prefix}: can\'t be written ({first_line(error)})') from error
    # Saver removes one checkpoint at a save, so more would stay of a run that had kept more; and
    # it leaves the metadata.
    for path in surplus(folder, name, step, keep):
        for file in sorted(files_of(path), key=lambda file: not file.endswith('.index')):
            os.remove(os.path.join(folder, file))
    for file in os.listdir(folder):
        of_step = re.fullmatch(re.escape(name) + r'-\d+\.json', file)
        path = os.path.join(folder, file)
        if of_step and not exists(path[:-len('.json')]):
            os.remove(path)
    return prefix


def surplus(folder, name, step, keep):
    """Prefixes of a run's checkpoints up to a step beyond the newest `keep`, 0: none."""
    so_far = [path for at, path in checkpoints_of(folder, name) if at <= step]
    return so_far[:-keep] if keep else []


def check_generator_prefix(prefix, source):
    """Raises CheckpointError if the generator of checkpoint `source` can't be saved as prefix."""
    refuse_patterns(prefix)
    name = os.path.basename(prefix)
    if not name or name.startswith('.') or FILE_ENDINGS.search(name):
        raise CheckpointError(f'{prefix}: is not the name of a checkpoint, such as '
                              'model/dcgan_lfw')
    if STEP.search(name):
        raise CheckpointError(f'{prefix}: names that end in -<step> belong to runs; choose a name '
                              'without')
    if os.path.realpath(prefix) == os.path.realpath(source):
        raise CheckpointError(f'{prefix}: is the checkpoint that the generator comes from')
    metadata.read(prefix)        # a .json that is something else is not overwritten


def save_generator(session, saver, prefix, source, averaged):
    """Writes a generator as <prefix> with the metadata of checkpoint `source`.

    averaged: whether its weights are the EMA, which is noted. Files of that name are replaced once
    the new ones are complete. Raises CheckpointError if they can't be written.
    """
    import tensorflow.compat.v1 as tf
    details = metadata.read(source)
    with files.replacing(prefix, removed=lambda: files_of(prefix)) as folder:
        staged = os.path.join(folder, os.path.basename(prefix))
        try:
            saver.save(session, staged, write_meta_graph=False, write_state=False)
            if details:
                write_json(staged + '.json', dict(details, averaged=averaged))
        except (tf.errors.OpError, ValueError, OSError) as error:
            why = getattr(error, 'strerror', None) or first_line(error)
            raise CheckpointError(f'{prefix}: can\'t be written ({why})') from error


def variables_by_name(variables, averaged=False):
    """{name in a checkpoint: variable}; with averaged, the names of the EMA."""
    return {v.op.name + (EMA_SUFFIX if averaged else ''): v for v in variables}


def restore(session, saver, prefix, variables):
    """Restores a checkpoint; CheckpointError if a file is damaged or of another network.

    variables: {name: variable} that saver was made for. Their shapes are compared first, since
    restoring gives a resource variable whatever shape the file has.
    """
    with explained_errors(prefix):
        shapes = _shapes(prefix)
        for name, variable in variables.items():
            shape = variable.shape.as_list()
            if shapes.get(name, shape) != shape:
                raise CheckpointError(f'{prefix}: is of another network ({name} is {shapes[name]} '
                                      f'there, {shape} here)')
        saver.restore(session, prefix)


def verify(prefix):
    """Reads a checkpoint and its metadata; CheckpointError if either is damaged.

    TensorFlow compares a checksum of each tensor that it reads.
    """
    import tensorflow.compat.v1 as tf
    metadata.read(prefix)
    with explained_errors(prefix):
        reader = tf.train.NewCheckpointReader(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)


def _shapes(prefix):
    import tensorflow.compat.v1 as tf
    return tf.train.NewCheckpointReader(prefix).get_variable_to_shape_map()


@contextlib.contextmanager
def explained_errors(prefix):
    """Turns TensorFlow's errors on a bad checkpoint into a CheckpointError that names it."""
    import tensorflow.compat.v1 as tf
    try:
        yield
    except CheckpointError:
        raise
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
        raise CheckpointError(f'{prefix}: is of another network or incomplete '
                              f'({first_line(error)})') from error
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f'{prefix}: is damaged ({first_line(error)})') from error


def first_line(error):
    """The message of a TensorFlow error, without its traces."""
    lines = (getattr(error, 'message', None) or str(error)).strip().splitlines()
    traces = ('Graph execution error:', 'Detected at node', '    File ', 'Node: ')
    telling = [line for line in lines if line and not line.startswith(traces)]
    return telling[0] if telling else type(error).__name__
