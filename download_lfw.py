"""Downloads LFW (Labeled Faces in the Wild): 13,233 photographs of 5,749 people.

    python download_lfw.py
    python download_lfw.py --variant funneled --data-dir /data
    python download_lfw.py --archive ~/Downloads/archive.zip

The photographs go to DIR/lfw/First_Last/First_Last_0001.jpg. DIR/lfw appears in one rename, once
all of them are there, so half a set is never taken for a whole one. After an interruption the same
command resumes the download.
"""
import argparse
import collections
import contextlib
import email.utils
import hashlib
import http.client
import io
import itertools
import json
import os
import random
import re
import shutil
import sys
import time

import requests
import urllib3

from dcgan import archives, cli
from dcgan.containers import Folder
from dcgan.files import write_json

try:
    import fcntl
except ImportError:    # Windows
    fcntl = None

Archive = collections.namedtuple('Archive', 'filename size algorithm digest mirrors')

# The first two digests are those of scikit-learn, sklearn/datasets/_lfw.py. The first size and
# sha256 are also in tensorflow/datasets, datasets/lfw/checksums.tsv; the other sizes are those of
# downloads with these digests. Figshare's first address may answer a program with 202 (a challenge
# page) or 403; its API then gives the same files (neuromorphs/tonic pull request 337). The
# university's host has had no address since 2025 (tensorflow/datasets issue 11012), but the set
# belongs there, so the host stays in the last place.
# No sha256 is published for the deep-funneled set: the md5 is that of the LFW page and of
# torchvision. The Internet Archive's copy of 2023 is the only known public mirror with this md5.
FIGSHARE = 'https://ndownloader.figshare.com/files'
FIGSHARE_API = 'https://api.figshare.com/v2/file/download'
UNIVERSITY = 'http://vis-www.cs.umass.edu/lfw'
VARIANTS = {
    'original': Archive(
        'lfw.tgz', 180566744, 'sha256',
        '055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0',
        [f'{FIGSHARE}/5976018', f'{FIGSHARE_API}/5976018', f'{UNIVERSITY}/lfw.tgz']),
    'funneled': Archive(
        'lfw-funneled.tgz', 243346528, 'sha256',
        'b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a',
        [f'{FIGSHARE}/5976015', f'{FIGSHARE_API}/5976015', f'{UNIVERSITY}/lfw-funneled.tgz']),
    'deepfunneled': Archive(
        'lfw-deepfunneled.tgz', 108761145, 'md5', '68331da3eb755a505a502b5aacb3c201',
        ['https://web.archive.org/web/20231118124720if_/'
         'https://vis-www.cs.umass.edu/lfw/lfw-deepfunneled.tgz',
         f'{UNIVERSITY}/lfw-deepfunneled.tgz']),
}
PHOTOGRAPHS, PEOPLE = 13233, 5749          # the same in all three variants
PHOTOGRAPH = re.compile(r'([A-Za-z][^/]*)/\1_[0-9]{4}\.jpg')    # First_Last/First_Last_0001.jpg
MARKER = '.complete.json'

TIMEOUT = (10, 30)                         # seconds: to connect, between two pieces of the body
# (bytes, seconds): a slower server counts as silent. At 1 kB/s an archive would take two days; the
# slowest mobile networks are three times as fast. A minute allows for connections that falter.
LOW_SPEED = (60000, 60)
PIECE = 1 << 13                            # bytes; an incomplete piece is not kept
ATTEMPTS = 5                               # in a row with almost no progress, at each mirror
MAX_WAIT = 60                              # seconds, even if Retry-After asks for more
SECONDS_BETWEEN_LINES = 5                  # of progress, if there is no terminal for a bar

UNPACKED_RATIO = 1.25                      # JPEG hardly compresses; files fill whole disk blocks


class DownloadError(Exception):
    """An error that the user can mend; its message is one sentence."""


class MirrorError(DownloadError):
    """This mirror does not give the archive; the next one may."""


class TryAgain(Exception):
    """A temporary fault; `retry_after` is the number of seconds that the server asked for."""

    def __init__(self, reason, retry_after=0):
        super().__init__(reason)
        self.retry_after = retry_after


def say(text):
    """Prints a line at once, also if standard output is a file."""
    print(text, flush=True)


# an existing set

