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
import collections
import concurrent.futures
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import uuid
import zlib

import numpy as np

from dcgan import checkpoint, cli, data, log, pictures, recorder, session, settings, signals
from dcgan.batches import Batches, rng, step_size

KEPT_LABELS = 1000      # rows of them that a checkpoint knows, to draw by
LFW_COUNT = 13233

# What is to be done. name: of the checkpoints, without the step. facts: the dict that goes beside
# each of them. prefix: of the checkpoint that it goes on from at step, or None. unmeasured: whether
# that one was stopped before it was measured. end: the last step.
Plan = collections.namedtuple('Plan', 'name samples_dir settings facts step prefix unmeasured '
                              'per_epoch end')


def main(argv=None):
    return cli.run(train, parse(argv), {data.DataError: '', checkpoint.CheckpointError: ''})


def train(args):
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled(signals.SAVE, lambda number: None))     # nothing yet
        args.dataset = find_dataset(args)
        given = {name: value for name, value in vars(args).items() if value is not None}
        source = find_photographs(args)
        name = find_run(args, f'dcgan_{source.name}')
        above, folder = os.path.split(os.path.realpath(args.model_dir))
        if folder == checkpoint.BEST and checkpoint.of_run(above, name):
            cli.fail(f'--model-dir {args.model_dir}: the run in {above} keeps its best checkpoint '
                     'there; a copy of it elsewhere goes on with --resume')
        writes = args.task == 0 and not args.dry_run
        if writes:
            os.makedirs(args.model_dir, exist_ok=True)
            stack.enter_context(checkpoint.lock(args.model_dir))
            checkpoint.remove_leftovers(args.model_dir, name)
        step, prefix = find_resume_checkpoint(args, name) if args.task == 0 else (0, None)
        saved = read_metadata(prefix) if prefix else {}
        vars(args).update(settings.merge_schedule(given, saved.get('schedule', {})))
        samples_dir = args.samples_dir or os.path.join('samples', name)
        if writes:
            os.makedirs(samples_dir, exist_ok=True)
            if not os.path.samefile(samples_dir, args.model_dir):
                stack.enter_context(checkpoint.lock(samples_dir))
        run = source, name, samples_dir, args, given, step, prefix, saved
        if not args.cluster or args.dry_run:
            return train_on(*run)
        session.set_up(args.verbose, args.device)
        from dcgan import cluster
        try:
            return train_on(*run, cluster.Cluster(args.cluster, args.task))
        except cluster.ClusterError as error:
            cli.fail(error)


def train_on(source, name, samples_dir, args, given, step, prefix, saved, workers=None):
    # run: the saved settings on --resume, else the defaults, under what was asked for
    if workers:
        step, saved = workers.share([step, saved])[0]
    of = prefix or "worker 0's checkpoint"
    run = settings.merge(given, args.recipe, saved.get('settings', {}), of)
    if run['crop'] is None:
        run['crop'] = source.crop
    taken = step_size(run)      # images a step
    for key, value in run.items():
        print(f'{key:16} {settings.format_setting(value)}')

    # data
    labels = find_labels(source, run['attributes'])
    if args.dry_run:
        print_plan(args, source, len(source.names), taken, step, saved)
        if args.sheet:
            images = data.load(source, run['image_size'], run['crop'], args.data_dir,
                               taken).images
            batches = Batches(images, labels, run)
            pictures.write(args.sheet, pictures.sheet(batches.real(step)))
            print(args.sheet)
        return 0
    photographs = data.load(source, run['image_size'], run['crop'], args.data_dir,
                            taken)
    images = photographs.images
    seen = {'dataset': source.name, 'photographs': len(images), 'crc32': photographs.crc32}
    described = {}
    if labels is not None:
        labels = labels[np.isin(source.names, photographs.names)]       # but for broken ones
        seen['labels_crc32'] = zlib.crc32(labels.tobytes())
        described['labels'] = checkpoint.labels_to_text(labels[
            rng(run['seed'], 0, 'labels').permutation(len(labels))[:KEPT_LABELS]])
    if workers:
        workers.agree({
            **{settings.option_name(key): settings.format_setting(value)
               for key, value in run.items() if key != 'dataset'},
            'the number of photographs': len(images), "the photographs' checksum": seen['crc32'],
            "the labels' checksum": seen.get('labels_crc32')})
    # The data set is compared by its pixels: its folder may have another name now.
    if {**saved.get('data', seen), 'dataset': source.name} != seen:
        cli.fail(f'{source.folder} is not what {of} was trained on: '
                 f'{saved["data"]["photographs"]:,} photographs then, {len(images):,} now, '
                 'or other pixels or labels')
    per_epoch, last_step, end = print_plan(args, source, len(images), taken, step, saved)
    if workers:
        workers.agree({'the last step': last_step})
        if step >= last_step:       # what is left to do is for worker 0 alone
            workers.leave()
            workers = None
    # A run that was stopped after a checkpoint may have left it unmeasured, its last one without
    # the GIF.
    unmeasured = bool(saved) and 'figures' not in saved
    gif = os.path.exists(os.path.join(samples_dir, log.GIF))
    if step >= last_step and (args.task or gif and not unmeasured):
        print('nothing left to do')
        return 0
    if args.task == 0:
        print(f'{"checkpoints":16} {os.path.join(args.model_dir, name)}-<step>')
        print(f'{"samples":16} {samples_dir}', flush=True)
        say_what_goes(args, name)
    facts = {'run': saved.get('run') or uuid.uuid4().hex, 'settings': run, 'end': end,
             'schedule': {key: getattr(args, key) for key in settings.SCHEDULE},
             'data': seen, 'computed_in': saved.get('computed_in'), **described}
    plan = Plan(name, samples_dir, run, facts, step, prefix, unmeasured, per_epoch, last_step)
    return run_steps(plan, args, Batches(images, labels, run, args.task), workers)


