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

from dcgan import (
    cache,
    checkpoint,
    cli,
    datasets,
    log,
    metadata,
    pictures,
    recorder,
    run_dir,
    session,
    settings,
    signals,
)
from dcgan.batches import Batches, rng, step_size
from dcgan.photographs import DataError
from dcgan.worker import SINGLE, ClusterError

KEPT_LABELS = 1000      # rows of the labels that a checkpoint keeps, to draw by

# The rest of a run. name: of the checkpoints, without the step. config: {name: value} of the
# settings. metadata: of each checkpoint to come. prefix: of the checkpoint that the run resumes
# from at step, or None. unmeasured: whether that one was not measured. end: the last step.
RunPlan = collections.namedtuple('RunPlan', 'name samples_dir config metadata step prefix '
                                 'unmeasured per_epoch end')


def main(argv=None):
    return cli.run(train, parse(argv), {
        DataError: '', checkpoint.CheckpointError: '', ClusterError: ''})


def train(args):
    """Begins or resumes the run that the options describe; returns the exit code."""
    with contextlib.ExitStack() as stack:
        # A scheduler's signal must not end the program before there is something to save.
        stack.enter_context(signals.handled(signals.SAVE, lambda number: None))
        args.dataset = run_dir.find_dataset(args)
        given = {name: value for name, value in vars(args).items() if value is not None}
        source = find_photographs(args)
        run = stack.enter_context(run_dir.opened(args, source, given))
        worker = SINGLE
        if args.cluster and not args.dry_run:
            session.set_up(args.verbose, args.device)
            from dcgan import cluster
            worker = cluster.Cluster(args.cluster, args.task)
        step, saved = worker.all_gather([run.step, run.metadata])[0]

        # settings
        origin = run.prefix or "worker 0's checkpoint"
        config = settings.merge(given, args.recipe, saved.get('settings', {}), origin)
        if config['crop'] is None:
            config['crop'] = source.crop
        for name, value in config.items():
            print(f'{name:16} {settings.format_setting(value)}')

        # photographs
        labels = datasets.find_labels(source, config['attributes'])
        if labels is not None:
            print(f'{"labels":16} {datasets.labels_origin(source)}')
        if args.dry_run:
            return dry_run(args, source, labels, config, step, saved)
        photographs = cache.load(source, config['image_size'], config['crop'], args.data_dir,
                                 step_size(config), args.max_broken)
        images = photographs.images
        data = {'dataset': source.name, 'photographs': len(images), 'crc32': photographs.crc32}
        sample_labels = {}
        if labels is not None:
            labels = labels[np.isin(source.names, photographs.names)]       # not of broken ones
            data['labels_crc32'] = zlib.crc32(labels.tobytes())
            sample_labels['labels'] = metadata.labels_to_text(labels[
                rng(config['seed'], 0, 'labels').permutation(len(labels))[:KEPT_LABELS]])
        worker.require_equal({
            **{settings.option_name(name): settings.format_setting(value)
               for name, value in config.items() if name != 'dataset'},
            'the number of photographs': len(images), "the photographs' checksum": data['crc32'],
            "the labels' checksum": data.get('labels_crc32')})
        # The data set is compared by its pixels: its folder may have been renamed.
        if {**saved.get('data', data), 'dataset': source.name} != data:
            cli.fail(f'{source.folder} is not what {origin} was trained on: '
                     f'{saved["data"]["photographs"]:,} photographs then, {len(images):,} now, '
                     'or other pixels or labels')

        # steps
        per_epoch, last_step, end = print_steps(args, source, len(images), config, step, saved)
        worker.require_equal({'the last step': last_step})
        # A run may have been stopped before its last checkpoint was measured, or its GIF made.
        unmeasured = bool(saved) and 'figures' not in saved
        if step >= last_step:
            worker.barrier()            # worker 0 alone finishes the records
            worker = SINGLE
            if args.task or not unmeasured and os.path.exists(
                    os.path.join(run.samples_dir, log.GIF)):
                print('nothing left to do')
                return 0
        if args.task == 0:
            print(f'{"checkpoints":16} {os.path.join(args.model_dir, run.name)}-<step>')
            print(f'{"samples":16} {run.samples_dir}', flush=True)
            run_dir.warn_of_removal(args, run.name)
        details = {'run': saved.get('run') or uuid.uuid4().hex, 'settings': config, 'end': end,
                   'schedule': {name: getattr(args, name) for name in settings.SCHEDULE},
                   'data': data, 'computed_in': saved.get('computed_in'), **sample_labels}
        plan = RunPlan(run.name, run.samples_dir, config, details, step, run.prefix, unmeasured,
                       per_epoch, last_step)
        return run_steps(plan, args, Batches(images, labels, config, args.task), worker)


