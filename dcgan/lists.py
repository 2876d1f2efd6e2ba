"""Lists beside photographs: CelebA's parts, and labels. One photograph a line, in text or CSV.

They are read as CelebA's authors and Kaggle distribute them, and as spreadsheets write them:
divided by spaces, commas, semicolons or tabs, with or without quotes, in UTF-8 or UTF-16.
"""
import codecs
import csv
import io
import itertools
import os

import numpy as np

from dcgan.photographs import EXHAUSTED, DataError

ENDINGS = ('.txt', '.csv', '.tsv')
PARTS = ('0', '1', '2')                 # train, valid, test
NAME_COLUMNS = ('image_id', 'image', 'file', 'file_name', 'filename', 'name', 'path')
VALUES = {'1': 1, '+1': 1, '1.0': 1, 'true': 1, 'yes': 1,
          '-1': -1, '-1.0': -1, '0': -1, '0.0': -1, 'false': -1, 'no': -1}


def find(containers, stems):
    """Returns (container, name) of the first file with one of these stems; None without one.

    Of several in a container the one least deep counts, a .txt before a .csv.
    """
    known = [stem + ending for stem in stems for ending in ENDINGS]
    for container in containers:
        names = [name for name in container.files if os.path.basename(name).lower() in known]
        if names:
            return container, min(names, key=lambda name: (
                name.count('/'), known.index(os.path.basename(name).lower()), name))
    return None


def path_of(found):
    """Returns the path of a file that `find` returned; one in a zip is `a.zip/name`."""
    container, name = found
    return os.path.join(container.path, name)


def read_parts(found):
    """Returns {listed name: '0', '1' or '2'}; DataError, with the line, if one is malformed."""
    parts = {}
    for number, fields in _rows(found):
        if len(fields) == 2 and fields[1] in PARTS:
            parts[fields[0]] = fields[1]
        elif number > 1:            # line 1 may be a heading
            raise DataError(f'{path_of(found)}, line {number}: should be a file name and 0, 1 or '
                            f'2, not {" ".join(fields)[:40]!r}')
    return parts


def read_heading(found):
    """Returns the names of the labels in a list of labels; DataError if there are none."""
    heading, _ = _labels_and_rows(found)
    if not heading:
        raise DataError(f'{path_of(found)}: has no heading that names the labels')
    return heading


def read_labels(found, label_names):
    """Returns ({listed name: row}, int8 [rows, l] of -1 and 1) of these labels.

    Other columns of the list may hold anything. Raises DataError, with the line, if a label is
    neither 1 or -1 nor 1 or 0, or if both 0 and -1 are there, so that 0 may mean something else.
    """
    path = path_of(found)
    heading, rows = _labels_and_rows(found)
    columns = [1 + heading.index(name) for name in label_names]
    row_of, values, first_line = {}, bytearray(), {}
    for row, (number, fields) in enumerate(rows):
        if len(fields) != 1 + len(heading):
            raise DataError(f'{path}, line {number}: should be a file name and {len(heading)} '
                            f'values, not {len(fields) - 1}')
        texts = [fields[column].lower() for column in columns]
        for text in set(texts) - set(first_line):
            first_line[text] = number
            if text not in VALUES:
                raise DataError(f'{path}, line {number}: {text[:40]!r} is neither 1 or -1 nor 1 '
                                'or 0')
        row_of[fields[0]] = row
        values += bytes(VALUES[text] % 256 for text in texts)
    if '0' in first_line and '-1' in first_line:
        raise DataError(f'{path}, line {first_line["0"]}: 0, where line {first_line["-1"]} has -1: '
                        'labels are 1 and -1, or 1 and 0')
    return row_of, np.frombuffer(values, np.int8).reshape(-1, len(columns))


def lookup(listed, names):
    """Returns for each name its value in {listed name: value}; None for a name without a line.

    A photograph may be listed by its path, by the end of its path, or by either with another
    ending or none: the lists of CelebA's PNG edition say .jpg.
    """
    by_stem, values = None, []
    for name in names:
        parts = name.split('/')
        ends = ['/'.join(parts[start:]) for start in range(len(parts))]
        value = next((listed[end] for end in ends if end in listed), None)
        if value is None:
            if by_stem is None:
                by_stem = {**{os.path.splitext(name)[0]: value for name, value in listed.items()},
                           **listed}
            stems = [os.path.splitext(end)[0] for end in ends]
            value = next((by_stem[stem] for stem in stems if stem in by_stem), None)
        values.append(value)
    return values


def _labels_and_rows(found):
    """Returns (label names, iterator of (line number, fields)) of a list of labels."""
    rows = _rows(found)
    # The authors' file begins with the number of photographs.
    heading = next((fields for _, fields in rows if len(fields) > 1), [])
    first = list(itertools.islice(rows, 1))
    has_name_column = heading[:1] and heading[0].lower() in NAME_COLUMNS or any(
        len(fields) == len(heading) for _, fields in first)
    return heading[1 if has_name_column else 0:], itertools.chain(first, rows)


def _opened(found):
    """Opens a list for reading bytes; DataError if it can't be read."""
    container, name = found
    try:
        return container.open(name)
    except Exception as error:      # a zip's member may be encrypted, or damaged in any other way
        if getattr(error, 'errno', None) in EXHAUSTED:
            raise
        raise DataError(f"{path_of(found)}: can't be read ({error})") from None


def _rows(found):
    """Yields (line number, fields) of the lines that are not empty; fields[0] names a file."""
    with _opened(found) as file:
        start = file.read(2)
        file.seek(0)
        encoding = 'utf-16' if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else 'utf-8-sig'
        text = io.TextIOWrapper(file, encoding, errors='replace', newline='')
        head = ''.join(itertools.islice(text, 2))
        text.seek(0)
        delimiter = next((mark for mark in ';\t,' if mark in head), None)
        if delimiter:
            lines = csv.reader(text, delimiter=delimiter)
            numbered = ((lines.line_num, fields) for fields in lines)
        else:
            numbered = enumerate(map(str.split, text), 1)
        try:
            for number, fields in numbered:
                fields = [field.strip() for field in fields]
                if any(fields):
                    yield number, [fields[0].replace('\\', '/'), *fields[1:]]
        except csv.Error as error:
            raise DataError(f'{path_of(found)}, line {lines.line_num}: {error}') from None