def photographs_in(folder):
    """The names First_Last/First_Last_0001.jpg of the photographs in a folder, at any depth.

    train.py looks for them in the same way. Empty files, left by a power cut, do not count.
    """
    names = ['/'.join(path.split('/')[-2:]) for path in Folder(folder).files
             if size_of(os.path.join(folder, path))]
    return [name for name in names if PHOTOGRAPH.fullmatch(name)]


def require_whole_set(holder, names, advice=''):
    """Returns the counts of photographs and people as text; DownloadError unless they are LFW's."""
    people = len({name.split('/')[0] for name in names})
    counts = f'{len(names):,} photographs of {people:,} people'
    if (len(names), people) != (PHOTOGRAPHS, PEOPLE):
        raise DownloadError(f'{holder} holds {counts} instead of {PHOTOGRAPHS:,} of '
                            f'{PEOPLE:,}{advice}')
    return counts


def already_there(folder, variant):
    """True if the folder holds the whole set, False if there is none; DownloadError otherwise."""
    if not os.path.lexists(folder):
        return False
    if not os.path.isdir(folder):
        raise DownloadError(f'{folder} is no folder: move it away and run this again')
    if not os.listdir(folder):
        os.rmdir(folder)
        return False
    names = photographs_in(folder)
    packed = [name for name in sorted(os.listdir(folder))
              if name.lower().endswith(archives.ENDINGS)]
    if packed and not names:
        raise DownloadError(f'{folder} holds no photographs but {packed[0]}: move it elsewhere and '
                            'give it to --archive')
    counts = require_whole_set(folder, names, ': move or delete that folder and run this again')
    present = read_json(os.path.join(folder, MARKER)).get('variant')
    if present is None:
        say(f'{counts} are in {folder} already; which variant they are is not known')
    elif present == variant:
        say(f'{counts} ({variant}) are in {folder} already')
    else:
        raise DownloadError(f'{folder} holds the {present} set, not the {variant} one: '
                            'move or delete that folder, or use another --data-dir')
    return True


def read_json(path):
    """The dict in a small JSON file; {} if the file is missing or cut short."""
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def lock(data_dir):
    """A context in which no other run of this program works in data_dir."""
    try:
        file = open(os.path.join(data_dir, '.lfw.lock'), 'w')    # noqa: SIM115
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DownloadError(f'another download into {data_dir} is under way: '
                            'wait until it has ended') from None
    except OSError:    # a read-only folder, or a file system without locks: continue unlocked
        return contextlib.nullcontext()
    return file


def require_space(folder, needed):
    """Raises DownloadError if the folder's disk has fewer free bytes than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f'{folder} needs {needed / 1e6:,.0f} MB of free disk space and has '
                            f'{free / 1e6:,.0f} MB')


# the download

def digest_of(path, algorithm):
    """The hexadecimal digest of a file."""
    digest = hashlib.new(algorithm)
    with open(path, 'rb') as file:
        for piece in iter(lambda: file.read(1 << 20), b''):
            digest.update(piece)
    return digest.hexdigest()


def require_digest(path, archive):
    """Raises MirrorError if a file does not have the archive's digest."""
    digest = digest_of(path, archive.algorithm)
    if digest != archive.digest:
        raise MirrorError(f'{path} has {archive.algorithm} {digest} where {archive.digest} was '
                          'expected; if that is the archive you mean, give its --sha256')


def require_archive(source, start_of_file):
    """Raises MirrorError unless the bytes can begin an archive."""
    if archives.kind_of(start_of_file) is None:
        raise MirrorError(f'{source} is an HTML page where an archive was expected'
                          if start_of_file.lstrip().startswith(b'<') else
                          f'{source} is neither a tgz nor a zip')


def download(archive, data_dir):
    """Downloads an archive from the first mirror that has it, checks it and returns its path.

    The file keeps its partial name: a file with the full name in this folder belongs to the user.
    """
    partial = partial_path(archive, data_dir)
    if read_json(f'{partial}.json').get('digest') != archive.digest:
        remove_partial(partial)    # it is part of another file
    if size_of(partial) and digest_of(partial, archive.algorithm) == archive.digest:
        return partial
    reasons = []
    for url in archive.mirrors:
        if reasons:
            say(f'  {reasons[-1]}; on to the next mirror')
        say(f'{archive.filename}: downloading from {url}')
        try:
            fetch(url, archive, partial)
            return partial
        except MirrorError as error:
            reasons.append(str(error))
    raise DownloadError(reasons[0] if len(reasons) == 1 else
                        f'no mirror gave {archive.filename} ({"; ".join(reasons)}): try later, '
                        'or get it elsewhere and use --archive')


