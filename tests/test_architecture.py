"""Imports run downwards only, programs do not import each other, and the page lists imports."""
import os
import re

import structure
from conftest import ROOT

PROGRAMS = {'download_lfw', 'crop_faces', 'train', 'generate', 'evaluate', 'export', 'classify'}
WITHOUT_TENSORFLOW = {'settings', 'files', 'cli', 'signals', 'augment', 'batches', 'photographs',
                      'celeba', 'toy', 'datasets', 'cache', 'metadata', 'metrics', 'pictures',
                      'archives'}


def test_nothing_in_dcgan_imports_a_file_of_the_root():
    at_root = {name for name in structure.modules() if '.' not in name}
    assert {name: used & at_root for name, used in structure.imports().items()
            if name.startswith('dcgan.') and used & at_root} == {}


def test_imports_have_no_cycle():
    remaining = structure.imports()
    while remaining:
        free = [name for name, used in remaining.items() if not (used - {name}) & set(remaining)]
        assert free, sorted(remaining)
        for name in free:
            del remaining[name]


def test_programs_do_not_import_each_other():
    assert {name: used & PROGRAMS for name, used in structure.imports().items()
            if used & PROGRAMS} == {}


def test_modules_of_the_command_line_do_not_import_tensorflow():
    assert [name for name, used in structure.imports().items() if 'tensorflow.compat.v1' in used
            and name.replace('dcgan.', '') in WITHOUT_TENSORFLOW] == []


def test_at_most_twelve_python_files_at_the_root():
    assert len([name for name in structure.modules() if '.' not in name]) <= 12


def test_train_runs_both_optimizers():
    with open(os.path.join(ROOT, 'train.py'), encoding='utf-8') as f:
        assert len(re.findall(r'sess\.run\(\s*\[model\.optimizer_[dg]', f.read())) >= 2


def test_the_table_of_files_lists_their_imports():
    with open(os.path.join(ROOT, 'docs', 'architecture.md'), encoding='utf-8') as f:
        rows = re.findall(r'^\| `([\w/]+\.py)` \| \d+ \| [^|]* \| ([^|]*) \|$', f.read(), re.M)
    listed = {path[:-len('.py')].replace('/', '.'): set(used.split()) for path, used in rows}
    assert listed == {name: {one.replace('dcgan.', '') for one in used - {'tensorflow.compat.v1'}}
                      for name, used in structure.imports().items()}