def run_steps(plan, args, batches, workers=None):
    """Trains from plan.step to plan.end or until a signal; returns the exit code."""
    # graph
    run = plan.settings
    tf = session.set_up(args.verbose, args.device, run['deterministic'])
    precision = choose_precision(plan)
    tuned_for = precision if session.has_onednn() and not run['plain_convolutions'] else None
    import graph
    model = graph.build(
        fused_g_steps=run['g_steps'] if run['fused_step'] else 0, fast_for=tuned_for,
        loss_scale=session.LOSS_SCALES[precision], label_count=len(run['attributes']),
        workers=workers, **{key: run[key] for key in settings.OF_GRAPH})
    with model.graph.as_default():
        saver = tf.train.Saver(max_to_keep=args.max_to_keep)
        variables = checkpoint.by_name(tf.global_variables())
        initializer = tf.global_variables_initializer()
        copy_first = workers and workers.copy_first(tf.global_variables())
    if workers:
        workers.agree({'what is computed in': precision, 'what kernels are for': tuned_for,
                       'what is reduced': workers.reductions()})
    if batches.task == 0:
        saves = plan.end // args.save_every - plan.step // args.save_every
        recorder.check_free_space(args, variables, saves + bool(plan.end % args.save_every),
                                  len(checkpoint.of_run(args.model_dir, plan.name)))
        real_measures = recorder.measure_real(batches.images, batches.seed)

    with contextlib.ExitStack() as stack:
        # session
        stack.enter_context(session.memory_errors_named(run['batch_size'], run['image_size']))
        if workers:
            stack.enter_context(workers.errors_named())
        sess = stack.enter_context(session.open_session(model.graph, precision, workers))
        stop, save = stack.enter_context(signals.received())
        prefetcher = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        if plan.prefix:
            checkpoint.restore(sess, saver, plan.prefix, variables)
            saver.recover_last_checkpoints([path for step, path in
                                            checkpoint.of_run(args.model_dir, plan.name)
                                            if step <= plan.step])
        else:
            sess.run(initializer)
        if workers:
            sess.run(copy_first, options=workers.run_options)
        records = None
        if batches.task == 0:
            # Workers agree in the next step on whether one was asked to stop.
            records = stack.enter_context(contextlib.closing(recorder.Recorder(
                tf, sess, model, saver, plan, args, batches, real_measures,
                [] if workers else stop)))
            if plan.unmeasured:
                records.measure()

        # training loop
        step, all_stop = plan.step, False
        next_feeds = prefetcher.submit(batches.feeds, step, model)
        while step < plan.end and not (all_stop if workers else stop):
            feeds = next_feeds.result()
            next_feeds = prefetcher.submit(batches.feeds, step + 1, model)  # while this step runs
            loss_d, loss_g, d_real, d_fake, all_stop = run_step(sess, model, run, feeds, stop,
                                                                workers)
            step += 1
            if workers and (step == plan.end or all_stop):
                workers.leave()         # what is left to do is for worker 0 alone
            recorder.check_finite([loss_d, loss_g], 'the loss is', step, (records or plan).prefix)
            if records:
                records.after_step(step, loss_d, loss_g, d_real, d_fake, all_stop)
                if save:
                    save.clear()
                    records.save(step)
        if records:
            records.save(step)
            if not (stop or all_stop):
                records.gif()

    if stop or all_stop:
        print(f'stopped at step {step:,}' + (f' and saved {records.prefix}' if records else '')
              + '; --resume goes on', file=sys.stderr)
        return 128 + (stop[0] if stop else signal.SIGTERM)
    if records:
        print(f'{records.prefix} is whole; python generate.py --ckpt '
              f'{shlex.quote(records.prefix)} draws from it')
    return 0


