"""Programs whose output is closed, unread or ASCII only; names that are not UTF-8."""
import os
import shutil
import subprocess
import sys

import pytest

import plain_celeba
from conftest import ROOT, costly
from dcgan import checkpoint, toy
from running import TINY, refused_here, run_here

ODD = os.fsdecode(b'd\xff')         # a name that is not UTF-8: no stream can print it
TRAIN = ['--image-size', '32', '--batch-size', '8', '--max-steps', '1']
FACES = ['--dataset', os.path.join(ODD, 'faces'), '--data-dir', ODD]
# {program: (arguments, with ODD wherever it is allowed; a file that the program writes)}.
COMMANDS = {
    'train.py': ([*FACES, *TRAIN], os.path.join('model', 'dcgan_faces-1.index')),
    'generate.py': (['--ckpt', TINY, '--out', ODD], os.path.join(ODD, 'faces_seed0.png')),
    'evaluate.py': (['--ckpt', TINY, *FACES, '--json', os.path.join(ODD, 'figures.json')],
                    os.path.join(ODD, 'figures.json')),
    'export.py': (['--ckpt', TINY, '--format', 'savedmodel', '--out', 'exported'],
                  os.path.join('exported', 'saved_model.pb')),
    'classify.py': (['--data-dir', os.path.join(ODD, 'datasets'), '--epochs', '1', '--out',
                     os.path.join(ODD, 'labels.pb')], os.path.join(ODD, 'labels.pb'))}


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """A folder named ODD with faces/ and datasets/celeba/."""
    folder = tmp_path_factory.mktemp('photographs') / ODD
    (folder / 'faces').mkdir(parents=True)
    for number in range(40):
        toy.draw(str(number)).save(str(folder / 'faces' / f'{number:02d}.png'))
    plain_celeba.write(folder, ['Red', 'Blue'], [[True, False]] * 130, [(200, 60, 60)] * 130,
                       parts=[0] * 128 + [1] * 2)
    return folder


@pytest.fixture
def home(photographs, tmp_path):
    """A folder with a copy of photographs."""
    shutil.copytree(str(photographs), str(tmp_path / ODD))
    return tmp_path


def in_shell(program, arguments, redirections, cwd, encoding='utf-8'):
    """Runs a program with the redirections of a shell; returns (exit code, remaining output)."""
    command = [sys.executable, os.path.join(ROOT, program), *arguments]
    shell = f'("$@"; echo $? > code) {redirections}'
    out = subprocess.check_output(['sh', '-c', shell, 'sh', *command], cwd=str(cwd), timeout=300,
                                  env=dict(os.environ, PYTHONIOENCODING=encoding),
                                  stderr=subprocess.STDOUT)
    return int((cwd / 'code').read_text()), out.decode()


@costly
@pytest.mark.parametrize('redirections', ['<&- >&- 2>&-', '2>&1 | true'],
                         ids=['closed', 'read by nobody'])
@pytest.mark.parametrize('program', COMMANDS)
def test_closed_or_unread_output_does_not_end_a_program(home, program, redirections):
    arguments, written = COMMANDS[program]
    assert in_shell(program, arguments, redirections, home) == (0, '')
    assert (home / written).exists()
    for _, prefix in checkpoint.checkpoints_of(str(home / 'model'), 'dcgan_faces'):
        checkpoint.verify(prefix)       # no output is in its files


def test_an_ascii_terminal_gets_replaced_characters(home):
    code, out = in_shell('evaluate.py', COMMANDS['evaluate.py'][0], '', home, 'ascii')
    assert code == 0
    assert 'reading 40 photographs of d\\udcff/faces' in out
    assert 'sliced Wasserstein ? 10?, mean' in out and out.splitlines()[-1] == 'd?/figures.json'


@pytest.mark.parametrize('redirections', ['>&-', '2>&-', '<&- 2>&-', '<&- >&- 2>&-'])
def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path, redirections):
    (tmp_path / 'program.py').write_text(
        f'import os, subprocess, sys; sys.path.insert(0, {ROOT!r}); from dcgan import cli\n'
        'cli.Parser().parse_args([])\n'
        'with open("checkpoint", "wb", 0) as f:\n'
        '    for number in (1, 2):\n'
        '        os.write(number, b"written by C++")\n'
        '    subprocess.check_call("echo a child; echo its errors >&2", shell=True)\n')
    shell = f'{sys.executable} program.py {redirections}'
    assert subprocess.call(shell, shell=True, cwd=str(tmp_path)) == 0
    assert (tmp_path / 'checkpoint').read_bytes() == b''


@pytest.mark.parametrize('program', COMMANDS)
def test_an_error_is_not_printed_on_another_stream(tmp_path, program):
    """With standard error closed, print(file=None) would print on standard output."""
    assert in_shell(program, ['--whatever'], '2>&-', tmp_path) == (2, '')


# names that are not UTF-8

SENTENCE = 'TensorFlow takes names in UTF-8 only; rename it\n'


@pytest.fixture
def odd_folder(tmp_path, monkeypatch):
    """The working folder, which is named ODD."""
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    return tmp_path / ODD


@pytest.mark.parametrize('option', ['--model-dir', '--samples-dir'])
def test_train_refuses_a_folder_that_is_not_utf8_at_its_start(tmp_path, option):
    message = refused_here('train.py', '--dataset', 'toy', *TRAIN, option, ODD, cwd=tmp_path)
    assert message == f'error: {option} d\\udcff: {SENTENCE}'
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize('program, arguments', [
    ('generate.py', []), ('evaluate.py', ['--dataset', 'toy']),
    ('export.py', ['--format', 'savedmodel', '--out', 'exported'])])
def test_a_checkpoint_that_is_not_utf8_is_refused(tmp_path, program, arguments):
    (tmp_path / 'model').mkdir()
    for ending in ('.index', '.data-00000-of-00001'):
        shutil.copy(TINY + ending, str(tmp_path / 'model' / (ODD + ending)))
    message = refused_here(program, '--ckpt', 'model', *arguments, cwd=tmp_path)
    assert message == f'error: --ckpt model/d\\udcff: {SENTENCE}'


@pytest.mark.parametrize('program, option, arguments', [
    ('generate.py', '--save-generator', []), ('export.py', '--out', ['--format', 'savedmodel']),
    ('export.py', '--out', ['--format', 'onnx']), ('export.py', '--out', ['--format', 'tflite'])])
def test_an_output_that_is_not_utf8_is_refused(tmp_path, program, option, arguments):
    message = refused_here(program, '--ckpt', TINY, option, ODD, *arguments, cwd=tmp_path)
    assert message.startswith(f'error: {option} ')
    assert message.endswith(f'd\\udcff: {SENTENCE}')
    assert os.listdir(str(tmp_path)) in ([], ['samples'])


def test_an_export_into_a_folder_that_is_not_utf8_is_refused(odd_folder):
    message = refused_here('export.py', '--ckpt', TINY, '--format', 'onnx', '--out', 'dcgan.onnx',
                           cwd=odd_folder)
    assert message == f'error: --out {odd_folder}/dcgan.onnx: {SENTENCE}'.replace(ODD, 'd\\udcff')


@costly
def test_a_run_in_a_folder_that_is_not_utf8_resumes_and_draws(odd_folder):
    for steps in (1, 2):
        run_here('train.py', '--dataset', 'toy', *TRAIN[:-1], steps, '--resume', cwd=odd_folder)
    out, _ = run_here('generate.py', '--num', 1, cwd=odd_folder)
    assert out.startswith(os.path.join('model', 'dcgan_toy-2'))
