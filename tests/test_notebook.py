"""lesson.ipynb runs, is shipped with outputs of the toy set, and says all in two languages."""
import ast
import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import lesson
import structure
import train
from conftest import ROOT, TF1

pytestmark = pytest.mark.skipif(TF1 and 'RUNS' not in os.environ,
                                reason='slow; RUNS=1 runs the notebook on 1.15 too')

CHINESE = re.compile('[\u4e00-\u9fff]')
# Of two folders or more; a single / may be a fraction, and an address has : or / before it.
ABSOLUTE_PATH = re.compile(r'(?<![\w.:/])/[\w.-]+/[\w.-]+|\b[A-Z]:\\')


@pytest.fixture(scope='module')
def shipped():
    return lesson.read()


@pytest.fixture(scope='module')
def run(shipped, tmp_path_factory):
    """(the notebook after a run with six seconds of training, the kernel's messages)."""
    messages = []
    data_dir = str(tmp_path_factory.mktemp('datasets'))
    return lesson.run(shipped, messages.append, MINUTES=0.1, DATA_DIR=data_dir), messages


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def source(notebook, name):
    cell, = [cell for cell in notebook.cells if cell.id == name]
    return cell.source


def shown_code(notebook):
    """The source code that each cell shows, without the fences around it."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    texts = [output.get('data', {}).get('text/markdown', '') for output in outputs]
    return [match[1] for match in (re.match('```python\n(.*)```$', text, re.DOTALL)
                                   for text in texts) if match]


def readable_texts(notebook):
    """All texts of a notebook: cells, printed text, texts of displays."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get('outputs', []):
            yield output.get('text', '')
            yield from (value for kind, value in output.get('data', {}).items()
                        if kind.startswith('text/'))


# what a run of it does

def test_every_cell_runs(run):
    notebook, _ = run
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_the_sheet_changes_below_the_loop(run):
    _, messages = run
    sheets = {}
    for message in messages:
        display_id = message['content'].get('transient', {}).get('display_id')
        picture = message['content'].get('data', {}).get('image/jpeg')
        if display_id and picture:
            sheets.setdefault(display_id, set()).add(picture)
    assert [len(versions) > 1 for versions in sheets.values()] == [True]


def test_the_loop_runs_the_step_that_is_shown_above_it(run, shipped):
    notebook, _ = run
    assert inspect.getsource(train.run_step) in shown_code(notebook)
    assert 'train.run_step(sess, ' in source(shipped, 'loop')


@pytest.mark.parametrize('folder', ['lfw', 'celeba', 'toy'])
def test_photographs_are_shown_if_there_are_any(shipped, folder, tmp_path, capsys):
    if folder != 'toy':
        os.makedirs(str(tmp_path / folder / 'Anna'))
        for number in range(3):
            pixels = np.full((250, 250, 3), 80 * number, np.uint8)
            Image.fromarray(pixels).save(str(tmp_path / folder / 'Anna' / f'{number}.jpg'))
    names = {'DATA_DIR': str(tmp_path)}
    for name in ('helpers', 'photographs'):
        exec(source(shipped, name), names)
    assert names['source'].dataset == folder
    assert np.shape(names['images']) == (36, 64, 64, 3)
    assert capsys.readouterr().out.splitlines()[1] == (
        'toy: 4,000' if folder == 'toy' else f'{folder}: 3')


# where the project's files are not beside it

def run_clone_cell(shipped, folder, repository):
    """(exit code, output, error) of the cell and a line after it, run in a folder."""
    cell = source(shipped, 'clone').replace("REPOSITORY = ''", f'REPOSITORY = {repository!r}')
    process = subprocess.run(
        [sys.executable, '-c', cell + '\nimport train\nprint(train.NAME)'], cwd=str(folder),
        capture_output=True, text=True,
        env={**os.environ, 'PYTHONIOENCODING': 'utf-8', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'})
    return process.returncode, process.stdout, process.stderr


def test_missing_files_are_cloned(shipped, tmp_path):
    repository, home = tmp_path / 'repository', tmp_path / 'home'
    repository.mkdir()
    home.mkdir()
    (repository / 'train.py').write_text("NAME = 'cloned'\n")
    (repository / 'requirements.txt').write_text('')
    git = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', '-C', str(repository)]
    for command in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'first']):
        subprocess.run(git + command, check=True)
    code, out, err = run_clone_cell(shipped, home, str(repository))
    assert (code, out) == (0, 'cloned\n'), err
    # A kernel that was started anew is in the first folder again.
    code, out, err = run_clone_cell(shipped, home, 'gone')
    assert (code, out) == (0, 'cloned\n'), err


def test_without_an_address_missing_files_end_in_a_sentence(shipped, tmp_path):
    code, _, err = run_clone_cell(shipped, tmp_path, '')
    assert code == 1
    assert 'FileNotFoundError: train.py is not here: set REPOSITORY in this cell' in err
    assert os.listdir(str(tmp_path)) == []


# the file that is shipped

def test_shipped_notebook_has_less_than_a_megabyte():
    assert os.path.getsize(lesson.PATH) < 1e6


def test_shipped_outputs_come_from_one_run_of_all_cells(shipped):
    cells = code_cells(shipped)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell.id for cell in cells if not cell.outputs]
    assert silent == ['clone', 'parameters', 'session']
    assert lesson.parameters_cell(shipped).source.startswith('MINUTES = 2\n')


def test_shipped_outputs_show_todays_code(run, shipped):
    notebook, _ = run
    assert shown_code(shipped) == shown_code(notebook), 'run python tests/lesson.py'


def test_shipped_outputs_have_no_photographs(shipped):
    cell, = [cell for cell in shipped.cells if cell.id == 'photographs']
    assert cell.outputs[0].text == 'toy: 4,000\n'


def test_shipped_notebook_has_no_paths_of_a_machine(shipped):
    assert [text for text in readable_texts(shipped) if ABSOLUTE_PATH.search(text)] == []
    

def test_every_paragraph_has_a_chinese_one_beside_it(shipped):
    for cell in shipped.cells:
        if cell.cell_type != 'markdown':
            continue
        paragraphs = cell.source.split('\n\n')
        if paragraphs[0].startswith('#'):
            english, chinese = paragraphs.pop(0).split(' · ')
            assert CHINESE.search(chinese) and not CHINESE.search(english)
        assert len(paragraphs) % 2 == 0, cell.source
        for english, chinese in zip(paragraphs[::2], paragraphs[1::2]):
            assert not CHINESE.search(english), english
            assert CHINESE.search(chinese), chinese
            sentences = [re.split(r'(?<=[.!?])\s', english), re.split('[。！？](?=.)', chinese)]
            assert len(sentences[0]) == len(sentences[1]), sentences


def test_links_of_the_notebook_exist(shipped):
    targets = [target for cell in shipped.cells if cell.cell_type == 'markdown'
               for target in re.findall(r'\]\(([^)]+)\)', cell.source)]
    assert targets
    assert [target for target in targets if not os.path.exists(os.path.join(ROOT, target))] == []


def test_the_notebook_defines_no_function_of_the_project(shipped):
    def definitions(tree):
        return {node.name for node in ast.walk(tree)
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own = set().union(*(definitions(ast.parse(cell.source)) for cell in code_cells(shipped)))
    assert own
    assert own & set().union(*map(definitions, map(structure.tree, structure.modules().values()))
                             ) == set()
