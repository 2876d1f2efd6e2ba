"""Fetches the runtime that draws in the browser, onnxruntime-web, into web/vendor/.

    python web/vendor.py
    python web/vendor.py onnxruntime-web-1.27.0.tgz        a file you have

The package comes through npm and must have the checksum written here; two of its files are kept.
"""
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from dcgan import cli  # noqa: E402  found by the line above

PACKAGE = 'onnxruntime-web@1.27.0'
# Of it, in base64 as npm shows it.
SHA512 = ('ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBW'
          'D6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg==')
# Named .js, since not every server knows that .mjs is JavaScript.
FILES = {'package/dist/ort.wasm.bundle.min.mjs': 'onnxruntime.js',
         'package/dist/ort-wasm-simd-threaded.wasm': 'onnxruntime.wasm'}


def main(argv=None):
    parser = cli.Parser(description=__doc__.split('\n')[0])
    parser.add_argument('package', type=cli.path, nargs='?', metavar='FILE',
                        help='the package, else npm gets it')
    parser.add_argument('--out', type=cli.path, default=os.path.join(HERE, 'vendor'),
                        metavar='FOLDER', help='(%(default)s)')
    return cli.run(vendor, parser.parse_args(argv), {})


def vendor(args):
    if args.package:
        unpack(args.package, args.out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            unpack(fetch(folder), args.out)
    print(f'{args.out}: {", ".join(FILES.values())} of {PACKAGE}')
    return 0


def fetch(folder):
    """The package's file, by npm, in folder."""
    npm = shutil.which('npm')
    if npm is None:
        cli.fail('npm is not installed; it comes with Node.js')
    done = subprocess.run([npm, 'pack', '--silent', PACKAGE], cwd=folder, capture_output=True,
                          text=True)
    found = [name for name in os.listdir(folder) if name.endswith('.tgz')]
    if done.returncode or len(found) != 1:
        lines = done.stderr.strip().splitlines() or ['it says nothing']
        cli.fail(f'npm pack {PACKAGE}: {lines[0]}')
    return os.path.join(folder, found[0])


def unpack(package, out):
    """Writes FILES of the package to the folder out, if it is the one that is meant."""
    digest = hashlib.sha512()
    with open(package, 'rb') as f:
        for block in iter(lambda: f.read(1 << 20), b''):
            digest.update(block)
    if base64.b64encode(digest.digest()).decode() != SHA512:
        cli.fail(f'{package}: is not {PACKAGE}, its checksum is another')
    os.makedirs(out, exist_ok=True)
    with tarfile.open(package) as tar:
        for member, name in FILES.items():
            place = os.path.join(out, name)
            with tar.extractfile(member) as read, open(place + '.part', 'wb') as write:
                shutil.copyfileobj(read, write)
            os.replace(place + '.part', place)


if __name__ == '__main__':
    sys.exit(main())
