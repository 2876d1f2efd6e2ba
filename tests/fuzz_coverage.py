"""Feeds bytes to the parsers, guided by coverage: needs atheris, Linux and Python 3.8 or newer.

    python tests/fuzz_coverage.py --seconds 60 labels
    python tests/fuzz_coverage.py photographs crash-0123...         a crash that was found, again

A target takes any bytes. It returns the parsed value, or None if the bytes were refused; it raises
where the program would end in a traceback or accept a wrong value. test_fuzz.py feeds the same
targets.
"""
import argparse
import contextlib
import hashlib
import io
import os
import re
import sys
import tempfile
import zipfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

if __name__ == '__main__':
    import atheris
    watched = atheris.instrument_imports(
        include=['PIL', 'dcgan.cache', 'dcgan.celeba', 'dcgan.datasets', 'dcgan.photographs',
                 'generate', 'dcgan.cli', 'zipfile'])
else:                   # test_fuzz.py works without atheris
    watched = contextlib.nullcontext()
with watched:
    from PIL import Image

    import generate
    from dcgan import cache, cli, containers, datasets, lists  # found by the line above
    from dcgan.photographs import ORIENTATION, DataError

Z_DIM = 3
NAMES = ['a.jpg', 'b.jpg']
REFUSED = (argparse.ArgumentTypeError, ValueError)       # argparse reports them in one sentence


def write(folder, name, content):
    """Writes a file and its folders; returns its path."""
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(content)
    return path


def text(content):
    """Decodes bytes as the command line does."""
    return content.decode('utf-8', 'surrogateescape')


# targets

def photographs(content, folder):
    """Any file is read as a photograph or named as broken."""
    write(folder, 'faces/x.jpg', content)
    return load(datasets.find(os.path.join(folder, 'faces')), 'x.jpg', content, folder)


def archive(content, folder):
    """Any zip is read, with its broken photographs named, or refused."""
    path = write(folder, 'celeba/img_align_celeba.zip', content)
    try:
        source = datasets.find('celeba', folder)
    except DataError as error:
        assert path in str(error) or os.path.dirname(path) in str(error)
        return None
    return load(source, source.names[0], content, folder)


def load(source, first, content, folder):
    # Two files that are written within one tick of the clock may have the same time.
    source = source._replace(identity=hashlib.sha256(content).hexdigest())
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            loaded = cache.load(source, 8, data_dir=folder)
        except DataError as error:
            assert 'broken' in str(error)
            if len(source.names) == 1:
                assert f'left out, broken: {cli.printable(first)} (' in stderr.getvalue()
            return None
    good = len(source.names) - len(loaded.broken)
    assert loaded.images[:].shape == (good, 8, 8, 3)
    assert all(f'left out, broken: {cli.printable(name)} (' in stderr.getvalue()
               for name, _ in loaded.broken[:cache.NAMED])
    return loaded


def labels(content, folder):
    """Any list of labels gives -1 and 1 or a DataError, as txt and as csv."""
    for ending in ('txt', 'csv'):
        path = write(folder, f'labels_{ending}/list_attr_celeba.{ending}', content)
        found = lists.find([containers.Folder(os.path.dirname(path))], ['list_attr_celeba'])
        try:
            names = lists.read_heading(found)
            row_of, values = lists.read_labels(found, names)
        except DataError as error:
            assert path in str(error)
            return None
        assert names and values.shape[1] == len(names) and set(values.flat) <= {-1, 1}
        rows = [row for row in lists.lookup(row_of, NAMES) if row is not None]
        assert values[rows].shape == (len(rows), len(names))
    return values


def partition(content, folder):
    """Any list of parts gives numbers of parts or a DataError, as txt and as csv."""
    for ending in ('txt', 'csv'):
        path = write(folder, f'partition_{ending}/list_eval_partition.{ending}', content)
        found = lists.find([containers.Folder(os.path.dirname(path))], ['list_eval_partition'])
        try:
            parts = lists.read_parts(found)
        except DataError as error:
            assert path in str(error)
            return None
        assert set(parts.values()) <= set(lists.PARTS)
    return parts


def latents(content, folder):
    """Any file gives finite latents or an error of one sentence."""
    path = write(folder, 'latents.npy', content)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            loaded = generate.load_latents(path, Z_DIM)
        except SystemExit as stop:
            assert stop.code == 2 and stderr.getvalue().startswith(f'error: --latents {path}: ')
            assert stderr.getvalue().count('\n') == 1
            return None
    assert loaded.dtype == np.float32 and loaded.shape == (len(loaded), Z_DIM)
    assert len(loaded) and np.isfinite(loaded).all()
    return loaded


