"""A run's folders: the lock, the checkpoint to resume from, the best one, room on the disk.

A run trains into --model-dir, and keeps its records in --samples-dir.
"""
import collections
import contextlib
import filecmp
import os
import re
import shutil
import socket
import sys
import uuid

from dcgan import checkpoint, cli, datasets, files, metadata, session, settings
from dcgan.metadata import CheckpointError

try:
    import fcntl
except ImportError:     # Windows, where nothing keeps a second run out
    fcntl = None

LOCK = '.lock'          # file in a folder that a run trains into
BEST = 'best'           # folder beside a run's checkpoints that keeps the best one
PREFIX = 'dcgan_'       # of a run's name; the data set's name follows

# name: of the checkpoints, without the step. prefix: of the checkpoint that it resumes from at
# step, or None. metadata: of that checkpoint, {} without one.
Run = collections.namedtuple('Run', 'name samples_dir step prefix metadata')


@contextlib.contextmanager
def opened(args, source, given):
    """Yields the Run that the options begin or resume; its folders stay locked in the block.

    args: the options; those that a run keeps on resume get their values here. given: {name: value}
    of the options on the command line.
    """
    with contextlib.ExitStack() as locks:
        name = find_run(args, PREFIX + source.name)
        parent, folder = os.path.split(os.path.realpath(args.model_dir))
        if folder == BEST and checkpoint.checkpoints_of(parent, name):
            cli.fail(f'--model-dir {args.model_dir}: the run in {parent} keeps its best checkpoint '
                     'there; a copy of it elsewhere goes on with --resume')
        writes = args.task == 0 and not args.dry_run
        if writes:
            os.makedirs(args.model_dir, exist_ok=True)
            locks.enter_context(lock(args.model_dir))
            remove_leftovers(args.model_dir, name)
        step, prefix = find_resume_checkpoint(args, name) if args.task == 0 else (0, None)
        saved = read_metadata(prefix) if prefix else {}
        vars(args).update(settings.merge_schedule(given, saved.get('schedule', {})))
        samples_dir = args.samples_dir or os.path.join('samples', name)
        if os.path.realpath(samples_dir) in [
                os.path.realpath(container.path) for container in source.containers]:
            cli.fail(f'--samples-dir {samples_dir}: holds the photographs; the run would be '
                     'trained on its own sheets')
        if writes:
            os.makedirs(samples_dir, exist_ok=True)
            if not os.path.samefile(samples_dir, args.model_dir):
                locks.enter_context(lock(samples_dir))
        yield Run(name, samples_dir, step, prefix, saved)


# resuming

def find_dataset(args):
    """`--dataset` if given; with `--resume` the only run's dataset; otherwise LFW."""
    if args.dataset or not args.resume:
        return args.dataset or settings.DEFAULTS['dataset']
    names = checkpoint.runs_in(args.model_dir)
    if len(names) > 1:
        cli.fail(f'--resume: {args.model_dir} holds more than one run, {", ".join(names)}; '
                 '--dataset says which')
    for name in names:
        for _, prefix in reversed(checkpoint.checkpoints_of(args.model_dir, name)):
            with contextlib.suppress(CheckpointError):      # reported when it is opened
                saved = metadata.read(prefix)
                if saved:
                    return saved['settings']['dataset']
        if name[len(PREFIX):] in datasets.DATASETS:
            return name[len(PREFIX):]
        cli.fail(f'--resume: no checkpoint {name}-<step> in {args.model_dir} has metadata that '
                 'says what it was trained on; --dataset does')
    return settings.DEFAULTS['dataset']


def find_run(args, name):
    """Returns the name of the run that --resume continues, or `name`, the data set's own.

    A data set's folder may have been renamed: then the only run of a folder is taken, and refused
    later if the pixels differ.
    """
    names = checkpoint.runs_in(args.model_dir) if args.resume and args.task == 0 else []
    if not names or name in names:
        return name
    of_folders = [run for run in names if run[len(PREFIX):] not in datasets.DATASETS]
    if args.dataset not in datasets.DATASETS and len(of_folders) == 1:
        return of_folders[0]
    cli.fail(f'--resume: {args.model_dir} holds no run of {args.dataset}, only '
             f'{", ".join(names)}; without --resume a new run begins')


def find_resume_checkpoint(args, name):
    """(step, prefix) of the run's newest complete checkpoint; (0, None) for a new run."""
    kept = checkpoint.checkpoints_of(args.model_dir, name)
    best = checkpoint.checkpoints_of(os.path.join(args.model_dir, BEST), name)
    if best and not kept:
        cli.fail(f'{best[-1][1]} is all that is left of a run: a copy of it in another '
                 '--model-dir goes on with --resume')
    if kept and not args.resume:
        cli.fail(f'{kept[-1][1]} is there already: --resume goes on from it, '
                 'another --model-dir begins anew')
    if args.resume and not kept:
        print(f'no checkpoint {name}-<step> in {args.model_dir} yet: beginning at step 0')
    if not kept:
        return 0, None
    session.set_up(args.verbose, args.device)       # to read them
    # The original program's checkpoints have no metadata; one of ours without has lost it.
    has_metadata = any(metadata.exists(prefix) for _, prefix in kept)
    for step, prefix in reversed(kept):
        if is_readable(prefix, has_metadata):
            if not has_metadata:
                print(f'{prefix}: has no metadata, so the run goes on with the options given and '
                      'the defaults; the original program trained with --batch-size 100 '
                      '--g-steps 2 --crop 0', file=sys.stderr)
            return step, prefix
    cli.fail(f'{args.model_dir}: none of the {len(kept)} checkpoints {name}-<step> is whole'
             + (f'; a copy of {best[-1][1]} in another --model-dir goes on'
                if best and is_readable(best[-1][1]) else ''))


