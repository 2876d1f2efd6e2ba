"""Paths that begin with `~`, on every command line."""
import argparse
import os

import pytest

from running import TINY, pixels, refused_here, run_here

# The options that take a text of any kind, which is no path.
TEXTS = {'download_lfw.py --url', 'evaluate.py --input', 'evaluate.py --output',
         'benchmarks/cluster.py --train', 'benchmarks/endurance.py --train',
         'benchmarks/speed.py --only'}


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The home directory of the user, which is not the folder that the programs run in."""
    folder = tmp_path / 'user'
    folder.mkdir()
    monkeypatch.setenv('HOME', str(folder))
    return folder


def arguments_of(parsers):
    """Yields the name and the argparse action of each argument that is followed by a value."""
    for program, parser in parsers.items():
        for action in parser._actions:
            if action.nargs != 0 and action.choices is None and action.help != argparse.SUPPRESS:
                yield f'{program} {(action.option_strings or [action.dest])[0]}', action


def parsed(action, text):
    """The value that an action's type makes of a text, or None if it refuses the text."""
    try:
        return action.type(text) if action.type else text
    except (argparse.ArgumentTypeError, ValueError):
        return None


def test_every_argument_that_takes_any_text_expands_a_tilde_or_is_no_path(parsers, user):
    of_text = {name: parsed(action, '~/x y') for name, action in arguments_of(parsers)
               if parsed(action, 'x y') == 'x y'}
    assert len(of_text) > 30
    assert {name for name, value in of_text.items() if value != str(user / 'x y')} == TEXTS


def test_a_tilde_is_the_home_of_the_user_on_the_command_line(user, tmp_path):
    folder = tmp_path / 'here'
    folder.mkdir()
    run_here('generate.py', '--ckpt', TINY, '--num', 1, '--out=~/faces', '--save-latents=~/z.npy',
             cwd=folder)
    run_here('generate.py', '--ckpt', TINY, '--latents=~/z.npy', '--out=~/again', cwd=folder)
    assert sorted(os.listdir(str(user))) == ['again', 'faces', 'z.npy']
    assert pixels(user / 'faces' / 'faces_seed0.png').tolist() == pixels(
        user / 'again' / 'faces_z.png').tolist()
    out, _ = run_here('train.py', '--dry-run', '--dataset=~/faces', '--batch-size', 1,
                      '--data-dir=~/data', '--sheet=~/sheet.png', cwd=folder)
    assert f'dataset          {user}/faces\n' in out
    assert sorted(os.listdir(str(user))) == ['again', 'data', 'faces', 'sheet.png', 'z.npy']
    assert os.listdir(str(folder)) == []


@pytest.mark.parametrize('program, option', [
    ('generate.py', '--out'), ('generate.py', '--ckpt'), ('train.py', '--dataset'),
    ('export.py', '--out')])
def test_the_home_of_an_unknown_user_is_refused(tmp_path, program, option):
    message = refused_here(program, f'{option}=~nobody_here/x', cwd=tmp_path)
    assert message == (f'error: argument {option}: ~nobody_here/x: no user is called '
                       'nobody_here; for a name that begins with ~ write ./~nobody_here/x\n')
    assert os.listdir(str(tmp_path)) == []


def test_a_name_with_a_tilde_is_taken_after_a_slash(tmp_path, user):
    run_here('generate.py', '--ckpt', TINY, '--num', 1, '--out', './~x', cwd=tmp_path)
    assert os.listdir(str(tmp_path / '~x')) == ['faces_seed0.png']
