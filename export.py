"""Writes a trained generator for another runtime, and checks the file there.

    python export.py --ckpt model/ --format onnx --out dcgan.onnx
    python export.py --ckpt model/ --format tflite --weights float16 --out dcgan.tflite
    python export.py --ckpt model/dcgan_lfw --format savedmodel --out dcgan/

Each format takes `noise` [n, z_dim], uniform in [-1, 1], for any n, and gives `images` [n, s, s, 3]
in [-1, 1]; a generator that knows attributes also takes `labels` [n, l] of -1 and 1. JSON beside it
names the attributes: FILE.json for onnx and tflite, assets.extra/generator.json in a SavedModel's
folder. ONNX has them in its metadata_props too.

A new file is checked before it takes its place: it draws in its own runtime (TensorFlow's loader,
onnxruntime or TensorFlow Lite's interpreter), and its images must be the checkpoint's.
"""
import argparse
import contextlib
import json
import os
import sys

import numpy as np

import sampler
from dcgan import checkpoint, cli, files, metadata, session

CHECK_BATCHES = (1, 15)     # images in each batch of the check
# For each type of weights: the largest difference of images in [-1, 1], and the share of pixels
# that must not exceed it. In float32 another order of summation made 2e-6 in measurements;
# 2 / 255 is one grey level.
TOLERANCES = {'float32': (1e-5, 1), 'float16': (2 / 255, 0.999)}
EPSILON = 0.001         # of ops.batch_norm
OPSET, IR = 13, 7       # of ONNX 1.8, which is old enough for the runtimes in a browser
# Scopes in the generator: each transposed convolution and the batch norm after it.
CONVOLUTIONS = [('conv2d_transpose', 'BatchNorm_1'), ('conv2d_transpose_1', 'BatchNorm_2'),
                ('conv2d_transpose_2', 'BatchNorm_3'), ('g', None)]
SAVED_MODEL = {'saved_model.pb', 'variables', 'assets', 'assets.extra', 'fingerprint.pb',
               'keras_metadata.pb'}      # all that one may hold


class ExportError(ValueError):
    """The export can't be written, or does not draw the checkpoint's images."""


def main(argv=None):
    return cli.run(export, parse(argv), {checkpoint.CheckpointError: '--ckpt ',
                                         ExportError: '--out '})


def export(args):
    prefix, out = checkpoint.find(args.ckpt), os.path.realpath(args.out)
    cli.check_utf8('--ckpt', prefix)
    cli.check_utf8('--out', out)
    files.finish_replacing(os.path.dirname(out))
    check_place(args, out)
    check_packages(args.format)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    # A GPU may multiply float32 with fewer bits than the check tolerates.
    tf = session.set_up(args.verbose, 'cpu')
    if args.format == 'tflite' and tf.__version__.startswith('1.'):
        cli.fail(f"--format tflite: TensorFlow {tf.__version__} can't convert this network; "
                 'TensorFlow 2 can')
    write, draw = FORMATS[args.format]
    with sampler.Sampler(prefix, args.raw) as original, \
            sampler.Sampler(prefix, args.raw, plain=True) as generator, \
            files.replacing(out) as folder:
        staged = os.path.join(folder, os.path.basename(out))
        feeds = list(check_feeds(generator))
        with contextlib.nullcontext() if args.verbose else session.hidden_stderr():
            try:
                write(generator, staged, args.weights)
            except (OSError, tf.errors.OpError) as error:
                why = getattr(error, 'strerror', None) or checkpoint.first_line(error)
                raise ExportError(f"{args.out}: can't be written ({why})") from error
            images = draw(staged, feeds)
        difference = compare(images, [original.run(**feed) for feed in feeds], args)
        megabytes = size(staged) / 1e6
        if args.format != 'savedmodel':
            files.write_json(staged + '.json', describe(generator))
    print(f"{args.out}: {megabytes:.1f} MB, images differ from the checkpoint's by at most "
          f'{difference:.1e} of [-1, 1]')
    return 0


# Each format has write(generator, path, weights) and draw(path, feeds), a list of float32 images
# [n, h, w, 3], one array for each feed {name of an input: array}.

def write_savedmodel(generator, path, weights):
    import tensorflow.compat.v1 as tf
    os.makedirs(path)       # raises OSError if the place can't be written
    with generator.sess.graph.as_default():
        tf.saved_model.simple_save(generator.sess, path, generator.inputs,
                                   {'images': generator.g})
    os.makedirs(os.path.join(path, 'assets.extra'))
    files.write_json(os.path.join(path, 'assets.extra', 'generator.json'), describe(generator))


def draw_savedmodel(path, feeds):
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default() as graph, session.open_session(graph) as sess:
        signature = tf.saved_model.load(sess, ['serve'], path).signature_def['serving_default']
        return [sess.run(signature.outputs['images'].name,
                         {signature.inputs[name].name: value for name, value in feed.items()})
                for feed in feeds]


