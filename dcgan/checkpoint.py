"""Which checkpoint a path means, what is in it, its settings; saving and restoring.

A checkpoint is the files that `tf.train.Saver` writes, `<prefix>.index` and
`<prefix>.data-00000-of-00001`, with the settings of its run beside them in `<prefix>.json`. A
prefix with a step, `model/dcgan_lfw-2350`, belongs to a run; one without, `model/dcgan_lfw`, is a
generator that comes with the project. Graphs (`.meta`) are neither written nor read: a graph is
a program, a checkpoint is data.

TensorFlow is imported only where a checkpoint is opened: a wrong path is answered at once.
"""
import contextlib
import filecmp
import glob
import json
import math
import os
import pathlib
import re
import shutil
import socket
import uuid

import numpy as np

from dcgan import files
from dcgan.files import write_json
from dcgan.settings import IMAGE_SIZES

try:
    import fcntl
except ImportError:     # not on Windows, where nothing keeps a second run out
    fcntl = None

FILE_ENDINGS = re.compile(r'\.(index|meta|json|data-\d{5}-of-\d{5})$')
FORMAT = 1              # of <prefix>.json; a change that an older program can't read counts it up
LOCK = '.lock'          # file in a folder that a run trains into
BEST = 'best'           # folder beside a run's checkpoints that keeps the best one
STEP = re.compile(r'-(\d+)$')
AVERAGE = '/ExponentialMovingAverage'     # what tf.train.ExponentialMovingAverage adds to a name
RECORDED = re.compile(r'^(?:all_)?model_checkpoint_paths?: "(?:.*/)?([^"/]+)"$', re.MULTILINE)


class CheckpointError(ValueError):
    """No checkpoint, or none that can be used; the message names the path."""


# which one

def find(path):
    """The prefix that a folder, a prefix or one of a checkpoint's files means.

    In a folder: the newest of a run, by Saver's own record, or else by time; without any run, the
    generator that comes with the project. Only names inside the folder count, so a folder that
    was moved still works. Raises CheckpointError saying where it looked.
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
    """A path without `.` parts and double slashes; TensorFlow 1.15 finds nothing beyond these.

    `..` stays: behind a link it is not what it looks like.
    """
    return str(pathlib.PurePath(path))


def of_run(folder, name):
    """[(step, prefix)] of the complete checkpoints <name>-<step> in folder, by step."""
    refuse_patterns(folder)
    pattern = re.compile(re.escape(name) + r'-(\d+)')
    found = [(pattern.fullmatch(os.path.basename(prefix)), prefix) for prefix in _prefixes(folder)]
    return sorted((int(match.group(1)), prefix) for match, prefix in found
                  if match and _is_complete(prefix))


def is_one(prefix):
    """Whether there is a checkpoint of that prefix, complete or not."""
    return os.path.exists(prefix + '.index')


def runs(folder):
    """The names of the runs that have a checkpoint in a folder, without the step."""
    return sorted({STEP.sub('', os.path.basename(prefix)) for prefix in _prefixes(folder)
                   if STEP.search(prefix) and _is_complete(prefix)})


def is_settings(path):
    """Whether a file is the one of settings that stands beside a checkpoint."""
    return path.endswith('.json') and is_one(path[:-len('.json')])


def refuse_patterns(path):
    """CheckpointError where TensorFlow would take a path for another one."""
    if re.search(r'[*?\[]', path):
        raise CheckpointError(f'{path}: TensorFlow takes *, ? and [ in a path for a pattern; '
                              'rename it')


def _recorded(folder):
    """Prefixes named in Saver's file `checkpoint`, newest first, as names in this folder."""
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


def _files(prefix):
    """Names, without the folder, of the files that a checkpoint consists of."""
    folder, name = os.path.split(prefix)
    return [file for file in os.listdir(folder or '.')
            if FILE_ENDINGS.search(file) and FILE_ENDINGS.sub('', file) == name]


def _is_complete(prefix):
    shards = glob.glob(glob.escape(prefix) + '.data-?????-of-?????')
    return (os.path.exists(prefix + '.index') and bool(shards)
            and len(shards) == int(shards[0][-5:]))


# what is in it

def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(low):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _text(value):
    return isinstance(value, str) and value != ''