def fetch(url, archive, partial):
    """Completes the partial file from one mirror and checks it; MirrorError if that fails."""
    resumed = receive_all(url, archive, partial)
    if resumed and digest_of(partial, archive.algorithm) != archive.digest:
        say(f'  the pieces of {partial} do not belong together: once more from the start')
        remove_partial(partial)
        receive_all(url, archive, partial)
    try:
        require_digest(partial, archive)
    except MirrorError:
        remove_partial(partial)
        raise


def receive_all(url, archive, partial):
    """Requests the missing bytes until the file is complete.

    Returns whether it consists of pieces from several requests. Raises MirrorError after ATTEMPTS
    without progress.
    """
    urllib3.connection.HTTPConnection.response_class = TimedResponse     # for requests, also https
    largest, failures, attempt_start = size_of(partial), 0, time.monotonic()
    while True:
        try:
            return receive(url, archive, partial)
        except TryAgain as error:
            # Only a file larger than ever before counts as progress. Otherwise a server without
            # Range that always breaks off would be asked forever, and so would one that gives a
            # few bytes each time.
            new, now = size_of(partial) - largest, time.monotonic()
            low_bytes, low_seconds = LOW_SPEED
            failures = 1 if new > (now - attempt_start) * low_bytes / low_seconds else failures + 1
            largest, attempt_start = max(largest, size_of(partial)), now
            if failures == ATTEMPTS:
                raise MirrorError(f'{url}: {error} ({ATTEMPTS} attempts)') from None
            jittered = random.uniform(0.5, 1) * 2 ** failures
            seconds = min(max(error.retry_after, jittered), MAX_WAIT)
            say(f'  {error}; again in {seconds:.0f} s')
        time.sleep(seconds)


def receive(url, archive, partial):
    """Requests the missing bytes once; returns whether they were appended to older bytes.

    Raises TryAgain for a temporary fault, MirrorError for a permanent one.
    """
    start = size_of(partial)
    if archive.size and start >= archive.size:
        if start == archive.size:
            return True
        remove_partial(partial)
        start = 0
    with request(url, partial, start) as response:
        status, total = response.status_code, response.headers.get('Content-Length', '')
        if status == 429 or status >= 500:
            raise TryAgain(f'the server answered {status}', retry_after(response))
        if status in (206, 416):
            content_range = response.headers.get('Content-Range', '')
            if status == 416 and content_range == f'bytes */{start}':
                return True
            if status == 416 or not content_range.startswith(f'bytes {start}-'):
                remove_partial(partial)
                raise TryAgain(f'asked for the bytes from {start:,}, the server answered {status} '
                               f'with {content_range!r}')
            total = content_range.rpartition('/')[2]    # an answer may be shorter than the rest
        elif status == 200:
            start = 0    # the whole file: Range is not supported, or the file has changed
        else:
            raise MirrorError(f'{url}: the server answered {status} {response.reason}')

        # Older bytes are removed only after these checks: an error page must not cost them.
        pieces = received_pieces(response)
        first_piece = next(pieces, b'')
        if not first_piece:
            raise TryAgain('the answer was empty')
        if start == 0:
            require_archive(url, first_piece)
        total = int(total) if total.isdecimal() else archive.size
        if archive.size and total != archive.size:
            raise MirrorError(f'{url} has {total:,} bytes where {archive.size:,} were expected; '
                              'if that is the archive you mean, give its --sha256')
        require_space(os.path.dirname(partial), (total or 0) * (1 + UNPACKED_RATIO) - start)
        if start == 0:
            remove_partial(partial)
            write_json(f'{partial}.json', {'url': url, 'validator': validator(response),
                                           'digest': archive.digest})
        append(partial, with_progress(itertools.chain([first_piece], pieces), start, total),
               url, total or archives.MAX_UNPACKED)
    if size_of(partial) < (total or 0):
        raise TryAgain(f'the connection broke after {size_of(partial):,} of {total:,} bytes')
    return start > 0


