"""Shared by the command lines of all programs: parsing, error sentences, progress."""
import argparse
import contextlib
import difflib
import errno
import io
import os
import re
import signal
import sys
import time
import warnings

from tqdm import TqdmWarning, std

from dcgan import signals

with warnings.catch_warnings():
    # It warns that it is in a notebook, or in one without ipywidgets.
    warnings.simplefilter('ignore', TqdmWarning)
    from tqdm.autonotebook import tqdm


MAX_BROKEN = 0.01               # default of --max-broken


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one sentence with exit code 2; --help shows the usage.

    parse_args calls print_anything, so that the program can print any text after it.
    """

    def error(self, message):
        fail(message)

    def parse_args(self, args=None, namespace=None):
        print_anything()
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            if value == '':         # usually an unset shell variable
                self.error(f'--{name.replace("_", "-")}: is given nothing')
        return parsed


def fail(message):
    """Prints an error that the user can fix, one sentence, to standard error; exit code 2."""
    print(f'error: {message}', file=sys.stderr)
    # An exit that has another exception behind it makes IPython 7 print both, and fail at that.
    raise SystemExit(2) from None


def run(program, args, prefixes):
    """Returns the exit code of program(args); errors that the user can fix end in one sentence.

    prefixes: {type of error: start of its sentence}; OSError needs no entry.
    """
    try:
        with terminable('terminated'):
            return program(args)
    except tuple(prefixes) as error:
        fail(f'{prefixes[type(error)]}{error}')
    except OSError as error:
        fail(f'{error.filename}: {error.strerror}' if error.filename else error)
    except MemoryError as error:
        fail(f'not enough memory{f" ({error})" if str(error) else ""}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


@contextlib.contextmanager
def terminable(sentence):
    """Makes SIGTERM and SIGHUP end the block as Ctrl-C does: with clean-up and a sentence.

    The exit code is 143 (SIGTERM) or 129 (SIGHUP).
    """
    numbers = [number for number in signals.STOP if number != signal.SIGINT]

    def exit_by_signal(number):
        sys.exit(128 + number)

    try:
        with signals.handled(numbers, exit_by_signal):
            yield
    except SystemExit as error:
        if error.code in [128 + number for number in numbers]:
            print(sentence, file=sys.stderr)
        raise


def printable(name):
    """Returns a name for a line of text, quoted if it holds a line break or escape sequence."""
    return name if name.isprintable() else repr(name)


def check_writable(path):
    """Checks that a file can be written later, and makes its folder; OSError if it can't be."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with open(path + '.part', 'wb') as part:
        pass
    os.remove(part.name)


def check_utf8(option, path):
    """Exits if TensorFlow, which encodes names as UTF-8, would not find this path."""
    try:
        is_utf8 = path.encode('utf-8') == os.fsencode(path)
    except UnicodeEncodeError:      # surrogates, which Python uses for bytes that are no text
        is_utf8 = False
    if not is_utf8:
        fail(f'{option} {path}: TensorFlow takes names in UTF-8 only; rename it')


def print_anything():
    """Lets a program print any text, whatever the state of its standard streams.

    Characters that the encoding of standard output lacks become '?'. Text is dropped if nobody
    reads it, as after `| head`, or if the stream is closed. The number of a closed stream is given
    to the null device. Otherwise the next opened file, e.g. a checkpoint, would get this number,
    and all that C++ code writes to standard error would go into that file.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        stream = getattr(sys, name)
        if stream is None:
            _open_null(number)
            stream = open(number, 'w' if number else 'r', errors='replace')    # noqa: SIM115
            setattr(sys, name, stream)
        elif number and stream is getattr(sys, f'__{name}__') and not stream.isatty():
            stream.flush()
            output = io.BufferedWriter(_Output(number, 'w', closefd=False))
            setattr(sys, name, io.TextIOWrapper(
                output, stream.encoding, stream.errors, line_buffering=stream.line_buffering,
                write_through=stream.write_through))
    if isinstance(sys.stdout, io.TextIOWrapper):        # a test may have replaced it
        sys.stdout.reconfigure(errors='replace')


class _Output(io.FileIO):
    """A binary file that drops all writes once its reader is gone."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            _open_null(self.fileno())
            return len(data)


def _open_null(number):
    """Opens the null device as file descriptor `number`, also for child processes."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.close(null)


def progress_bar(**options):
    """Returns tqdm's bar: text on a terminal, a widget in a notebook, elsewhere one that is off."""
    return tqdm(disable=tqdm is std.tqdm and not sys.stderr.isatty(), **options)