def run_steps(plan, args, batches, worker):
    """Trains from plan.step to plan.end or until a signal; returns the exit code."""
    # graph
    config = plan.config
    tf = session.set_up(args.verbose, args.device, config['deterministic'])
    precision = choose_precision(plan)
    conv_precision = session.conv_precision(precision, config['plain_convolutions'])
    import graph
    model = graph.build(config, worker=worker, conv_precision=conv_precision,
                        loss_scale=session.LOSS_SCALES[precision])
    with model.graph.as_default():
        saver = tf.train.Saver(max_to_keep=args.max_to_keep)
        variables = checkpoint.variables_by_name(tf.global_variables())
        initializer = tf.global_variables_initializer()
        broadcast = worker.broadcast(tf.global_variables())
    worker.require_equal({'the precision': precision, 'the choice of kernels': conv_precision,
                          'the graph': worker.reductions()})
    if batches.task == 0:
        saves = plan.end // args.save_every - plan.step // args.save_every
        run_dir.check_free_space(args, variables, saves + bool(plan.end % args.save_every), len(
            checkpoint.checkpoints_of(args.model_dir, plan.name)))
        real_measures = recorder.measure_real(batches.images, batches.seed)

    with contextlib.ExitStack() as stack:
        # session
        stack.enter_context(session.explained_memory_errors(config['batch_size'],
                                                            config['image_size']))
        stack.enter_context(worker.explained_errors())
        sess = stack.enter_context(session.open_session(model.graph, precision, worker))
        received_signals, save_requests = stack.enter_context(signals.received())
        prefetcher = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        if plan.prefix:
            checkpoint.restore(sess, saver, plan.prefix, variables)
            saver.recover_last_checkpoints([
                path for step, path in checkpoint.checkpoints_of(args.model_dir, plan.name)
                if step <= plan.step])
        else:
            sess.run(initializer)
        sess.run(broadcast, options=worker.run_options)
        votes = []      # of the newest step: whether a worker was told to stop

        def must_stop():
            return worker.must_stop(received_signals, votes)

        records = None
        if batches.task == 0:
            records = stack.enter_context(contextlib.closing(recorder.Recorder(
                tf, sess, model, saver, plan, args, batches, real_measures, must_stop)))
            if plan.unmeasured:
                records.measure()

        # training loop
        step = plan.step
        next_feeds = prefetcher.submit(batches.feeds, step, model)
        while step < plan.end and not must_stop():
            feeds = next_feeds.result()
            next_feeds = prefetcher.submit(batches.feeds, step + 1, model)  # while this step runs
            feeds[-1].update(worker.stop_feed(model, received_signals))
            loss_d, loss_g, d_real, d_fake, votes[:] = run_step(sess, model, config, feeds, worker)
            step += 1
            if step == plan.end or votes and must_stop():
                worker.barrier()        # worker 0 alone finishes the records
            recorder.check_finite([loss_d, loss_g], 'the loss is', step, (records or plan).prefix)
            if records:
                records.after_step(step, loss_d, loss_g, d_real, d_fake)
                if save_requests:
                    save_requests.clear()
                    records.save(step)
        stopped = bool(received_signals) or must_stop()
        if records:
            records.save(step)
            if not stopped:
                records.gif()

    if stopped:
        print(f'stopped at step {step:,}' + (f' and saved {records.prefix}' if records else '')
              + '; --resume goes on', file=sys.stderr)
        return 128 + (received_signals[0] if received_signals else signal.SIGTERM)
    if records:
        print(f'{records.prefix} is whole; python generate.py --ckpt '
              f'{shlex.quote(records.prefix)} draws from it')
    return 0


