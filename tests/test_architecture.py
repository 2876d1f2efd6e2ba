"""Who imports whom: arrows run downwards only, and programs do not know each other."""
import ast
import glob
import os

from conftest import ROOT

PROGRAMS = {'download_lfw', 'train', 'generate', 'evaluate', 'export', 'classify'}
WITHOUT_TENSORFLOW = {'settings', 'files', 'cli', 'signals', 'augment', 'batches', 'data',
                      'metrics', 'pictures'}


def imports():
    """{module: names of the project's modules that it imports}, those of dcgan/ as dcgan.name."""
    paths = glob.glob(os.path.join(ROOT, '*.py')) + glob.glob(os.path.join(ROOT, 'dcgan', '*.py'))
    names = {os.path.relpath(path, ROOT)[:-len('.py')].replace(os.sep, '.'): path for path in paths}
    found = {}
    for name, path in names.items():
        with open(path, encoding='utf-8') as f:
            nodes = list(ast.walk(ast.parse(f.read())))
        used = {alias.name for node in nodes if isinstance(node, ast.Import)
                for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                used |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
        found[name] = used
    return {name: used & set(found) | used & {'tensorflow.compat.v1'}
            for name, used in found.items()}


def test_nothing_in_dcgan_imports_a_file_of_the_root():
    assert {name: root for name, used in imports().items() if name.startswith('dcgan.')
            for root in [{one for one in used if '.' not in one and one != 'dcgan'}] if root} == {}


def test_no_circle_of_imports():
    left = imports()
    while left:
        free = [name for name, used in left.items() if not (used - {name, 'dcgan'}) & set(left)]
        assert free, sorted(left)
        for name in free:
            del left[name]


def test_programs_do_not_import_each_other():
    assert {name: used & PROGRAMS for name, used in imports().items() if used & PROGRAMS} == {}


def test_what_serves_the_command_line_does_not_need_tensorflow():
    assert [name for name, used in imports().items() if 'tensorflow.compat.v1' in used
            and name.replace('dcgan.', '') in WITHOUT_TENSORFLOW] == []