def write_onnx(generator, path, weights):
    """Writes ONNX with each batch norm folded into the layer before it.

    Between the layers images are [n, c, h, w].
    """
    import onnx
    import tensorflow.compat.v1 as tf
    from onnx import TensorProto, helper, numpy_helper
    nodes, initializers = [], []

    def add(kind, *inputs, **attributes):
        output = attributes.pop('output', f'{kind.lower()}_{len(nodes)}')
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def store(name, array, dtype='float32'):
        array = np.ascontiguousarray(array, dtype)
        initializers.append(numpy_helper.from_array(array, name))
        return add('Cast', name, to=TensorProto.FLOAT) if array.dtype == np.float16 else name

    variables = generator.sess.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
    arrays = generator.sess.run(checkpoint.variables_by_name(variables))
    z = generator.z_dim + len(generator.attributes)
    side = generator.image_size // 16

    h = 'noise'
    if generator.attributes:
        h = add('Concat', 'noise', 'labels', axis=1)                    # (n, k + l)
    kernel, bias = arrays['generator/dense/kernel'], arrays['generator/dense/bias']
    kernel, bias = fold_batch_norm(kernel.reshape(z, side, side, -1),
                                   bias.reshape(side, side, -1), arrays, 'BatchNorm')
    h = add('Gemm', h, store('dense/kernel', kernel.transpose(0, 3, 1, 2).reshape(z, -1), weights),
            store('dense/bias', bias.transpose(2, 0, 1).ravel()))       # (n, 8w·d·d)
    h = add('Reshape', h, store('dense/shape', [-1, kernel.shape[-1], side, side], 'int64'))
    for layer, norm in CONVOLUTIONS:
        h = add('Relu', h)
        kernel, bias = fold_batch_norm(arrays[f'generator/{layer}/kernel'].transpose(0, 1, 3, 2),
                                       arrays[f'generator/{layer}/bias'], arrays, norm)
        # TensorFlow's `same` for 5x5 and stride 2 drops three rows: the first and the last two.
        h = add('ConvTranspose', h, store(f'{layer}/kernel', kernel.transpose(2, 3, 0, 1), weights),
                store(f'{layer}/bias', bias), strides=[2, 2], pads=[1, 1, 2, 2])    # (n, c, h, w)
    add('Transpose', add('Tanh', h), perm=[0, 2, 3, 1], output='images')      # (n, 16d, 16d, 3)

    shapes = {name: ['n', *tensor.shape.as_list()[1:]]
              for name, tensor in dict(generator.inputs, images=generator.g).items()}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in shapes.items()}
    images = values.pop('images')
    graph = helper.make_graph(nodes, 'generator', list(values.values()), [images], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR)
    helper.set_model_props(model, {name: value if isinstance(value, str) else json.dumps(value)
                                   for name, value in describe(generator).items()})
    onnx.checker.check_model(model, full_check=True)
    with open(path, 'wb') as f:
        f.write(model.SerializeToString())


def fold_batch_norm(kernel, bias, arrays, norm):
    """(kernel [..., c], bias [..., c]) of a layer that includes the batch norm after it.

    arrays: {name: value} of the generator's variables. norm: the batch norm's scope, or None.
    """
    if norm is None:
        return kernel, bias
    beta, mean, variance = (arrays[f'generator/{norm}/{name}'].astype(np.float64)
                            for name in ('beta', 'moving_mean', 'moving_variance'))
    scale = 1 / np.sqrt(variance + EPSILON)
    return kernel * scale, (bias - mean) * scale + beta


def draw_onnx(path, feeds):
    import onnxruntime
    model = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return [model.run(['images'], feed)[0] for feed in feeds]


def write_tflite(generator, path, weights):
    import tensorflow.compat.v1 as tf
    with generator.sess.graph.as_default():
        images = tf.identity(generator.g, 'images')
    converter = tf.lite.TFLiteConverter.from_session(
        generator.sess, list(generator.inputs.values()), [images])
    if weights == 'float16':
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    with open(path, 'wb') as f:
        f.write(converter.convert())


def draw_tflite(path, feeds):
    import tensorflow.compat.v1 as tf
    model = tf.lite.Interpreter(path)
    inputs = {tensor['name']: tensor['index'] for tensor in model.get_input_details()}
    images, = (tensor['index'] for tensor in model.get_output_details())
    batches = []
    for feed in feeds:
        for name, value in feed.items():
            model.resize_tensor_input(inputs[name], value.shape)
        model.allocate_tensors()
        for name, value in feed.items():
            model.set_tensor(inputs[name], value)
        model.invoke()
        batches.append(model.get_tensor(images))
    return batches


