"""Checks and unpacks an archive of photographs: a zip or a tar, the tar in gzip or plain.

Its content decides which it is, not its name. An archive may be hostile: nothing but photographs
is written, nothing outside the folder, and links, devices and sizes or numbers that no set of
photographs has end the unpacking.
"""
import collections
import contextlib
import functools
import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib

from dcgan import cli

ENDINGS = ('.zip', '.tgz', '.tar.gz', '.tar')
MAGIC = {b'PK': 'zip', b'\x1f\x8b': 'tgz'}
JPEG_MAGIC = b'\xff\xd8\xff'

MAX_UNPACKED = 2 << 30                     # bytes; LFW's variants unpack to 0.1 to 0.3 GB
MAX_MEMBERS = 50000                        # LFW has 19,000
MAX_HEADERS = 1 << 20                      # bytes between two members: tarfile keeps them in memory
MAX_LIST = 8 << 20                         # bytes of a zip's list of members; LFW's has 3 MB

# kind: FILE, FOLDER or a description. open: function that returns the content as a file.
Member = collections.namedtuple('Member', 'name kind size open')
FILE, FOLDER, OTHER = 'a file', 'a folder', 'no plain file'
KINDS = {
    tarfile.REGTYPE: FILE, tarfile.AREGTYPE: FILE, tarfile.DIRTYPE: FOLDER,
    tarfile.SYMTYPE: 'a symbolic link', tarfile.LNKTYPE: 'a hard link',
    tarfile.CHRTYPE: 'a device', tarfile.BLKTYPE: 'a device', tarfile.FIFOTYPE: 'a pipe',
    0: FILE,                               # in a zip that was not made on Unix
    stat.S_IFREG: FILE, stat.S_IFLNK: 'a symbolic link',
    stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device', stat.S_IFIFO: 'a pipe'}

# Errors of tarfile and zipfile for bytes that they do not understand. ValueError: a number or a
# name. OverflowError: an offset. NotImplementedError: a feature.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError,
           NotImplementedError)


class ArchiveError(Exception):
    """The archive can't be unpacked; the message is one sentence."""


def kind_of(start_of_file):
    """'zip', 'tgz' or 'tar' if a file that begins with these bytes can be one, otherwise None."""
    for magic, kind in MAGIC.items():
        if start_of_file and magic.startswith(start_of_file[:2]):
            return kind
    return 'tar' if start_of_file[257:262] == b'ustar' else None


def unpack(path, folder, photograph, expected):
    """Unpacks the photographs of an archive to folder/First_Last/; returns their names.

    photograph: pattern of First_Last/First_Last_0001.jpg, with which a photograph's path ends; the
    folders above do not matter. Other files are skipped. expected: number of photographs, for the
    progress bar. Raises ArchiveError, which names the member, for anything that does not belong in
    such an archive.
    """
    member, earlier_paths, size, names, nested = None, {}, 0, [], None
    try:
        with contextlib.closing(read_members(path)) as members, \
                cli.Progress(expected, 'photographs') as progress:
            for number, member in enumerate(members, 1):
                if number > MAX_MEMBERS:
                    raise ArchiveError(f'more than {MAX_MEMBERS:,} members')
                if not 0 <= member.size <= MAX_UNPACKED - size:
                    raise ArchiveError(f'more than {MAX_UNPACKED:,} bytes unpacked')
                size += member.size
                name = '/'.join(safe_parts(member, earlier_paths)[-2:])
                if name.lower().endswith(ENDINGS):
                    nested = member.name
                if member.kind == FILE and photograph.fullmatch(name):
                    write_photograph(member, folder, name)
                    names.append(name)
                    progress.update(1)
    except (ArchiveError, *DAMAGED) as error:
        at = f' at {member.name[:100]!r}' if member else ''
        damaged = '' if isinstance(error, ArchiveError) else 'it is damaged or cut short: '
        reason = str(error) or type(error).__name__
        raise ArchiveError(f'{path} cannot be unpacked{at}: {damaged}{reason}') from None
    if nested and not names:
        raise ArchiveError(f'{path} holds no photographs but the archive {nested[:100]!r}: unpack '
                           'that one and give it instead')
    return names


