"""Runs lesson.ipynb as Jupyter does, in a kernel of its own.

    python tests/lesson.py        runs all its cells and replaces its outputs

lesson.ipynb is edited in Jupyter or by hand. This program gives it outputs that depend on nothing
but its cells: of `toy`, not of photographs, and without times of the run.
"""
import contextlib
import copy
import os
import tempfile
import time
from unittest import mock

import nbclient
import nbformat

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = os.path.join(ROOT, 'lesson.ipynb')
PARAMETERS = 'parameters'       # tag of the cell whose values a run may replace
CELL_SECONDS = 900


def read():
    """The notebook as it is shipped."""
    return nbformat.read(PATH, as_version=4)


def run(notebook, received=None, **parameters):
    """Runs a copy of the notebook's cells in order, and returns it with their outputs.

    received: function called with each message of the kernel. parameters: values that replace
    those of the cell tagged `parameters`. Raises CellExecutionError if a cell fails.
    """
    notebook = copy.deepcopy(notebook)
    cell = parameters_cell(notebook)
    shipped = cell.source
    cell.source += ''.join(f'\n{name} = {value!r}' for name, value in parameters.items())
    client = nbclient.NotebookClient(notebook, timeout=CELL_SECONDS, record_timing=False,
                                     resources={'metadata': {'path': ROOT}})
    if received:
        process = client.process_message

        def process_message(message, *rest):
            received(message)
            return process(message, *rest)
        client.process_message = process_message
    with user_folders_elsewhere():
        client.execute()
    cell.source = shipped
    for cell in notebook.cells:
        join_streams(cell.get('outputs', []))
    return notebook


def join_streams(outputs):
    """Joins the parts in which a kernel sends what a cell prints, which differ from run to run."""
    for number in reversed(range(1, len(outputs))):
        previous, output = outputs[number - 1:number + 1]
        if output.output_type == 'stream' == previous.output_type and output.name == previous.name:
            previous.text += output.text
            del outputs[number]


def parameters_cell(notebook):
    cell, = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get('tags', [])]
    return cell


@contextlib.contextmanager
def user_folders_elsewhere():
    """Keeps the user's own kernels and IPython start-up files out of the block."""
    with tempfile.TemporaryDirectory() as folder, \
            mock.patch.dict(os.environ, JUPYTER_DATA_DIR=folder, IPYTHONDIR=folder):
        yield


def main():
    begin = time.monotonic()

    def print_progress(message):
        if message['msg_type'] == 'execute_input':
            first_line = message['content']['code'].splitlines()[0]
            print(f'{time.monotonic() - begin:6.1f} s  {first_line}', flush=True)

    with tempfile.TemporaryDirectory() as data_dir:
        notebook = run(read(), print_progress, DATA_DIR=data_dir)
    nbformat.write(notebook, PATH)
    print(f'{PATH}: {os.path.getsize(PATH):,} bytes in {time.monotonic() - begin:.0f} s')


if __name__ == '__main__':
    main()
