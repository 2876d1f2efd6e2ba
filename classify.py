"""Trains a small network to read CelebA's 40 labels, and writes it as a frozen graph.

    python classify.py --data-dir datasets --out model/labels.pb
    python evaluate.py --ckpt model/dcgan_lfw --inception model/labels.pb
    python evaluate.py --ckpt model/dcgan_celeba_attributes --labels model/labels.pb

The network is trained on the train part of datasets/celeba/ and tested on its valid part.
evaluate.py uses it in two ways. The features give FID, KID, precision and recall of faces without a
download; these figures can't be compared with those of another network. The labels tell whether a
face that is drawn with Smiling=1 smiles.
"""
import argparse
import os
import sys

import numpy as np

from dcgan import augment, batches, cache, checkpoint, cli, datasets, files, session
from dcgan.photographs import DataError

IMAGE_SIZE, BATCH, LEARNING_RATE = 64, 128, 0.001
FILTERS, FEATURES = (32, 64, 128, 256), 256


def main(argv=None):
    return cli.run(classify, parse(argv), {DataError: ''})


def classify(args):
    # An output that can't be written fails before anything is trained.
    cli.check_writable(args.out)
    if checkpoint.exists(args.out):
        cli.fail(f'--out {args.out}: is a checkpoint, whose .json would be written over')

    # data
    parts = {}
    for part in ('train', 'valid'):
        source = datasets.find('celeba', args.data_dir, part)
        at_least = BATCH if part == 'train' else 1
        photographs = cache.load(source, IMAGE_SIZE, None, args.data_dir, at_least,
                                 args.max_broken)
        names = datasets.label_names(source)
        labels = datasets.read_labels(source, photographs.names, names)
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
        valid_logits = np.concatenate([
            sess.run(logits, {images: photographs[start:start + BATCH]})
            for start in range(0, len(truth), BATCH)])
        accuracies = dict(zip(names, balanced_accuracy(valid_logits > 0, truth > 0).tolist()))
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
    """(features [n, FEATURES], logits [n, count]) of images [n, h, w, 3] in [0, 255], any size."""
    import tensorflow.compat.v1 as tf

    from ops import batch_norm, conv2d, dense, flatten, lrelu
    with tf.variable_scope('classifier', reuse=reuse):
        h = tf.image.resize_bilinear(images, [IMAGE_SIZE, IMAGE_SIZE]) / 127.5 - 1
        for filters in FILTERS:
            h = lrelu(batch_norm(conv2d(h, filters), is_training))
        features = lrelu(dense(flatten(h), FEATURES))
        return features, dense(features, count)


def balanced_accuracy(predicted, truth):
    """The balanced accuracy [k] of bool [n, k]: the mean recall of true and of false.

    A label that is the same for all images counts 0.5: it can be predicted without looking.
    """
    positives, negatives = truth.sum(0), (~truth).sum(0)
    accuracy = ((predicted & truth).sum(0) / np.maximum(positives, 1)
                + (~predicted & ~truth).sum(0) / np.maximum(negatives, 1)) / 2
    return np.where((positives > 0) & (negatives > 0), accuracy, 0.5)


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_data(parser, 'celeba/ with photographs, list_attr_celeba and list_eval_partition')
    parser.add_argument('--out', type=cli.path, default='model/labels.pb', metavar='FILE',
                        help='the frozen graph; beside it, as .json, its labels and how well it '
                             'reads them (%(default)s)')
    parser.add_argument('--epochs', type=cli.int_between(1), default=4, metavar='N',
                        help='passes over the photographs (%(default)s)')
    parser.add_argument('--seed', type=cli.int_between(0), default=0, metavar='N',
                        help='seed of the weights and of the order (%(default)s)')
    cli.add_tensorflow(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