def run_step(sess, model, config, feeds, worker):
    """Runs one step, D's updates and then G's; returns (loss_d, loss_g, d_real, d_fake, votes)."""
    fetches_d = [model.loss_d, model.d_real, model.d_fake, model.votes]
    options = worker.run_options
    *others, feed = feeds

    # a critic learns from several batches
    for feed_d in others:
        sess.run(model.optimizer_d, feed_d, options)
    if config['fused_step']:
        _, loss_g, (loss_d, d_real, d_fake, votes) = sess.run(
            [model.optimizer_g, model.loss_g, fetches_d], feed, options)
    else:
        # D learns to tell real from fake
        _, (loss_d, d_real, d_fake, votes) = sess.run([model.optimizer_d, fetches_d], feed, options)
        # G learns to draw what the updated D takes for real
        for _ in range(config['g_steps']):
            _, loss_g = sess.run([model.optimizer_g, model.loss_g], feed, options)
    return loss_d, loss_g, d_real, d_fake, votes


def choose_precision(plan):
    """The precision that the run computes in, also printed and noted in plan.metadata."""
    asked = plan.config['precision']
    try:
        precision, why = session.choose_precision(asked)
    except ValueError as error:
        cli.fail(f'--precision {asked}: {error}')
    before = plan.metadata['computed_in']
    if before not in (None, precision):
        why += f'; until step {plan.step:,} it was {before}'
    plan.metadata['computed_in'] = precision
    print(f'{"computes in":16} {precision}: {why}', flush=True)
    if plan.config['sync_batch_norm'] and precision != 'float32':
        cli.fail(f'--precision {asked}: with --sync-batch-norm float32 only, as its statistics '
                 f'would be summed in {precision}')
    return precision


def find_photographs(args):
    """The Source of --dataset; LFW is downloaded if none of its photographs is there."""
    try:
        source = datasets.find(args.dataset, args.data_dir)
    except DataError:
        if args.dataset != 'lfw' or args.dry_run:
            raise
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'download_lfw.py')
        code = subprocess.call([sys.executable, program, '--data-dir', args.data_dir])
        if code:
            sys.exit(code)      # it has said why
        source = datasets.find(args.dataset, args.data_dir)
    for note in source.notes:
        print(note)
    return source


def dry_run(args, source, labels, config, step, saved):
    """Prints the counts of a run, and writes the next step's photographs to --sheet."""
    print_steps(args, source, len(source.names), config, step, saved)
    if args.sheet:
        images = cache.load(source, config['image_size'], config['crop'], args.data_dir,
                            step_size(config), args.max_broken).images
        pictures.write(args.sheet, pictures.sheet(Batches(images, labels, config).real(step)))
        print(args.sheet)
    return 0


def print_steps(args, source, count, config, step, saved):
    """(steps an epoch, last step, {epochs, max_steps}), also printed.

    A resumed run without --epochs and --max-steps keeps the end that it had.
    """
    if count < step_size(config):
        raise DataError(f'{source.folder}: {count:,} photographs are too few: '
                        f'a step takes {step_size(config)}')
    end = {'epochs': args.epochs, 'max_steps': args.max_steps}
    if not any(end.values()):
        end = saved.get('end', {'epochs': settings.EPOCHS, 'max_steps': None})
    per_epoch = count // step_size(config)
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
    cli.add_data(group)

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
    group.add_argument('--model-dir', type=cli.path, default='model', metavar='DIR',
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
    group.add_argument('--sheet', type=cli.path, metavar='FILE',
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
