"""Runs the programs as processes, as a user does, or in this process to save time."""
import contextlib
import csv
import importlib
import io
import os
import random
import socket
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
    """Starts a program and yields its process, which ends with the block at the latest."""
    command = [sys.executable, os.path.join(ROOT, program)] + [str(a) for a in arguments]
    process = subprocess.Popen(command, cwd=str(cwd), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, universal_newlines=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(program, *arguments, cwd, code=0):
    """Runs a program, which must end with the code; returns (stdout, stderr)."""
    with started(program, *arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def run_here(program, *arguments, cwd, code=0):
    """Like run, but in this process, which has imported TensorFlow already."""
    main = importlib.import_module(program[:-len('.py')]).main
    # Standard error prints any text, as that of Python does.
    out, err = (io.TextIOWrapper(io.BytesIO(), 'utf-8', errors, write_through=True)
                for errors in ('strict', 'backslashreplace'))
    before = os.getcwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(str(cwd))
        try:
            exit_code = main([str(a) for a in arguments]) or 0
        except SystemExit as error:
            exit_code = error.code
        finally:
            os.chdir(before)
    out, err = (stream.buffer.getvalue().decode() for stream in (out, err))
    assert exit_code == code, out + err
    return out, err


def refused(program, *arguments, cwd, run=run):
    """Runs a program, which must end with code 2; returns its error, one sentence."""
    out, err = run(program, *arguments, cwd=cwd, code=2)
    assert err.startswith('error: ') and err.count('\n') == 1, err
    return err


def refused_here(program, *arguments, cwd):
    """Like refused, but in this process."""
    return refused(program, *arguments, cwd=cwd, run=run_here)


def without_tensorflow(program, *arguments, cwd):
    """Runs a program, which must not import TensorFlow; returns its standard output."""
    watched = ('import atexit, os, runpy, sys; sys.argv = sys.argv[1:]; '
               'atexit.register(lambda: "tensorflow" in sys.modules and os._exit(7)); '
               'sys.path.insert(0, os.path.dirname(sys.argv[0])); '
               'runpy.run_path(sys.argv[0], run_name="__main__")')
    process = subprocess.run([sys.executable, '-c', watched, os.path.join(ROOT, program),
                              *map(str, arguments)], cwd=str(cwd), stdout=subprocess.PIPE,
                             text=True)
    assert process.returncode == 0
    return process.stdout


def rows(path):
    """[{column: text}] of a CSV table."""
    with open(str(path), newline='') as f:
        return list(csv.DictReader(f))


def pixels(path):
    """The array of an image, uint8 [h, w, 3]."""
    with Image.open(str(path)) as image:
        return np.asarray(image)


def steps_of(folder, name='dcgan_toy'):
    """The steps of a run's checkpoints in a folder, ascending."""
    return [step for step, _ in checkpoint.checkpoints_of(str(folder), name)]


def tensors(prefix):
    """{name: value} of all variables in a checkpoint."""
    reader = tf.train.NewCheckpointReader(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def free_addresses(count):
    """Addresses host:port of this machine, sorted, with free ports.

    The ports are below those that the system gives to connections.
    """
    addresses = set()
    while len(addresses) < count:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)):
                addresses.add(f'127.0.0.1:{port}')
    return sorted(addresses)