def _name(value):
    """A name that is printed as it is, so it must not disturb a terminal."""
    return _text(value) and value.isprintable()


def _end(value):
    ends = [value.get('epochs'), value.get('max_steps')] if isinstance(value, dict) else []
    return any(ends) and all(end is None or _whole(1)(end) for end in ends)


# What <prefix>.json holds: always, and what older versions or other programs may leave out.
REQUIRED = {
    ('settings', 'dataset'): _text, ('settings', 'crop'): _whole(0), ('step',): _whole(0),
    ('epoch',): lambda value: _number(value) and value >= 0, ('data', 'dataset'): _name,
    ('data', 'photographs'): _whole(1), ('data', 'crc32'): _whole(0)}
OPTIONAL = {
    ('run',): _text, ('end',): _end, ('computed_in',): _text, ('figures', 'swd'): _number,
    ('averaged',): lambda value: isinstance(value, bool),
    ('schedule',): lambda value: isinstance(value, dict)}


def settings(prefix):
    """What was written beside the checkpoint, {} where nothing was (the original program's)."""
    try:
        with open(prefix + '.json', encoding='utf-8') as f:
            facts = json.load(f)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{prefix}.json can\'t be read: {error}') from error
    if isinstance(facts, dict) and facts.get('format', FORMAT) != FORMAT:
        raise CheckpointError(f'{prefix}.json is of format {facts["format"]}, from another version '
                              f'of this program, which knows {FORMAT}')
    if not isinstance(facts, dict) or not any(_at(facts, *where) for where in REQUIRED):
        raise CheckpointError(f'{prefix}.json holds no settings of this program')
    for where, is_right in [*REQUIRED.items(), *OPTIONAL.items()]:
        value = _at(facts, *where)
        if not is_right(value) and (value is not None or where in REQUIRED):
            raise CheckpointError(f'{prefix}.json: {" ".join(where)} is {value!r}, as no run has '
                                  'it')
    return facts


def _at(facts, *where):
    for key in where:
        facts = facts.get(key) if isinstance(facts, dict) else None
    return facts


def labels_to_text(labels):
    """Labels, an array [n, l] of -1 and 1, as a list of strings of - and +."""
    return [''.join('+' if value > 0 else '-' for value in row) for row in labels]


def labels_of(prefix):
    """(names of the attributes that its generator is asked for, int8 [n, l] of rows of them).

    The rows are some of the training set's, to draw by. ([], an array [0, 0]) for a generator that
    knows no attributes.
    """
    facts = settings(prefix)
    names = facts.get('settings', {}).get('attributes', [])
    rows = facts.get('labels', [])
    if not _are_texts(names) or not _are_texts(rows) or bool(names) != bool(rows) or not all(
            map(_name, names)) or any(
            len(row) != len(names) or set(row) - set('+-') for row in rows):
        raise CheckpointError(f'{prefix}.json: its labels are not those of its attributes')
    labels = np.array([[1 if sign == '+' else -1 for sign in row] for row in rows], np.int8)
    return names, labels.reshape(len(rows), len(names))


def _are_texts(values):
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def generator_facts(prefix):
    """(image_size, z_dim, width, averaged) of the generator in a checkpoint, read off its shapes.

    z_dim: numbers of noise, without the labels that are joined to it. averaged: whether there is a
    moving average of its weights too. A checkpoint of the original program, which has no settings
    beside it, serves as well.
    """
    with _named(prefix):
        shapes = _shapes(prefix)
    first, last = (shapes.get(f'generator/{layer}/kernel', []) for layer in ('dense', 'g'))
    if len(first) != 2 or len(last) != 4 or not all(first + last):
        raise CheckpointError(f'{prefix}: holds no generator of this network')
    inputs, units = first
    z_dim = inputs - len(labels_of(prefix)[0])
    if z_dim < 1:
        raise CheckpointError(f'{prefix}: its generator is not that of {prefix}.json')
    width = last[-1]
    image_size = 16 * int(round((units / (8 * width)) ** 0.5))
    if image_size not in IMAGE_SIZES:
        raise CheckpointError(f'{prefix}: its generator draws {image_size}x{image_size}, '
                              f'which is none of {IMAGE_SIZES}')
    return image_size, z_dim, width, 'generator/g/kernel' + AVERAGE in shapes