def run_step(sess, model, run, feeds, stop, workers):
    """One step: D's runs, then G's; returns (loss_d, loss_g, d_real, d_fake, all_stop).

    stop: the signals that came to this worker. all_stop: whether one came to any of several.
    """
    of_d = [model.loss_d, model.d_real, model.d_fake]
    options = None
    if workers:
        of_d.append(model.stopping)
        options = workers.run_options
        feeds[-1][model.stop] = bool(stop)
    *others, feed = feeds

    # a critic learns from several batches
    for feed_d in others:
        sess.run(model.optimizer_d, feed_d, options)
    if run['fused_step']:
        _, loss_g, (loss_d, d_real, d_fake, *stopping) = sess.run(
            [model.optimizer_g, model.loss_g, of_d], feed, options)
    else:
        # D learns to tell real from fake
        _, (loss_d, d_real, d_fake, *stopping) = sess.run([model.optimizer_d, of_d], feed, options)
        # G learns to draw what the updated D takes for real
        for _ in range(run['g_steps']):
            _, loss_g = sess.run([model.optimizer_g, model.loss_g], feed, options)
    return loss_d, loss_g, d_real, d_fake, bool(stopping and stopping[0])


def choose_precision(plan):
    """What the run computes in, also printed and noted in plan.facts."""
    asked = plan.settings['precision']
    try:
        precision, why = session.choose_precision(asked)
    except ValueError as error:
        cli.fail(f'--precision {asked}: {error}')
    before = plan.facts['computed_in']
    if before not in (None, precision):
        why += f'; until step {plan.step:,} it was {before}'
    plan.facts['computed_in'] = precision
    print(f'{"computes in":16} {precision}: {why}', flush=True)
    if plan.settings['sync_batch_norm'] and precision != 'float32':
        cli.fail(f'--precision {asked}: with --sync-batch-norm float32 only, as its statistics '
                 f'would be summed in {precision}')
    return precision


def find_dataset(args):
    """`--dataset` if given; with `--resume` the only run's dataset; otherwise LFW."""
    if args.dataset or not args.resume:
        return args.dataset or settings.DEFAULTS['dataset']
    found = checkpoint.runs(args.model_dir)
    if len(found) > 1:
        cli.fail(f'--resume: {args.model_dir} holds more than one run, {", ".join(found)}; '
                 '--dataset says which')
    for name in found:
        for _, prefix in reversed(checkpoint.of_run(args.model_dir, name)):
            with contextlib.suppress(checkpoint.CheckpointError):   # what reads it says so
                metadata = checkpoint.settings(prefix)
                if metadata:
                    return metadata['settings']['dataset']
        if name[len('dcgan_'):] in data.DATASETS:
            return name[len('dcgan_'):]
        cli.fail(f'--resume: no checkpoint {name}-<step> in {args.model_dir} has metadata that '
                 'says what it was trained on; --dataset does')
    return settings.DEFAULTS['dataset']


def find_run(args, name):
    """The run that --resume goes on with; `name`, that of the data set, for a new one.

    A data set's folder may have got another name: the only run there is of a folder is taken, and
    refused later if the pixels differ.
    """
    found = checkpoint.runs(args.model_dir) if args.resume and args.task == 0 else []
    if not found or name in found:
        return name
    of_folders = [run for run in found if run[len('dcgan_'):] not in data.DATASETS]
    if args.dataset not in data.DATASETS and len(of_folders) == 1:
        return of_folders[0]
    cli.fail(f'--resume: {args.model_dir} holds no run of {args.dataset}, only '
             f'{", ".join(found)}; without --resume a new run begins')


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