def request(url, partial, start):
    """Requests a file from byte start on, if it has not changed since; returns the response.

    Raises TryAgain for a temporary fault, MirrorError for a permanent one.
    """
    headers = {'Accept-Encoding': 'identity'}
    if start:
        headers['Range'] = f'bytes={start}-'
        saved = read_json(f'{partial}.json')
        if saved.get('url') == url and saved.get('validator'):
            headers['If-Range'] = saved['validator']
    try:
        return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT,
                            hooks={'response': close_redirect})
    except requests.exceptions.SSLError as error:
        raise MirrorError(f'{url}: {root_cause(error)}') from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TryAgain(root_cause(error)) from None
    # A malformed URL, or endless redirects. ValueError: a redirect to a malformed URL.
    except (requests.RequestException, ValueError) as error:
        raise MirrorError(f'{url}: {str(error).rstrip(".")}') from None


def close_redirect(response, **options):
    """Closes a redirect, because requests would read its body to the end."""
    if response.is_redirect:
        response.close()


class TimedFile(io.RawIOBase):
    """Reads from a socket; raises TryAgain if the server is slower than LOW_SPEED.

    The socket's timeout counts between two bytes, so a server that sends a byte now and then could
    keep this program waiting forever, within a line of the header or a piece of the body. This
    class checks the speed below both.
    """

    def __init__(self, file):
        super().__init__()
        self.file, self.count, self.seconds = file, 0, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        low_bytes, low_seconds = LOW_SPEED
        if self.seconds >= low_seconds:
            if self.count < low_bytes:
                raise TryAgain(f'the server sends too slowly: {self.count:,} bytes in '
                               f'{self.seconds:.0f} s')
            self.count = self.seconds = 0
        start = time.monotonic()
        count = self.file.readinto(buffer)
        self.count += count
        self.seconds += time.monotonic() - start    # only reading: a slow disk is no slow server
        return count

    def close(self):
        self.file.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response that is read through a TimedFile."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(TimedFile(self.fp.detach()))