def seeds(content, folder):
    """Any text is parsed as a sum of seeds or refused."""
    try:
        terms = generate.sum_of_seeds(text(content))
    except REFUSED:
        return None
    assert terms and all(sign in (-1, 1) and group for sign, group in terms)
    assert all(0 <= seed < 2 ** 32 for _, group in terms for seed in group)
    return terms


def wishes(content, folder):
    """Any text is parsed as values of attributes or refused."""
    try:
        attributes = generate.wishes(text(content))
    except REFUSED:
        return None
    assert set(attributes.values()) <= {-1, 1}
    return attributes


def numbers(content, folder):
    """Any text gives a value that the type of an option allows, or is refused."""
    accepted = None
    for parse, is_valid in (
            (cli.int_between(2, 9), lambda value: value in range(2, 10)),
            (generate.seed, lambda value: value in range(2 ** 32)),
            (cli.float_between(0, 1), lambda value: 0 <= value < 1),
            (cli.fraction, lambda value: 0 < value <= 1),
            (cli.device, lambda value: re.fullmatch('cpu|gpu:[0-9]+', value)),
            (cli.comma_list, lambda value: all(value) and len(set(value)) == len(value)),
            (cli.comma_list_of(NAMES), lambda value: set(value) <= set(NAMES))):
        try:
            value = parse(text(content))
        except REFUSED:
            continue
        assert is_valid(value), value
        if parse is not cli.comma_list:         # which accepts any text
            accepted = parse
    return accepted


# valid content that hypothesis and atheris change

def image(format, **save):
    """The bytes of an image file."""
    pixels = np.random.RandomState(0).randint(0, 256, (9, 12, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **save)
    return file.getvalue()


def images():
    """Image files of every format, with EXIF, palette and transparency."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    palette = Image.new('P', (9, 9), 3)
    palette.putpalette([9, 99, 199] * 256)
    file = io.BytesIO()
    palette.save(file, 'PNG', transparency=3)
    return [image('JPEG', exif=exif.tobytes()), image('JPEG', progressive=True), image('PNG'),
            file.getvalue(), image('PNG', exif=exif.tobytes()), image('WEBP'),
            image('WEBP', lossless=True), image('BMP'), image('GIF')]


def archives():
    """Yields zips with one photograph, stored and deflated."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w', method) as zipped:
            zipped.writestr(zipfile.ZipInfo('a/x.png'), image('PNG'), method)
        yield file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


STARTS = {
    photographs: images(), archive: [*archives()],
    labels: [b'2\nSmiling Male\na.jpg  1 -1\r\nb.jpg -1 -1\n',
             b'image_id,Smiling,Male\na.jpg,1,-1\nb.jpg,-1,-1\n'],
    partition: [b'a.jpg 0\nb.jpg 2\r\n\n', b'image_id,partition\na.jpg,0\nb.jpg,1\n'],
    latents: [npy(np.ones([2, Z_DIM], kind)) for kind in ('<f4', '>f8', 'f2')],
    seeds: [b'seeds:1,2,3 - 4,5,6 + 7,8,9', b' +12 , 3-4'],
    wishes: [b'Smiling=1,Male=-1', b'A = +1 ,, B=1,A=1'],
    numbers: [b'5', b'0.5', b'1e-3', b'4294967295', b'gpu:1', b'a.jpg,b.jpg', b'cpu'],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=int, default=60, metavar='N')
    parser.add_argument('target', choices=[target.__name__ for target in STARTS])
    parser.add_argument('found', nargs='*', help='files to feed once instead')
    args = parser.parse_args()
    target = next(target for target in STARTS if target.__name__ == args.target)
    with tempfile.TemporaryDirectory() as folder:
        for number, start in enumerate(STARTS[target]):
            write(folder, f'starts/{number}', start)
        where = args.found or [os.path.join(folder, 'starts'), f'-max_total_time={args.seconds}']
        fuzzer = os.fork()
        if not fuzzer:
            atheris.Setup([sys.argv[0], '-timeout=10', *where],
                          lambda content: target(content, folder))
            atheris.Fuzz()              # ends the process
        status = os.waitpid(fuzzer, 0)[1]
    sys.exit(status and 'a fault was found: see above')


if __name__ == '__main__':
    main()