FORMATS = {'savedmodel': (write_savedmodel, draw_savedmodel),
           'onnx': (write_onnx, draw_onnx),
           'tflite': (write_tflite, draw_tflite)}


def describe(generator):
    """Metadata of an exported generator, which each format keeps in its own way."""
    return {'checkpoint': os.path.basename(generator.prefix), 'averaged': generator.averaged,
            'image_size': generator.image_size, 'z_dim': generator.z_dim,
            'attributes': generator.attributes,
            # Rows of the training set, from which unspecified attributes can be drawn.
            'labels': metadata.labels_to_text(generator.known_labels)}


# the check

def check_feeds(generator):
    """Yields a feed for each of CHECK_BATCHES: {name of an input: float32 [n, k]}."""
    rng = np.random.RandomState(0)
    for count in CHECK_BATCHES:
        feed = {'noise': rng.uniform(-1, 1, (count, generator.z_dim))}
        if generator.attributes:
            feed['labels'] = rng.choice([-1, 1], (count, len(generator.attributes)))
        yield {name: value.astype(np.float32) for name, value in feed.items()}


def compare(batches, expected, args):
    """The largest difference of two lists of images; ExportError if it is too large."""
    if [images.shape for images in batches] != [images.shape for images in expected]:
        raise ExportError(f'{args.out}: not written, since it gives images '
                          f'{[images.shape for images in batches]} for batches of {CHECK_BATCHES}')
    differences = np.concatenate([np.abs(a - b) for a, b in zip(batches, expected)])
    limit, share = TOLERANCES[args.weights]
    with np.errstate(invalid='ignore'):
        within = (differences <= limit).all(axis=-1).mean()     # NaN and infinity are not
    if within < share:
        raise ExportError(f"{args.out}: not written, since its images differ from the checkpoint's "
                          f'by up to {differences.max():.1e} of [-1, 1], and {1 - within:.2%} of '
                          f'the pixels by more than {limit:.1e}')
    return differences.max()


# where the file goes

def check_place(args, out):
    """Exits if something is at `out` that this format must not replace."""
    if args.format == 'savedmodel':
        try:
            checkpoint.refuse_patterns(out)
        except checkpoint.CheckpointError as error:
            cli.fail(f'--out {error}')
        if os.path.isfile(out):
            cli.fail(f'--out {args.out}: is a file; a SavedModel is a folder')
        names = set(os.listdir(out)) if os.path.isdir(out) else set()
        if names and not ('saved_model.pb' in names and names <= SAVED_MODEL):
            cli.fail(f'--out {args.out}: is a folder of something else than a SavedModel')
        if os.path.ismount(out) or out == os.getcwd():
            cli.fail(f'--out {args.out}: is in use as a folder; name one in it, made anew each '
                     'time')
        return
    if os.path.isdir(out) or args.out.endswith(os.sep):
        cli.fail(f'--out {args.out}: is a folder; {args.format} is a file')
    if checkpoint.exists(out):
        cli.fail(f'--out {args.out}: is a checkpoint, whose .json would be written over')
    if checkpoint.is_metadata(out):
        cli.fail(f'--out {args.out}: is the settings of a checkpoint')
    if os.path.exists(f'{out}.json') and not is_export_json(f'{out}.json'):
        cli.fail(f'--out {args.out}: {args.out}.json, which would be written over, is not that '
                 'of an export')


def is_export_json(path):
    """Whether a file holds the metadata of an export, see describe."""
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {'image_size', 'z_dim'} <= set(content)


def check_packages(format_):
    """Exits if a package that the format needs is missing."""
    if format_ == 'onnx':
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            cli.fail(f'--format onnx: {error}; it takes pip install onnx onnxruntime')


def size(path):
    """Bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name))
               for folder, _, names in os.walk(path) for name in names)


def parse(argv):
    summary, _, details = __doc__.partition('\n\n')
    parser = cli.Parser(description=summary, epilog=details,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_checkpoint(parser)
    parser.add_argument('--format', required=True, choices=list(FORMATS),
                        help='the format of TensorFlow, ONNX or TensorFlow Lite (LiteRT)')
    parser.add_argument('--out', type=cli.path, required=True, metavar='FILE',
                        help='the file to write, for savedmodel a folder; an old one is replaced '
                             'once the new one has passed its check')
    parser.add_argument('--weights', choices=['float32', 'float16'], default='float32',
                        help='float16, for onnx and tflite: half the size, computed in float32; '
                             'some pixels are a grey level off (%(default)s)')
    cli.add_verbose(parser)
    args = parser.parse_args(argv)
    if args.weights == 'float16' and args.format == 'savedmodel':
        parser.error('--weights float16: is for --format onnx and tflite')
    return args


if __name__ == '__main__':
    sys.exit(main())
