"""The documentation agrees with the project: links, anchors, options, quoted messages."""
import ast
import glob
import os
import re

import pytest

from conftest import ROOT


def read(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as f:
        return f.read()


PAGES = ['README.md', 'CONTRIBUTING.md', os.path.join('model', 'README.md'),
         os.path.join('tests', 'golden', 'README.md'),
         *sorted(os.path.relpath(path, ROOT)
                 for path in glob.glob(os.path.join(ROOT, 'docs', '*.md')))]
# The page with a table of all options of a program.
DESCRIBED_IN = {'train.py': 'options.md', 'download_lfw.py': 'options.md',
                'generate.py': 'drawing.md', 'export.py': 'drawing.md',
                'evaluate.py': 'evaluate.md', 'classify.py': 'evaluate.md'}
# Options of other programs that the pages name. --seconds belongs to fuzz_coverage.py, which needs
# atheris even for its --help.
FOREIGN = {'--require-hashes', '--bind', '--directory', '--logdir', '--seconds'}
OPTION = re.compile(r'(?<![\w"-])--[a-z][a-z0-9-]*')
CELL = 200              # characters: a line or two


@pytest.fixture(scope='module')
def options(parsers):
    """{program: its options}."""
    return {program: set(parser._option_string_actions) for program, parser in parsers.items()}


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    slugs, in_code = set(), False
    for line in read(page).splitlines():
        in_code ^= line.startswith('```')
        heading = re.match(r'#+ (.*)', line)
        if heading and not in_code:
            text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading[1]).strip().lower()
            slug = re.sub(r'[^\w\- ]', '', text).replace(' ', '-')
            number = next(n for n in range(len(slugs) + 1) if (f'{slug}-{n}' if n else slug)
                          not in slugs)
            slugs.add(f'{slug}-{number}' if number else slug)
    return slugs


def test_readme_has_at_most_13000_bytes():
    assert os.path.getsize(os.path.join(ROOT, 'README.md')) <= 13000


@pytest.mark.parametrize('page', PAGES)
def test_links_and_anchors_exist(page):
    text = re.sub(r'```.*?```', '', read(page), flags=re.DOTALL)
    targets = re.findall(r'\]\((?!https?://)([^)\s]+)\)', text)
    for target in targets:
        path, _, anchor = target.partition('#')
        other = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, other)), target
        assert not anchor or anchor in anchors(other), target


def test_options_named_in_the_pages_exist(options):
    named = {option for page in PAGES for option in OPTION.findall(read(page))}
    assert named - set().union(*options.values()) == FOREIGN


@pytest.mark.parametrize('page', PAGES)
def test_commands_in_the_pages_use_options_that_their_program_has(options, page):
    for program in re.findall(r'python ([\w/]+\.py)\b', read(page)):
        assert os.path.exists(os.path.join(ROOT, program)), program
    for program, rest in re.findall(r'([\w/]+\.py)\b([^`|&\n]*)', read(page)):
        if program in options:
            assert set(OPTION.findall(rest)) <= options[program], program + rest


@pytest.mark.parametrize('page', PAGES)
def test_test_files_named_in_the_pages_exist(page):
    for name in re.findall(r'\btest_\w+\.py', read(page)):
        assert os.path.exists(os.path.join(ROOT, 'tests', name)), name


@pytest.mark.parametrize('program', sorted(DESCRIBED_IN))
def test_every_option_has_a_row_in_the_pages(options, program):
    rows = [line.split('|')[1] for line in read(f'docs/{DESCRIBED_IN[program]}').splitlines()
            if line.startswith('| `')]
    described = set(OPTION.findall(' '.join(rows)))
    assert {option for option in options[program] if option.startswith('--')} - described == {
        '--help'}


@pytest.mark.parametrize('page', PAGES)
def test_table_cells_are_short(page):
    rows = [line for line in read(page).splitlines() if line.startswith('|')]
    cells = [cell.strip() for row in rows for cell in re.split(r'(?<!\\)\|', row)]
    assert [cell for cell in cells if len(cell) > CELL] == []


def messages():
    """All texts in the programs; … stands for the values filled in."""
    def text(node):
        if isinstance(node, ast.JoinedStr):
            return ''.join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        try:
            return str(ast.literal_eval(node))
        except ValueError:
            return '…'
    return [text(node) for path in glob.glob(os.path.join(ROOT, '**', '*.py'), recursive=True)
            if not os.path.relpath(path, ROOT).startswith(('tests', '.'))
            for node in ast.walk(ast.parse(read(path)))
            if type(node).__name__ in ('JoinedStr', 'BinOp', 'Constant', 'Str')]     # Str: 3.7's


def test_messages_in_troubleshooting_exist_in_the_programs():
    quoted = re.findall(r'^\| `([^`]*)` \|', read('docs/troubleshooting.md'), re.MULTILINE)
    assert quoted
    known = '\n'.join(messages())
    for message in quoted:
        pattern = '.*'.join(re.escape(part) for part in message.strip('… ').split('…'))
        assert re.search(pattern, known), message
