"""Trains a small network to read CelebA's 40 labels, and writes it as a frozen graph.

    python classify.py --data-dir datasets --out model/labels.pb
    python evaluate.py --ckpt model/dcgan_lfw --inception model/labels.pb
    python evaluate.py --ckpt model/dcgan_celeba_attributes --labels model/labels.pb

It is learnt from the train part and tested on the valid part of datasets/celeba/. Its features are
a yardstick of faces that needs no download: with them evaluate.py tells FID, KID, precision and
recall (whose figures compare with none of another network), and its labels tell whether a face
that was asked to smile does.
"""
import argparse
import os
import sys

import numpy as np

from dcgan import augment, batches, cache, celeba, checkpoint, cli, datasets, files, session
from dcgan.photographs import DataError

IMAGE_SIZE, BATCH, LEARNING_RATE = 64, 128, 0.001
FILTERS, FEATURES = (32, 64, 128, 256), 256


def main(argv=None):
    return cli.run(classify, parse(argv), {DataError: ''})


def classify(args):
    # Before anything is trained: can it be written?
    cli.check_writable(args.out)
    if checkpoint.exists(args.out):
        cli.fail(f'--out {args.out}: is a checkpoint, whose .json would be written over')

    # data
    parts = {}
    for part in ('train', 'valid'):
        source = datasets.find('celeba', args.data_dir, part)
        at_least = BATCH if part == 'train' else 1
        photographs = cache.load(source, IMAGE_SIZE, None, args.data_dir, at_least)
        names, labels = celeba.read_attributes(source.folder, photographs.names)
        parts[part] = photographs.images, labels
        print(f'{part:12} {len(labels):,} photographs, {len(names)} labels each')

    # graph
    tf = session.set_up(args.verbose, args.device)
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(args.seed)
        images = tf.placeholder(tf.float32, [None, None, None, 3], name='images')
        labels = tf.placeholder(tf.float32, [None, len(names)], name='labels')
        _, logits = classifier(images, True, len(names))
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(
            labels=(labels + 1) / 2, logits=logits))
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            optimizer = tf.train.AdamOptimizer(LEARNING_RATE).minimize(loss)
        features, logits = classifier(images, False, len(names), reuse=True)
        tf.identity(features, name='features')
        logits = tf.identity(logits, name='logits')
        initializer = tf.global_variables_initializer()

    with session.open_session(graph) as sess:
        # training
        photographs, truth = parts['train']
        steps = args.epochs * (len(truth) // BATCH)
        sess.run(initializer)
        with cli.Progress(steps, 'steps') as progress:
            for step in range(steps):
                rows = batches.rows(len(truth), BATCH, args.seed, step)
                batch = augment.flip(photographs[rows], batches.rng(args.seed, step, 'augment'))
                sess.run(optimizer, {images: batch, labels: truth[rows]})
                progress.update(1)

        # test
        photographs, truth = parts['valid']
        found = np.concatenate([
            sess.run(logits, {images: photographs[start:start + BATCH]})
            for start in range(0, len(truth), BATCH)])
        accuracies = dict(zip(names, balanced_accuracy(found > 0, truth > 0).tolist()))
        for name, accuracy in accuracies.items():
            print(f'{name:20} {accuracy:.3f}')

        frozen = tf.graph_util.convert_variables_to_constants(
            sess, graph.as_graph_def(), ['features', 'logits'])
    with files.replacing(args.out) as folder:
        staged = os.path.join(folder, os.path.basename(args.out))
        with open(staged, 'wb') as f:
            f.write(frozen.SerializeToString())
        files.write_json(staged + '.json', accuracies)
    print(args.out)
    return 0


def classifier(images, is_training, count, reuse=None):
    """(features [n, FEATURES], logits [n, count]) of images in [0, 255], any size."""
    import tensorflow.compat.v1 as tf

    from ops import batch_norm, conv2d, dense, flatten, lrelu
    with tf.variable_scope('classifier', reuse=reuse):
        h = tf.image.resize_bilinear(images, [IMAGE_SIZE, IMAGE_SIZE]) / 127.5 - 1
        for filters in FILTERS:
            h = lrelu(batch_norm(conv2d(h, filters), is_training))
        features = lrelu(dense(flatten(h), FEATURES))
        return features, dense(features, count)


def balanced_accuracy(found, truth):
    """Of each column of bool [n, k] the mean share found among the true and among the false.

    What all or none of them have can be read as it is without looking: one half.
    """
    true, false = truth.sum(0), (~truth).sum(0)
    right = ((found & truth).sum(0) / np.maximum(true, 1)
             + (~found & ~truth).sum(0) / np.maximum(false, 1)) / 2
    return np.where((true > 0) & (false > 0), right, 0.5)


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', default='datasets', metavar='DIR',
                        help='holds celeba/ with photographs, list_attr_celeba and '
                             'list_eval_partition (%(default)s)')
    parser.add_argument('--out', default='model/labels.pb', metavar='FILE',
                        help='the frozen graph; beside it, as .json, its labels and how well it '
                             'reads them (%(default)s)')
    parser.add_argument('--epochs', type=cli.int_between(1), default=4, metavar='N',
                        help='times through the photographs (%(default)s)')
    parser.add_argument('--seed', type=cli.int_between(0), default=0, metavar='N',
                        help='of weights and order (%(default)s)')
    cli.add_tensorflow(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