def received_pieces(response):
    """Yields the body as sent: no Content-Encoding is decoded, because the archive is gzip."""
    try:
        yield from response.raw.stream(PIECE, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TryAgain(f'the connection broke: {root_cause(error)}') from None


def append(partial, pieces, url, limit):
    """Appends pieces to the partial file, which never grows beyond `limit` bytes."""
    with open(partial, 'ab') as file:
        for piece in pieces:
            if file.tell() + len(piece) > limit:
                break
            file.write(piece)
        else:
            return
    remove_partial(partial)
    raise MirrorError(f'{url} sends more than the {limit:,} bytes that were expected')


def with_progress(pieces, done, total):
    """Yields the pieces under a progress bar; without a terminal prints lines on stderr.

    done: bytes before the first piece. total: bytes of the whole file, or None.
    """
    start_bytes, start_time = done, time.monotonic()
    last_line = start_time
    with cli.progress_bar(initial=done, total=total, unit='B', unit_scale=True) as bar:
        for piece in pieces:
            yield piece
            done += len(piece)
            bar.update(len(piece))
            now = time.monotonic()
            if now - last_line < SECONDS_BETWEEN_LINES:
                continue
            last_line = now
            if bar.disable:
                rate = (done - start_bytes) / (now - start_time)
                left = f' of {total / 1e6:,.0f} MB, {(total - done) / rate:,.0f} s left' \
                    if total else ' MB'
                print(f'  {done / 1e6:,.0f}{left}, {rate / 1e6:.1f} MB/s', file=sys.stderr)
            else:
                bar.refresh()       # tqdm itself stops drawing if the wall clock was set back


def retry_after(response):
    """The seconds that Retry-After asks for, as a number or as a date; 0 without the header."""
    value = response.headers.get('Retry-After', '')
    if re.fullmatch('[0-9]{1,9}', value):
        return int(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0


def validator(response):
    """The value of If-Range for this file: a strong ETag, otherwise its date, or None."""
    etag = response.headers.get('ETag', '')
    return etag if etag.startswith('"') else response.headers.get('Last-Modified')


def root_cause(error):
    """The message of the innermost of nested network errors."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def partial_path(archive, data_dir):
    """The path that an archive is downloaded to; <path>.json names its source."""
    return os.path.join(data_dir, f'{archive.filename}.part')


def remove_partial(partial):
    """Removes a partial file and its JSON."""
    for path in (partial, f'{partial}.json'):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def size_of(path):
    """The bytes of a file, 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


# the program

def install(variant, archive, archive_file, data_dir):
    """Installs the photographs in data_dir/lfw, from archive_file or, if None, from the mirrors."""
    lfw, unpacking = os.path.join(data_dir, 'lfw'), os.path.join(data_dir, '.lfw-unpacking')
    os.makedirs(data_dir, exist_ok=True)
    with lock(data_dir):
        shutil.rmtree(unpacking, ignore_errors=True)    # left by a killed run
        if not already_there(lfw, variant):
            if archive_file:
                path, archive = archive_file, check_user_file(archive_file, archive, variant)
            else:
                path = download(archive, data_dir)
            require_space(data_dir, os.path.getsize(path) * UNPACKED_RATIO)
            say(f'{path}: unpacking')
            try:
                os.mkdir(unpacking)
                counts = unpack_whole_set(path, unpacking, variant, archive)
                os.rename(unpacking, lfw)
            finally:
                shutil.rmtree(unpacking, ignore_errors=True)
            say(f'{counts} ({variant}) are in {lfw}' if archive.digest else
                f'{counts} are in {lfw}; no checksum is known for {path}, so only these numbers '
                'were checked')
        if not archive_file:
            with contextlib.suppress(OSError):
                remove_partial(partial_path(archive, data_dir))


def check_user_file(path, archive, variant):
    """Checks an archive of the user; returns it without a digest if none is known for its kind.

    The known digests are those of tgz files. --sha256 gives one for any kind.
    """
    with open(path, 'rb') as file:
        start_of_file = file.read(512)
    require_archive(path, start_of_file)
    if archive == VARIANTS[variant] and archives.kind_of(start_of_file) != 'tgz':
        return archive._replace(digest=None)
    require_digest(path, archive)
    return archive


def unpack_whole_set(path, folder, variant, archive):
    """Unpacks into a folder; returns the counts as text, DownloadError unless they are LFW's.

    MARKER is written there too, unless there is no digest: the variant is then not known.
    """
    counts = require_whole_set(path, archives.unpack(path, folder, PHOTOGRAPH, PHOTOGRAPHS))
    if archive.digest:
        write_json(os.path.join(folder, MARKER), {
            'variant': variant, 'photographs': PHOTOGRAPHS, 'people': PEOPLE,
            archive.algorithm: archive.digest})
    return counts


def sha256_digest(text):
    """Parses 64 hexadecimal digits; an argparse type."""
    if not re.fullmatch('[0-9a-fA-F]{64}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not 64 hexadecimal digits')
    return text.lower()


def main(argv=None):
    parser = cli.Parser(
        description='Downloads LFW (Labeled Faces in the Wild): 13,233 photographs of 5,749 people '
                    'into DIR/lfw. After an interruption the same command resumes the download.')
    parser.add_argument('--variant', choices=VARIANTS, default='original',
                        help='original: 181 MB; funneled: aligned, 243 MB; deepfunneled: aligned '
                             'better, 109 MB (default: %(default)s)')
    parser.add_argument('--data-dir', type=cli.path, default='datasets', metavar='DIR',
                        help='photographs go to DIR/lfw (default: %(default)s)')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--archive', type=cli.path, metavar='FILE',
                        help='a tgz, tar or zip that you have: nothing is downloaded, FILE is '
                             'left alone')
    source.add_argument('--url', help='download from here instead of the known mirrors')
    parser.add_argument('--sha256', type=sha256_digest, metavar='HEX',
                        help='checksum that the archive must have, instead of the known one')
    args = parser.parse_args(argv)

    archive = VARIANTS[args.variant]
    if args.url:
        archive = archive._replace(mirrors=[args.url])
    if args.sha256:
        archive = archive._replace(size=None, algorithm='sha256', digest=args.sha256)
    try:
        with cli.terminable('terminated: the same command goes on from here'):
            install(args.variant, archive, args.archive, args.data_dir)
    except (DownloadError, archives.ArchiveError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:    # a missing archive, no permission to write, a full disk
        print(f'error: {error.filename or args.data_dir}: {error.strerror or error}',
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted: the same command goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