def read_members(path):
    """Yields an archive's members; each has to be read before the next one."""
    with open(path, 'rb') as file:
        kind = kind_of(file.read(512))
    if kind == 'zip':
        yield from zip_members(path)
        return
    with (gzip.open if kind == 'tgz' else open)(path, 'rb') as file:
        yield from tar_members(file)


class BoundedStream:
    """Reads a tar up to `limit` bytes, which the caller increases.

    tarfile keeps a member's headers (long names, pax records, sparse maps) in memory, however large
    they are in an archive; the limit bounds them.
    """

    def __init__(self, file):
        self.file, self.count, self.limit = file, 0, MAX_HEADERS

    def read(self, size):
        try:
            content = self.file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise ArchiveError(f'it is damaged or cut short: {error}') from None
        self.count += len(content)
        if self.count > self.limit:
            raise ArchiveError(f'more than {self.limit:,} bytes, or headers that large')
        return content


def tar_members(file):
    """Yields the members of a tar."""
    stream = BoundedStream(file)
    tar = tarfile.open(fileobj=stream, mode='r|')    # noqa: SIM115
    for info in tar:
        tar.members = []    # otherwise tarfile keeps all of them in memory
        stream.limit = min(stream.count + max(info.size, 0) + MAX_HEADERS, MAX_UNPACKED)
        kind = OTHER if info.issparse() else KINDS.get(info.type, OTHER)
        yield Member(info.name, kind, info.size, functools.partial(tar.extractfile, info))


class BoundedFile(io.FileIO):
    """A zip; bounds the list of its members, which zipfile reads at once and keeps in memory."""

    def read(self, size=-1):
        if size > MAX_LIST:
            raise ArchiveError(f'its members are listed in {size:,} bytes, more than {MAX_LIST:,}')
        return super().read(size)


def zip_members(path):
    """Yields the members of a zip."""
    with BoundedFile(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except OSError as error:       # an offset before the file's start
            raise zipfile.BadZipFile(error) from None
        for info in archive.infolist():
            name, mode = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
            kind = FOLDER if name.endswith('/') else KINDS.get(mode, OTHER)
            yield Member(name, kind, info.file_size, functools.partial(open_in_zip, archive, info))


def open_in_zip(archive, info):
    """Opens a zip's member; ArchiveError if it needs a password or an unusual method.

    Methods other than these two can take gigabytes of memory.
    """
    if info.flag_bits & 1:
        raise ArchiveError('it is encrypted: unpack the zip yourself, with its password')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f'it has compression method {info.compress_type}, where 0 (stored) or 8 '
                           '(deflated) was expected')
    try:
        return archive.open(info)
    except OSError as error:           # an offset before the file's start
        raise zipfile.BadZipFile(error) from None


def safe_parts(member, earlier_paths):
    """The member's path as a list; ArchiveError if it is no file or folder inside the archive.

    earlier_paths: {path in lower case: (path, whether it is a folder)} of earlier members, to which
    this one is added. Lower case, because some disks do not distinguish it.
    """
    if member.kind not in (FILE, FOLDER):
        raise ArchiveError(f'it is {member.kind}')
    parts = [part for part in member.name.split('/') if part not in ('', '.')]
    if (member.name.startswith('/') or '..' in parts
            or not parts and member.kind == FILE
            or re.search(r'[\\:\x00-\x1f]', member.name)):    # \ and : are paths on Windows
        raise ArchiveError('its name leads out of the archive')
    if len(member.name) > 255 or len(parts) > 10:
        raise ArchiveError('its name is too long')
    for depth in range(1, len(parts) + 1):
        path, is_folder = '/'.join(parts[:depth]), depth < len(parts) or member.kind == FOLDER
        earlier = earlier_paths.get(path.casefold())
        if earlier and (earlier != (path, is_folder) or not is_folder):
            raise ArchiveError(f'its name collides with {earlier[0]!r}')
        earlier_paths[path.casefold()] = (path, is_folder)
    return parts


def write_photograph(member, folder, name):
    """Writes a member's content to folder/name; ArchiveError if it is no JPEG or a second copy."""
    with member.open() as source:
        start_of_file = source.read(len(JPEG_MAGIC))
        if start_of_file != JPEG_MAGIC:
            raise ArchiveError('it is no JPEG')
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, 'xb') as file:
                file.write(start_of_file)
                shutil.copyfileobj(source, file)
        except FileExistsError:    # the archive has it below two folders
            raise ArchiveError('its photograph is in the archive twice') from None
