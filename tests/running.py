"""Runs the programs as a user does: as processes, or in this one where TensorFlow is up."""
import contextlib
import csv
import importlib
import io
import os
import subprocess
import sys

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

import parity
from conftest import ROOT
from dcgan import checkpoint

TINY = os.path.join(parity.GOLDEN, 'tiny_checkpoint', 'dcgan_celeba-3')
TOY = ['--dataset', 'toy', '--image-size', '32', '--batch-size', '16']


@contextlib.contextmanager
def started(program, *arguments, cwd):
    """A program as a process, which does not outlive the block."""
    command = [sys.executable, os.path.join(ROOT, program)] + [str(a) for a in arguments]
    process = subprocess.Popen(command, cwd=str(cwd), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, universal_newlines=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(program, *arguments, cwd, code=0):
    """(stdout, stderr) of a program that must end with the code."""
    with started(program, *arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def run_here(program, *arguments, cwd, code=0):
    """As run, but in this process, where TensorFlow has started already."""
    main = importlib.import_module(program[:-len('.py')]).main
    # Standard error prints any text, as Python's own does.
    out, err = (io.TextIOWrapper(io.BytesIO(), 'utf-8', errors, write_through=True)
                for errors in ('strict', 'backslashreplace'))
    before = os.getcwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(str(cwd))
        try:
            ended = main([str(a) for a in arguments]) or 0
        except SystemExit as stopped:
            ended = stopped.code
        finally:
            os.chdir(before)
    out, err = (stream.buffer.getvalue().decode() for stream in (out, err))
    assert ended == code, out + err
    return out, err


def refused(program, *arguments, cwd, run=run):
    """The one sentence that a program refuses with."""
    out, err = run(program, *arguments, cwd=cwd, code=2)
    assert err.startswith('error: ') and err.count('\n') == 1, err
    return err


def refused_here(program, *arguments, cwd):
    return refused(program, *arguments, cwd=cwd, run=run_here)


def without_tensorflow(program, *arguments, cwd):
    """What a program prints, which must not have imported TensorFlow at its end."""
    watched = ('import atexit, os, runpy, sys; sys.argv = sys.argv[1:]; '
               'atexit.register(lambda: "tensorflow" in sys.modules and os._exit(7)); '
               'sys.path.insert(0, os.path.dirname(sys.argv[0])); '
               'runpy.run_path(sys.argv[0], run_name="__main__")')
    done = subprocess.run([sys.executable, '-c', watched, os.path.join(ROOT, program),
                           *map(str, arguments)], cwd=str(cwd), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout


def rows(path):
    with open(str(path), newline='') as f:
        return list(csv.DictReader(f))


def pixels(path):
    with Image.open(str(path)) as image:
        return np.asarray(image)


def steps_of(folder, name='dcgan_toy'):
    """The steps of a run's checkpoints in a folder."""
    return [step for step, _ in checkpoint.checkpoints_of(str(folder), name)]


def tensors(prefix):
    reader = tf.train.NewCheckpointReader(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
