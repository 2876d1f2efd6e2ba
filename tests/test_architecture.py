"""Imports run downwards only, programs do not know each other, and the page shows it."""
import os
import re

import structure
from conftest import ROOT

PROGRAMS = {'download_lfw', 'train', 'generate', 'evaluate', 'export', 'classify'}
WITHOUT_TENSORFLOW = {'settings', 'files', 'cli', 'signals', 'augment', 'batches', 'photographs',
                      'celeba', 'toy', 'datasets', 'cache', 'metadata', 'metrics', 'pictures'}


def test_nothing_in_dcgan_imports_a_file_of_the_root():
    at_root = {name for name in structure.modules() if '.' not in name}
    assert {name: used & at_root for name, used in structure.imports().items()
            if name.startswith('dcgan.') and used & at_root} == {}


def test_imports_have_no_circle():
    left = structure.imports()
    while left:
        free = [name for name, used in left.items() if not (used - {name}) & set(left)]
        assert free, sorted(left)
        for name in free:
            del left[name]


def test_programs_do_not_import_each_other():
    assert {name: used & PROGRAMS for name, used in structure.imports().items()
            if used & PROGRAMS} == {}


def test_modules_of_the_command_line_do_not_import_tensorflow():
    assert [name for name, used in structure.imports().items() if 'tensorflow.compat.v1' in used
            and name.replace('dcgan.', '') in WITHOUT_TENSORFLOW] == []


def test_at_most_twelve_python_files_at_the_root():
    assert len([name for name in structure.modules() if '.' not in name]) <= 12


def test_both_runs_of_the_session_are_in_train():
    with open(os.path.join(ROOT, 'train.py'), encoding='utf-8') as f:
        assert len(re.findall(r'sess\.run\(\s*\[model\.optimizer_[dg]', f.read())) >= 2


def test_the_table_of_files_shows_their_imports():
    with open(os.path.join(ROOT, 'docs', 'architecture.md'), encoding='utf-8') as f:
        rows = re.findall(r'^\| `([\w/]+\.py)` \| \d+ \| [^|]* \| ([^|]*) \|$', f.read(), re.M)
    shown = {path[:-len('.py')].replace('/', '.'): set(used.split()) for path, used in rows}
    assert shown == {name: {one.replace('dcgan.', '') for one in used - {'tensorflow.compat.v1'}}
                     for name, used in structure.imports().items()}