class Progress:
    """A progress_bar; where it is off, a line on standard error every ten seconds."""

    def __init__(self, total, unit):
        self.done, self.total, self.unit = 0, total, unit
        self.last_shown = time.monotonic()
        self.bar = progress_bar(total=total, unit=' ' + unit)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def update(self, count):
        self.done += count
        self.bar.update(count)
        if time.monotonic() - self.last_shown <= 10:
            return
        self.last_shown = time.monotonic()
        if self.bar.disable:
            print(f'{self.done:,} of {self.total:,} {self.unit}', file=sys.stderr)
        else:
            self.bar.refresh()      # tqdm alone would wait if the wall clock was set back


def path(text):
    """An argparse type: a file or folder; `~` and `~user` at its start are home directories.

    bash leaves them in `--out=~/faces`.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith('~'):
        user = text[1:].split(os.sep)[0]
        raise argparse.ArgumentTypeError(f'{text}: no user is called {user}; for a name that '
                                         f'begins with ~ write ./{text}')
    return expanded


def int_between(low, high=2 ** 31 - 1):
    """Returns an argparse type: a whole number from low to high."""
    def parse(text):
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'{text} is not from {low} to {high}')
        return number
    parse.__name__ = 'whole number'      # argparse names it in "invalid ... value"
    return parse


def float_between(low, high):
    """Returns an argparse type: a number from low to below high."""
    def parse(text):
        number = float(text)
        if not low <= number < high:
            raise argparse.ArgumentTypeError(f'{text} is not from {low} to below {high}')
        return number
    parse.__name__ = 'number'
    return parse


def fraction(text):
    """An argparse type: a number above 0 and up to 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not above 0 and up to 1')
    return number


fraction.__name__ = 'number'       # see int_between


def device(text):
    """An argparse type: `cpu` or `gpu:N`."""
    if not re.fullmatch(r'cpu|gpu:[0-9]+', text):
        raise argparse.ArgumentTypeError(f'{text} is neither cpu nor gpu:N')
    return text


def addresses(text):
    """An argparse type: comma-separated host:port, at least two, all different."""
    hosts = [address.strip() for address in text.split(',')]
    for address in hosts:
        if not re.fullmatch(r'[^:\s]+:[0-9]{1,5}', address) or not (
                0 < int(address.rpartition(':')[2]) < 65536):
            raise argparse.ArgumentTypeError(f'{address} is no host:port')
        if hosts.count(address) > 1:
            raise argparse.ArgumentTypeError(f'{address} is there twice')
    if len(hosts) < 2:
        raise argparse.ArgumentTypeError(f'{text} is one address; a cluster has two or more')
    return hosts


def add_checkpoint(parser):
    """Adds the options that choose a generator, for checkpoint.find and sampler.Sampler."""
    parser.add_argument('--ckpt', type=path, default='model/', metavar='PATH',
                        help='folder, prefix or file of a checkpoint (%(default)s)')
    parser.add_argument('--raw', action='store_true',
                        help="the weights themselves where the checkpoint holds their moving "
                             'average too')


def add_data(parser, held='lfw/, celeba/ and the decoded arrays'):
    """Adds the options of datasets.find and cache.load that every program with photographs has."""
    parser.add_argument('--data-dir', type=path, default='datasets', metavar='DIR',
                        help=f'holds {held} (%(default)s)')
    parser.add_argument('--max-broken', type=fraction, default=MAX_BROKEN, metavar='X',
                        help='largest share of photographs that may be broken; in a small set a '
                             'few may be, whatever their share (%(default)s)')


def add_tensorflow(parser):
    """Adds the options of session.set_up."""
    parser.add_argument('--device', type=device, metavar='NAME',
                        help='cpu, or gpu:N for number N of the GPUs, where CUDA_VISIBLE_DEVICES '
                             'is set of those in it (the first GPU that is there)')
    add_verbose(parser)


def add_verbose(parser):
    """Adds --verbose alone, for a program without --device."""
    parser.add_argument('--verbose', action='store_true', help="show TensorFlow's own messages")


def comma_list(text):
    """An argparse type: a comma-separated list of names; '' or none is an empty list."""
    if text.strip() == 'none':
        return []
    return list(dict.fromkeys(name.strip() for name in text.split(',') if name.strip()))


def check_name(option, name, known):
    """Exits with a sentence that lists the nearest known names if name is not known."""
    if name in known:
        return
    lower = {word.lower(): word for word in known}
    near = [lower[match] for match in
            difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    fail(f'{option} {name}: is none of the {len(known)} there are; '
         + (f'the nearest: {", ".join(near)}' if near else f'these are {", ".join(known)}'))


def comma_list_of(known):
    """Returns an argparse type: a comma_list of known names only."""
    def parse(text):
        names = comma_list(text)
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f'{name} is none of {", ".join(known)}')
        return names
    return parse