# saving and restoring

@contextlib.contextmanager
def lock(folder):
    """Keeps other runs out of a folder; CheckpointError, naming the owner, where one is in it.

    The lock is the system's, on a file that says who holds it: a run that was killed holds none,
    whatever file it left.
    """
    path = os.path.join(folder, LOCK)
    if fcntl is None:
        yield
        return
    while True:
        with open(path, 'a+', encoding='utf-8') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise CheckpointError(f'{folder}: another run trains into it ({file.read()}); '
                                      'a second one needs folders of its own') from None
            except OSError:     # a file system without locks
                yield
                return
            if not (os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()),
                                                              os.stat(path))):
                continue        # its owner has just ended and removed it
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}')
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
            return


def remove_leftovers(folder, name):
    """Removes what a run <name> that was killed while it saved has left in its folder and BEST.

    That is what was half written, and files of a checkpoint whose index is not there.
    """
    of_step = re.compile(re.escape(name) + r'-\d+')
    half_written = re.compile(r'(.*)\.(json\.part|(index|data-\d{5}-of-\d{5})\.tempstate\d+)')
    for place in (folder, os.path.join(folder, BEST)):
        files.finish_replacing(place)
        for file in os.listdir(place) if os.path.isdir(place) else []:
            half = half_written.fullmatch(file)
            stem = half.group(1) if half else FILE_ENDINGS.sub('', file)
            path = os.path.join(place, file)
            if of_step.fullmatch(stem) and (half or FILE_ENDINGS.search(file) and not is_one(
                    os.path.join(place, stem))):
                os.remove(path)


def save(session, saver, folder, name, step, facts, keep=0):
    """Writes <folder>/<name>-<step> and facts, a dict, as its .json; returns the prefix.

    The settings come first and Saver renames its files into place with the index last, so that a
    checkpoint that is found is whole. Of it and those before it `keep` stay, 0: all. Raises
    CheckpointError where the folder can't be written.
    """
    import tensorflow.compat.v1 as tf
    prefix = os.path.join(folder, f'{name}-{step}')
    os.makedirs(folder, exist_ok=True)
    write_json(prefix + '.json', dict(facts, format=FORMAT))
    try:
        saver.save(session, os.path.join(folder, name), global_step=step, write_meta_graph=False)
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f'{prefix}: can\'t be written ({first_line(error)})') from error
    # Saver removes one at a save, so those of a run that kept more would stay, and leaves settings.
    for path in outnumbered(folder, name, step, keep):
        for file in sorted(_files(path), key=lambda file: not file.endswith('.index')):
            os.remove(os.path.join(folder, file))
    for file in os.listdir(folder):
        of_step = re.fullmatch(re.escape(name) + r'-\d+\.json', file)
        path = os.path.join(folder, file)
        if of_step and not is_one(path[:-len('.json')]):
            os.remove(path)
    return prefix


def outnumbered(folder, name, step, keep):
    """Prefixes of a run's checkpoints up to a step that go where `keep` of them stay, 0: all."""
    so_far = [path for at, path in of_run(folder, name) if at <= step]
    return so_far[:-keep] if keep else []


def record_metrics(prefix, name, figures):
    """Adds figures, a dict with `swd`, to the metadata of checkpoint <prefix> of run <name>.

    If none in the folder BEST beside it has a smaller `swd`, it is first kept there: its files are
    linked where the file system can, and take no room until Saver removes its own.
    """
    facts = dict(settings(prefix), figures=figures)
    _keep_best(prefix, name, facts)
    write_json(prefix + '.json', facts)


def _keep_best(prefix, name, facts):
    folder = os.path.join(os.path.dirname(prefix), BEST)
    best = os.path.join(folder, os.path.basename(prefix))
    # What was kept of it before it was measured, or as it was, is not another one.
    others = [path for _, path in of_run(folder, name) if path != best or not filecmp.cmp(
        path + '.index', prefix + '.index', shallow=False)]
    if any(_is_as_good(path, facts['figures']['swd']) for path in others):
        return

    def before():
        of_step = re.compile(re.escape(name) + r'-\d+')
        return [file for file in os.listdir(folder)
                if FILE_ENDINGS.search(file) and of_step.fullmatch(FILE_ENDINGS.sub('', file))]

    with files.replacing(best, removed=before) as staged:
        for file in _files(prefix):
            if file.endswith('.json'):
                # What goes on from a copy of it is another run, with records of its own.
                write_json(os.path.join(staged, file), dict(facts, run=uuid.uuid4().hex))
                continue
            source = os.path.join(os.path.dirname(prefix), file)
            try:
                os.link(source, os.path.join(staged, file))
            except OSError:
                shutil.copyfile(source, os.path.join(staged, file))


