"""The metadata of a checkpoint, `<prefix>.json`: its contents, and the checks on reading it."""
import json
import math
import os

import numpy as np

FORMAT = 1              # a change that an older program can't read increases it


class CheckpointError(ValueError):
    """No checkpoint, or an unusable one; the message names the path."""


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_int_from(low):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_text(value):
    return isinstance(value, str) and value != ''


def _is_name(value):
    """A name is printed as it is, so it must not disturb a terminal."""
    return _is_text(value) and value.isprintable()


def _is_end(value):
    ends = [value.get('epochs'), value.get('max_steps')] if isinstance(value, dict) else []
    return any(ends) and all(end is None or _is_int_from(1)(end) for end in ends)


# The fields, and those that older versions or other programs may leave out.
REQUIRED = {
    ('settings', 'dataset'): _is_text, ('settings', 'crop'): _is_int_from(0),
    ('step',): _is_int_from(0), ('epoch',): lambda value: _is_number(value) and value >= 0,
    ('data', 'dataset'): _is_name, ('data', 'photographs'): _is_int_from(1),
    ('data', 'crc32'): _is_int_from(0)}
OPTIONAL = {
    ('run',): _is_text, ('end',): _is_end, ('computed_in',): _is_text,
    ('figures', 'swd'): _is_number, ('averaged',): lambda value: isinstance(value, bool),
    ('schedule',): lambda value: isinstance(value, dict)}


def read(prefix):
    """The metadata of a checkpoint, {} if it has none (the original program's have none).

    Raises CheckpointError if the file can't be read or holds something else.
    """
    try:
        with open(prefix + '.json', encoding='utf-8') as f:
            metadata = json.load(f)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{prefix}.json can\'t be read: {error}') from error
    if isinstance(metadata, dict) and metadata.get('format', FORMAT) != FORMAT:
        raise CheckpointError(f'{prefix}.json is of format {metadata["format"]}, from another '
                              f'version of this program, which knows {FORMAT}')
    if not isinstance(metadata, dict) or not any(field(metadata, *where) for where in REQUIRED):
        raise CheckpointError(f'{prefix}.json holds no settings of this program')
    for where, is_valid in [*REQUIRED.items(), *OPTIONAL.items()]:
        value = field(metadata, *where)
        if not is_valid(value) and (value is not None or where in REQUIRED):
            raise CheckpointError(f'{prefix}.json: {" ".join(where)} is {value!r}, as no run has '
                                  'it')
    return metadata


def exists(prefix):
    """Whether a checkpoint has metadata."""
    return os.path.exists(prefix + '.json')


def field(metadata, *where):
    """A field of nested dicts, or None."""
    for key in where:
        metadata = metadata.get(key) if isinstance(metadata, dict) else None
    return metadata


def labels_to_text(labels):
    """Labels, an array [n, l] of -1 and 1, as a list of strings of - and +."""
    return [''.join('+' if value > 0 else '-' for value in row) for row in labels]


def read_labels(prefix):
    """(names of the attributes that the generator can draw, int8 [n, l] of sample labels).

    The labels are rows of the training set, to draw by. ([], an array [0, 0]) for a generator
    without attributes.
    """
    metadata = read(prefix)
    names = metadata.get('settings', {}).get('attributes', [])
    rows = metadata.get('labels', [])
    if not _are_texts(names) or not _are_texts(rows) or bool(names) != bool(rows) or not all(
            map(_is_name, names)) or any(
            len(row) != len(names) or set(row) - set('+-') for row in rows):
        raise CheckpointError(f'{prefix}.json: its labels are not those of its attributes')
    labels = np.array([[1 if sign == '+' else -1 for sign in row] for row in rows], np.int8)
    return names, labels.reshape(len(rows), len(names))


def _are_texts(values):
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