def find_resume_checkpoint(args, name):
    """(step, prefix) of the newest whole checkpoint of this run, (0, None) for a new one."""
    kept = checkpoint.of_run(args.model_dir, name)
    best = checkpoint.of_run(os.path.join(args.model_dir, checkpoint.BEST), name)
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
    # Those of the original program have no metadata; of this one's, what has none has lost it.
    has_metadata = any(os.path.exists(prefix + '.json') for _, prefix in kept)
    for step, prefix in reversed(kept):
        if is_whole(prefix, has_metadata):
            if not has_metadata:
                print(f'{prefix}: has no metadata, so the run goes on with the options given and '
                      'the defaults; the original program trained with --batch-size 100 '
                      '--g-steps 2 --crop 0', file=sys.stderr)
            return step, prefix
    cli.fail(f'{args.model_dir}: none of the {len(kept)} checkpoints {name}-<step> is whole'
             + (f'; a copy of {best[-1][1]} in another --model-dir goes on'
                if best and is_whole(best[-1][1]) else ''))


def is_whole(prefix, needs_metadata=True):
    """Whether a checkpoint can be read; what keeps it from that is said."""
    try:
        checkpoint.verify(prefix)
        if needs_metadata and not checkpoint.settings(prefix):
            raise checkpoint.CheckpointError(f'{prefix}.json is missing')
    except checkpoint.CheckpointError as error:
        print(f'{error}: it is not used', file=sys.stderr)
        return False
    return True


def read_metadata(prefix):
    """The metadata of the checkpoint that a run goes on from, whose settings were checked."""
    metadata = checkpoint.settings(prefix)
    try:
        for part in ('settings', 'schedule'):
            settings.check_saved(metadata.get(part, {}))
    except settings.SettingsError as error:
        cli.fail(f'{prefix}.json: {error}')
    return metadata


def say_what_goes(args, name):
    """Says how many checkpoints are removed where more are there than are to be kept."""
    count = len(checkpoint.of_run(args.model_dir, name))
    if args.max_to_keep and count > args.max_to_keep:
        print(f'--max-to-keep {args.max_to_keep}: {count} checkpoints are in {args.model_dir}; '
              f'the next save removes the oldest {count + 1 - args.max_to_keep}, --max-to-keep 0 '
              'none', file=sys.stderr, flush=True)


def find_labels(source, attributes):
    """The photographs' labels, int8 [n, l] in the order of attributes; None without any."""
    if not attributes:
        return None
    known, labels = data.attributes(source.folder, source.names)
    for name in attributes:
        cli.check_name('--attributes', name, known)
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
        end = saved.get('end', {'epochs': settings.EPOCHS, 'max_steps': None})
    per_epoch = count // step_size
    ends = [end.get('max_steps'), end.get('epochs') and end['epochs'] * per_epoch]
    last_step = min(steps for steps in ends if steps)
    print(f'{"photographs":16} {count:,} of {source.folder}: {per_epoch:,} steps an epoch')
    print(f'{"steps":16} {step:,} done of {last_step:,}')
    return per_epoch, last_step, end


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)

    group = parser.add_argument_group(settings.PHOTOGRAPHS)
    settings.add_options(group, settings.PHOTOGRAPHS)
    group.add_argument('--data-dir', default='datasets', metavar='DIR',
                       help='holds lfw/, celeba/ and the decoded arrays (%(default)s)')

    group = parser.add_argument_group(settings.TRAINING)
    group.add_argument('--recipe', choices=settings.RECIPES, default='original',
                       help="settings in a word: the original's, or what gave the best faces here "
                            '(%(default)s); options given beside it come first')
    group.add_argument('--epochs', type=cli.int_between(1), metavar='N',
                       help=f'times through the photographs ({settings.EPOCHS}, without '
                            '--max-steps)')
    group.add_argument('--max-steps', type=cli.int_between(1), metavar='N',
                       help='end after N steps in all')
    settings.add_options(group, settings.TRAINING)

    group = parser.add_argument_group(settings.RUN)
    group.add_argument('--model-dir', default='model', metavar='DIR',
                       help='where checkpoints go (%(default)s)')
    group.add_argument('--resume', action='store_true',
                       help='go on from the newest checkpoint, with its settings')
    settings.add_options(group, settings.RUN)
    group.add_argument('--cluster', type=cli.addresses, metavar='HOST:PORT,...',
                       help='train with a process at each of these addresses, in a network of '
                            'their own: who reaches a port can do what the process can')
    group.add_argument('--task', type=cli.int_between(0), metavar='N',
                       help='with --cluster: which of them this one is; number 0 keeps the '
                            'checkpoints')
    group.add_argument('--dry-run', action='store_true',
                       help='print settings and counts, and end')
    group.add_argument('--sheet', metavar='FILE',
                       help='with --dry-run: also write the photographs of the next step, as '
                            '--augment has them')
    cli.add_tensorflow(group)
    args = parser.parse_args(argv)
    cli.check_utf8('--model-dir', args.model_dir)
    cli.check_utf8('--samples-dir', args.samples_dir or '')
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