def _is_as_good(prefix, swd):
    """Whether a checkpoint is whole and was measured, as swd or smaller."""
    try:
        figure = _at(settings(prefix), 'figures', 'swd')
        if not isinstance(figure, (int, float)) or figure > swd:
            return False
        verify(prefix)      # mostly the same file as that of the run, which may be damaged
        return True
    except CheckpointError:
        return False


def check_generator_prefix(prefix, of):
    """CheckpointError where what is drawn from checkpoint `of` should not be written as prefix."""
    refuse_patterns(prefix)
    name = os.path.basename(prefix)
    if not name or name.startswith('.') or FILE_ENDINGS.search(name):
        raise CheckpointError(f'{prefix}: is no name of a checkpoint, as model/dcgan_lfw is one')
    if STEP.search(name):
        raise CheckpointError(f'{prefix}: a name that ends in -<step> is one of a run; a generator '
                              'that is passed on has none')
    if os.path.realpath(prefix) == os.path.realpath(of):
        raise CheckpointError(f'{prefix}: is what it would be made of')
    settings(prefix)        # what is no checkpoint's .json stays


def save_generator(session, saver, prefix, of, averaged):
    """Writes what saver holds as <prefix>, no step, with the settings of checkpoint `of`.

    averaged: whether that is the moving average of the weights, which is noted. What was there
    before goes only when the new one is whole.
    """
    import tensorflow.compat.v1 as tf
    facts = settings(of)
    with files.replacing(prefix, removed=lambda: _files(prefix)) as folder:
        staged = os.path.join(folder, os.path.basename(prefix))
        try:
            saver.save(session, staged, write_meta_graph=False, write_state=False)
            if facts:
                write_json(staged + '.json', dict(facts, averaged=averaged))
        except (tf.errors.OpError, ValueError, OSError) as error:
            why = getattr(error, 'strerror', None) or first_line(error)
            raise CheckpointError(f'{prefix}: can\'t be written ({why})') from error


def by_name(variables, averaged=False):
    """{name in a checkpoint: variable}, of the averaged weights where asked for."""
    return {v.op.name + (AVERAGE if averaged else ''): v for v in variables}


def restore(session, saver, prefix, variables):
    """Saver's restore; CheckpointError where a file is damaged or of another network.

    variables: {name: variable} that saver was made for. Their shapes are compared first, since
    restoring gives a resource variable whatever shape the file has.
    """
    with _named(prefix):
        shapes = _shapes(prefix)
        for name, variable in variables.items():
            shape = variable.shape.as_list()
            if shapes.get(name, shape) != shape:
                raise CheckpointError(f'{prefix}: is of another network ({name} is {shapes[name]} '
                                      f'there, {shape} here)')
        saver.restore(session, prefix)


def verify(prefix):
    """Reads all of a checkpoint and its settings; CheckpointError where either is damaged.

    TensorFlow compares a checksum of each tensor that it reads.
    """
    import tensorflow.compat.v1 as tf
    settings(prefix)
    with _named(prefix):
        reader = tf.train.NewCheckpointReader(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)


def _shapes(prefix):
    import tensorflow.compat.v1 as tf
    return tf.train.NewCheckpointReader(prefix).get_variable_to_shape_map()


@contextlib.contextmanager
def _named(prefix):
    """Turns what TensorFlow raises on a bad checkpoint into one sentence that names it."""
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
    """What an error of TensorFlow's says, without its traces."""
    lines = (getattr(error, 'message', None) or str(error)).strip().splitlines()
    traces = ('Graph execution error:', 'Detected at node', '    File ', 'Node: ')
    telling = [line for line in lines if line and not line.startswith(traces)]
    return telling[0] if telling else type(error).__name__