def is_readable(prefix, needs_metadata=True):
    """Whether a checkpoint can be read; prints the reason if not."""
    try:
        checkpoint.verify(prefix)
        if needs_metadata and not metadata.read(prefix):
            raise CheckpointError(f'{prefix}.json is missing')
    except CheckpointError as error:
        print(f'{error}: it is not used', file=sys.stderr)
        return False
    return True


def read_metadata(prefix):
    """The metadata of the checkpoint to resume from; exits if its settings are impossible."""
    saved = metadata.read(prefix)
    try:
        for part in ('settings', 'schedule'):
            settings.check_saved(saved.get(part, {}))
    except settings.SettingsError as error:
        cli.fail(f'{prefix}.json: {error}')
    return saved


def warn_of_removal(args, name):
    """Reports how many checkpoints the next save removes, if more are there than are kept."""
    count = len(checkpoint.checkpoints_of(args.model_dir, name))
    if args.max_to_keep and count > args.max_to_keep:
        print(f'--max-to-keep {args.max_to_keep}: {count} checkpoints are in {args.model_dir}; '
              f'the next save removes the oldest {count + 1 - args.max_to_keep}, --max-to-keep 0 '
              'none', file=sys.stderr, flush=True)


# lock and leftovers

@contextlib.contextmanager
def lock(folder):
    """Keeps other runs out of a folder; CheckpointError, naming the owner, if one is in it.

    The lock is the system's, on a file that names its owner: a run that was killed holds none,
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
    """Removes what run <name> left in its folder and BEST when it was killed while saving.

    These are half-written files, and files of a checkpoint whose index is missing.
    """
    of_step = re.compile(re.escape(name) + r'-\d+')
    half_written = re.compile(r'(.*)\.(json\.part|(index|data-\d{5}-of-\d{5})\.tempstate\d+)')
    for place in (folder, os.path.join(folder, BEST)):
        files.finish_replacing(place)
        for file in os.listdir(place) if os.path.isdir(place) else []:
            half = half_written.fullmatch(file)
            stem = half.group(1) if half else checkpoint.FILE_ENDINGS.sub('', file)
            path = os.path.join(place, file)
            if of_step.fullmatch(stem) and (
                    half or checkpoint.FILE_ENDINGS.search(file)
                    and not checkpoint.exists(os.path.join(place, stem))):
                os.remove(path)


# the best checkpoint

def record_metrics(prefix, name, figures):
    """Adds figures, a dict with `swd`, to the metadata of checkpoint <prefix> of run <name>.

    If no checkpoint in BEST has a smaller `swd`, it is first kept there: its files are linked if
    the file system can, and take no room until Saver removes its own.
    """
    details = dict(metadata.read(prefix), figures=figures)
    _keep_best(prefix, name, details)
    files.write_json(prefix + '.json', details)


def _keep_best(prefix, name, details):
    folder = os.path.join(os.path.dirname(prefix), BEST)
    best = os.path.join(folder, os.path.basename(prefix))
    # A copy of this very checkpoint, kept before it was measured, is not a rival.
    rivals = [path for _, path in checkpoint.checkpoints_of(folder, name)
              if path != best or not filecmp.cmp(path + '.index', prefix + '.index',
                                                 shallow=False)]
    if any(_is_as_good(path, details['figures']['swd']) for path in rivals):
        return

    def earlier_files():
        of_step = re.compile(re.escape(name) + r'-\d+')
        return [file for file in os.listdir(folder) if checkpoint.FILE_ENDINGS.search(file)
                and of_step.fullmatch(checkpoint.FILE_ENDINGS.sub('', file))]

    with files.replacing(best, removed=earlier_files) as staged:
        for file in checkpoint.files_of(prefix):
            if file.endswith('.json'):
                # A run that resumes from a copy of it is another run, with its own records.
                files.write_json(os.path.join(staged, file), dict(details, run=uuid.uuid4().hex))
                continue
            source = os.path.join(os.path.dirname(prefix), file)
            try:
                os.link(source, os.path.join(staged, file))
            except OSError:
                shutil.copyfile(source, os.path.join(staged, file))


def _is_as_good(prefix, swd):
    """Whether a checkpoint is readable and was measured at this swd or less."""
    try:
        measured = metadata.field(metadata.read(prefix), 'figures', 'swd')
        if not isinstance(measured, (int, float)) or measured > swd:
            return False
        checkpoint.verify(prefix)   # often the same file as the run's, which may be damaged
        return True
    except CheckpointError:
        return False


# room

def check_free_space(args, variables, saves, present=0):
    """Exits if the planned checkpoints do not fit on the disk.

    variables: {name: variable} of a checkpoint. saves: how many are planned. present: how many are
    there already.
    """
    kept = min(saves + present, args.max_to_keep or saves + present)
    new = max(kept - present, 0) + 2            # the best one, and one while it is written
    needed = new * sum(4 * v.shape.num_elements() for v in variables.values())
    free = shutil.disk_usage(args.model_dir).free
    if free < needed:
        cli.fail(f'--model-dir {args.model_dir}: {free / 1e6:,.0f} MB are free, up to '
                 f'{needed / 1e6:,.0f} are needed for {new} checkpoints'
                 + ('; --max-to-keep 1 needs the least' if args.max_to_keep != 1 else ''))
