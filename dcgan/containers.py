"""Folders and zips of photographs: the files in them, and which of these are images."""
import collections
import errno
import io
import os
import re
import stat
import sys
import zipfile

from dcgan import photographs
from dcgan.cli import printable
from dcgan.photographs import EXHAUSTED, DataError

# Folders of operating systems, file servers and archivers; a person's may be `#selfies` or `@anna`.
SYSTEM_FOLDER = re.compile(
    r'\..*|__MACOSX|\$RECYCLE\.BIN|System Volume Information|lost\+found|@eaDir|@Recycle|@__thumb|'
    r'@Recently-Snapshot|#recycle|#snapshot', re.I)
# train.py keeps this table beside its sheets: they are no photographs.
RECORDS = 'loss.csv'


class Folder:
    """The files below a folder. A linked folder is entered once.

    files: their paths below it, sorted. excluded: {folder that was not entered: reason}.
    """

    def __init__(self, path):
        self.path, self.files, self.excluded = path, [], {}
        visited = set()
        for top, folders, names in os.walk(path, onerror=self._report, followlinks=True):
            real, place = os.path.realpath(top), os.path.relpath(top, path).replace(os.sep, '/')
            is_entered = real not in visited and self._is_entered(place, names)
            folders[:] = sorted(folders) if is_entered else []
            visited.add(real)
            self.files += [name if place == '.' else f'{place}/{name}'
                           for name in names if is_entered and name[0] != '.']
        self.files.sort()

    def _is_entered(self, place, names):
        if place == '.':
            return True
        name = os.path.basename(place)
        if SYSTEM_FOLDER.fullmatch(name):
            if name[0] != '.':
                self.excluded[place] = "a system's folder"
            return False
        if RECORDS in names:
            self.excluded[place] = 'records of a training'
            return False
        return True

    @staticmethod
    def _report(error):
        if error.errno in EXHAUSTED:
            raise error
        if error.errno != errno.ENOENT:
            print(f'left out: {printable(error.filename)} ({error.strerror})', file=sys.stderr)

    def open(self, name):
        """Opens a file for reading bytes; OSError if it is no file or too large."""
        path = os.path.join(self.path, name)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):        # opening a pipe would wait for its writer
            raise OSError('is no file')
        photographs.check_size(status.st_size)
        return open(path, 'rb')

    def read_start(self, name, count):
        """Returns the first bytes of a file."""
        with self.open(name) as f:
            return f.read(count)

    def stamp(self, name):
        """Returns (size, time, mode) of a file, by which a change is noticed; () on failure."""
        try:
            status = os.stat(os.path.join(self.path, name))
        except OSError:             # e.g. a broken link; reading it gives the reason
            return ()
        return status.st_size, status.st_mtime_ns, status.st_mode      # mode: readable only now?


class Zip:
    """The files in a zip: the same methods as Folder's. Raises DataError if it is damaged."""

    def __init__(self, path):
        self.path, self.excluded = path, {}
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:      # a damaged directory raises more types than BadZipFile
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            with open(path, 'rb') as f:
                is_page = f.read(512).lstrip().startswith(b'<')
            kind = ("a web page saved as a zip (the host's quota page?)" if is_page
                    else 'no zip archive, or only a part of one')
            raise DataError(f'{path} is {kind}; fetch it again') from None
        self.files = sorted(name for name in self.archive.namelist() if name[-1:] != '/'
                            and not any(map(SYSTEM_FOLDER.fullmatch, name.split('/'))))

    def open(self, name):
        """Opens a member for reading bytes, from memory; OSError if it is too large."""
        size = self.archive.getinfo(name).file_size
        photographs.check_size(size)
        with self.archive.open(name) as f:       # archive.read would inflate bytes beyond `size`
            return io.BytesIO(f.read(size))

    def read_start(self, name, count):
        """Returns the first bytes of a member, without the rest."""
        with self.archive.open(name) as f:
            return f.read(count)

    def stamp(self, name):
        """Returns (size, checksum) of a member."""
        return self.archive.getinfo(name).file_size, self.archive.getinfo(name).CRC


def find_images(container):
    """Returns (names of the images, names of all other files), each sorted.

    The ending of a name decides, and where it says nothing, the first bytes of the file.
    """
    endings = photographs.readable_endings()
    images, others = [], []
    for name in container.files:
        is_image = ending_of(name) in endings or (
            ending_of(name) not in photographs.OTHER_ENDINGS and _is_image(container, name))
        (images if is_image else others).append(name)
    return images, others


def _is_image(container, name):
    try:
        return photographs.is_image(container.read_start(name, photographs.START))
    except Exception as error:      # a zip's member may be encrypted, or damaged in any other way
        if getattr(error, 'errno', None) in EXHAUSTED:
            raise
        return False


def ending_of(name):
    """Returns the ending of a name in small letters with its dot, '' if it has none."""
    return os.path.splitext(name)[1].lower()


def count_endings(names):
    """Returns names counted by ending as text, the most frequent first, e.g. `3 .jpg, 1 .png`."""
    counts = collections.Counter(ending_of(name) or 'without an ending' for name in names)
    return ', '.join(f'{count:,} {printable(ending)}' for ending, count in counts.most_common())
