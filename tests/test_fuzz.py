"""Any bytes give a valid value or an error that the program reports in one sentence.

    FUZZ_EXAMPLES=20000 python -m pytest tests/test_fuzz.py        other examples at every run
"""
import os
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fuzz_coverage as fuzz

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '0'))
quick = settings(max_examples=EXAMPLES or 150, derandomize=not EXAMPLES, database=None,
                 deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp('fuzz'))


@st.composite
def damaged(draw, starts, alphabet=None):
    """One of starts, with a few pieces replaced, removed or doubled."""
    content = draw(st.sampled_from(starts))
    piece = st.binary(max_size=6)
    if alphabet:
        piece |= st.text(alphabet, max_size=6).map(lambda text: text.encode())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(0, 4) | st.integers(0, len(content)))
        middle = draw(piece | st.just(content[start:end] * 2))
        content = content[:start] + middle + content[end:]
    return content


@st.composite
def damaged_pngs(draw):
    """PNGs with a damaged chunk, whose length and checksum are right."""
    content = draw(st.sampled_from([start for start in fuzz.STARTS[fuzz.photographs]
                                    if start.startswith(b'\x89PNG')]))
    at, chunks = 8, []
    while at < len(content):
        length = int.from_bytes(content[at:at + 4], 'big')
        chunks.append(content[at + 4:at + 8 + length])
        at += 12 + length
    number = draw(st.integers(0, len(chunks) - 1))
    chunks[number] = draw(damaged([chunks[number]]))
    return content[:8] + b''.join((len(chunk) - 4 if len(chunk) > 4 else 0).to_bytes(4, 'big')
                                  + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
                                  for chunk in chunks)


@st.composite
def arrays(draw):
    """npy files of any type and shape."""
    kind = draw(st.sampled_from(['<f2', '<f4', '>f8', 'f16', 'i4', 'u1', '?', 'c8', 'S3', 'U2',
                                 'M8[s]', [('a', 'f4')]]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3) | st.just([2, fuzz.Z_DIM]))
    content = draw(st.binary(min_size=1, max_size=16)) * 1024
    size = int(np.prod(shape, dtype=int)) * np.dtype(kind).itemsize
    return fuzz.npy(np.frombuffer(content[:size], kind).reshape(shape) if size
                    else np.zeros(shape, kind))


@pytest.mark.parametrize('target', fuzz.STARTS, ids=lambda target: target.__name__)
def test_the_valid_examples_are_accepted(target, folder):
    for start in fuzz.STARTS[target]:           # or a target could refuse everything
        assert target(start, folder) is not None, start


@quick
@given(content=damaged(fuzz.STARTS[fuzz.photographs]) | damaged_pngs() | st.binary())
def test_a_damaged_photograph_is_read_or_named_as_broken(content, folder):
    fuzz.photographs(content, folder)


@quick
@given(content=damaged(fuzz.STARTS[fuzz.archive]) | st.binary())
def test_a_damaged_zip_is_read_or_refused(content, folder):
    fuzz.archive(content, folder)


@quick
@given(content=damaged(fuzz.STARTS[fuzz.labels], '1- ,\n\rabj.pgimage_d') | st.binary())
def test_a_damaged_list_of_labels_is_read_or_refused(content, folder):
    fuzz.labels(content, folder)


@quick
@given(content=damaged(fuzz.STARTS[fuzz.partition], '012 ,\n\rabj.pgimage_d') | st.binary())
def test_a_damaged_list_of_parts_is_read_or_refused(content, folder):
    fuzz.partition(content, folder)


@quick
@given(content=damaged(fuzz.STARTS[fuzz.latents], "{}(),':<>|=fiO 0123456789") | arrays()
       | st.binary())
def test_damaged_latents_are_read_or_refused(content, folder):
    fuzz.latents(content, folder)


def texts(target, alphabet):
    """Damaged examples of a target, any bytes, any text, and text of an alphabet."""
    return (damaged(fuzz.STARTS[target], alphabet) | st.binary()
            | st.text().map(lambda text: text.encode('utf-8', 'surrogatepass'))
            | st.text(alphabet).map(lambda text: text.encode()))


@quick
@given(content=texts(fuzz.seeds, 'seeds:0123456789,+- \n'))
def test_any_text_is_parsed_as_a_sum_of_seeds_or_refused(content, folder):
    fuzz.seeds(content, folder)


@quick
@given(content=texts(fuzz.wishes, 'AB=+-1, \n'))
def test_any_text_is_parsed_as_attributes_or_refused(content, folder):
    fuzz.wishes(content, folder)


@quick
@given(content=texts(fuzz.numbers, '0123456789+-.e_ ainfgpuc:,jb'))
@example(content='gpu:١'.encode())          # a digit, but not for CUDA
def test_any_text_gives_a_valid_option_value_or_is_refused(content, folder):
    fuzz.numbers(content, folder)
