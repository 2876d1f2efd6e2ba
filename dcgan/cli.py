"""What the programs' command lines share: parsing, sentences for errors, progress."""
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

from tqdm import tqdm

from dcgan import signals


class Parser(argparse.ArgumentParser):
    """Answers a bad command line with one sentence and exit code 2; --help shows the rest.

    From parse_args on print_anything holds.
    """

    def error(self, message):
        fail(message)

    def parse_args(self, args=None, namespace=None):
        print_anything()
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            if value == '':         # mostly a variable of the shell that is not set
                self.error(f'--{name.replace("_", "-")}: is given nothing')
        return parsed


def fail(message):
    """One sentence on standard error, exit code 2: what the user can mend."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def run(program, args, prefixes):
    """The exit code of program(args); what the user can mend ends in one sentence.

    prefixes: {type of error: what its sentence begins with} beside OSError.
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
    """Within it SIGTERM and SIGHUP end the program as Ctrl-C does: cleanly, with a sentence.

    The exit code is 143 or 129.
    """
    numbers = [number for number in signals.STOP if number != signal.SIGINT]

    def end(number):
        sys.exit(128 + number)

    try:
        with signals.handled(numbers, end):
            yield
    except SystemExit as stopped:
        if stopped.code in [128 + number for number in numbers]:
            print(sentence, file=sys.stderr)
        raise


def printable(name):
    """A name for a line of text: quoted where a line break or an escape sequence is in it."""
    return name if name.isprintable() else repr(name)


def check_writable(path):
    """Makes the folder of a file that is to be written later; OSError where it can't be."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with open(path + '.part', 'wb') as part:
        pass
    os.remove(part.name)


def check_utf8(option, path):
    """Ends with a sentence where TensorFlow, which takes names as UTF-8, can't find a path."""
    try:
        found = path.encode('utf-8') == os.fsencode(path)
    except UnicodeEncodeError:      # Python's stand-ins for bytes that are no text
        found = False
    if not found:
        fail(f'{option} {path}: TensorFlow takes names in UTF-8 only; rename it')


def print_anything():
    """Lets a program print any text, whatever became of its standard streams.

    Characters that the encoding of standard output lacks become '?'. Text that nobody reads, as
    after `| head`, is dropped, and so is text for a closed stream. A closed stream's number is
    given to the null device: else the next file that is opened, a checkpoint say, would get it,
    and with it all that C++ code writes to standard error.
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
    if isinstance(sys.stdout, io.TextIOWrapper):        # a test may have put another stream there
        sys.stdout.reconfigure(errors='replace')


class _Output(io.FileIO):
    """A file of bytes that drops what is written to it once its reader is gone."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            _open_null(self.fileno())
            return len(data)


def _open_null(number):
    """Makes file descriptor `number` the null device's, in this process and its children."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.close(null)


class Progress:
    """A bar on a terminal; elsewhere a line on standard error every ten seconds."""

    def __init__(self, total, unit):
        self.done, self.total, self.unit = 0, total, unit
        self.shown = time.monotonic()
        self.bar = tqdm(total=total, unit=' ' + unit, disable=not sys.stderr.isatty())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def update(self, count):
        self.done += count
        self.bar.update(count)
        if time.monotonic() - self.shown <= 10:
            return
        self.shown = time.monotonic()
        if self.bar.disable:
            print(f'{self.done:,} of {self.total:,} {self.unit}', file=sys.stderr)
        else:
            self.bar.refresh()      # by itself it waits for a wall clock that was set back


def int_between(low, high=2 ** 31 - 1):
    """An argparse type: a whole number from low to high."""
    def parse(text):
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'{text} is not from {low} to {high}')
        return number
    parse.__name__ = 'whole number'      # argparse names it in "invalid ... value"
    return parse


def float_between(low, high):
    """An argparse type: a number from low up to but without high."""
    def parse(text):
        number = float(text)
        if not low <= number < high:
            raise argparse.ArgumentTypeError(f'{text} is not from {low} to below {high}')
        return number
    parse.__name__ = 'number'
    return parse


def fraction(text):
    """An argparse type: a number above 0 up to 1."""
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
    """An argparse type: comma-separated host:port, at least two, each once."""
    found = [address.strip() for address in text.split(',')]
    for address in found:
        if not re.fullmatch(r'[^:\s]+:[0-9]{1,5}', address) or not (
                0 < int(address.rpartition(':')[2]) < 65536):
            raise argparse.ArgumentTypeError(f'{address} is no host:port')
        if found.count(address) > 1:
            raise argparse.ArgumentTypeError(f'{address} is there twice')
    if len(found) < 2:
        raise argparse.ArgumentTypeError(f'{text} is one address; a cluster has two or more')
    return found


def add_checkpoint(parser):
    """Which generator draws: what goes to checkpoint.find and sampler.Sampler."""
    parser.add_argument('--ckpt', default='model/', metavar='PATH',
                        help='folder, prefix or file of a checkpoint (%(default)s)')
    parser.add_argument('--raw', action='store_true',
                        help="the weights themselves where the checkpoint holds their moving "
                             'average too')


def add_tensorflow(parser):
    """The options that go to session.set_up."""
    parser.add_argument('--device', type=device, metavar='NAME',
                        help='cpu, or gpu:N for number N of the GPUs, where CUDA_VISIBLE_DEVICES '
                             'is set of those in it (the first GPU that is there)')
    add_verbose(parser)


def add_verbose(parser):
    """For a program that has no choice of --device."""
    parser.add_argument('--verbose', action='store_true', help="show TensorFlow's own messages")


def comma_list(text):
    """An argparse type: a comma-separated list of names, '' or none for an empty one."""
    if text.strip() == 'none':
        return []
    return list(dict.fromkeys(name.strip() for name in text.split(',') if name.strip()))


def check_name(option, name, known):
    """Ends with a sentence that has the nearest of the known names where name is none of them."""
    if name in known:
        return
    lower = {other.lower(): other for other in known}
    near = [lower[match] for match in
            difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    fail(f'{option} {name}: is none of the {len(known)} there are; '
         + (f'the nearest: {", ".join(near)}' if near else f'these are {", ".join(known)}'))


def comma_list_of(known):
    """An argparse type: as comma_list, of known names."""
    def parse(text):
        chosen = comma_list(text)
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f'{name} is none of {", ".join(known)}')
        return chosen
    return parse
