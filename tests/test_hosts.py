"""The programs and the Sampler in other hosts than a shell: notebooks, threads, a web server."""
import collections
import concurrent.futures
import contextlib
import http.client
import http.server
import io
import os
import queue
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import sampler
from conftest import ROOT, TF1, costly
from dcgan import session, signals
from running import TINY, pixels, rows, run_here, steps_of

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
WIDGET = 'application/vnd.jupyter.widget-view+json'

Output = collections.namedtuple('Output', 'out err shown error')    # shown: MIME types of displays


class Notebook:
    """A kernel of this Python, as Jupyter starts it, in a folder."""

    def __init__(self, folder):
        from jupyter_client.manager import start_new_kernel
        self.manager, self.client = start_new_kernel(
            cwd=str(folder), env=dict(os.environ, IPYTHONDIR=str(folder / 'ipython')))

    def run(self, code):
        """Runs a cell and returns its Output."""
        texts, shown, errors = {'stdout': '', 'stderr': ''}, [], []

        def record(message):
            content = message['content']
            if message['msg_type'] == 'stream':
                texts[content['name']] += content['text']
            elif message['msg_type'] == 'display_data':
                shown.extend(content['data'])
            elif message['msg_type'] == 'error':
                errors.append(f'{content["ename"]}: {content["evalue"]}')

        self.client.execute_interactive(code, output_hook=record, timeout=300)
        return Output(texts['stdout'], texts['stderr'], shown, ''.join(errors))

    def program(self, name, *arguments):
        """Runs a program by %run and returns its Output."""
        return self.run(f'%run {os.path.join(ROOT, name)} {" ".join(map(str, arguments))}')

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def opened_notebook(folder):
    pytest.importorskip('ipykernel')
    pytest.importorskip('ipywidgets')
    return contextlib.closing(Notebook(folder))


@pytest.fixture(scope='module')
def notebook(tmp_path_factory):
    with opened_notebook(tmp_path_factory.mktemp('notebook')) as notebook:
        yield notebook


# notebooks

def test_programs_run_one_after_the_other_in_a_notebook(notebook, tmp_path):
    handlers = f'import signal; print([signal.getsignal(n) for n in {list(map(int, SIGNALS))}])'
    before = notebook.run(handlers).out
    for seed in (0, 1):
        done = notebook.program('generate.py', '--ckpt', TINY, '--num', 4, '--seed', seed,
                                '--out', tmp_path / 'notebook')
        assert done.out.endswith(f'faces_seed{seed}.png\n') and (done.err, done.error) == ('', '')
        run_here('generate.py', '--ckpt', TINY, '--num', 4, '--seed', seed, '--out', 'shell',
                 cwd=tmp_path)
        assert np.array_equal(*(pixels(tmp_path / host / f'faces_seed{seed}.png')
                                for host in ('notebook', 'shell')))
    assert notebook.run(handlers).out == before != ''


def test_progress_is_a_widget_in_a_notebook(notebook, tmp_path):
    done = notebook.program('generate.py', '--ckpt', TINY, '--num', 4, '--out', tmp_path)
    assert WIDGET in done.shown and done.err == ''
    status = notebook.run('import tensorflow.compat.v1 as tf\nfrom dcgan import log\n'
                          f'records = log.Log(tf, {str(tmp_path)!r}, 0, 100, 10, 64)\n'
                          'records.status(1, 1.0, 1.0)\nrecords.losses(1, 1.0, 1.0, 0.5, 0.5)\n'
                          'records.close()')
    assert status.error == '' and WIDGET in status.shown and (status.out, status.err) == ('', '')


def test_progress_is_text_in_a_notebook_without_widgets(tmp_path):
    with opened_notebook(tmp_path) as notebook:
        done = notebook.run(
            f'import sys\nsys.path.insert(0, {ROOT!r})\nsys.modules["ipywidgets"] = None\n'
            'from dcgan import cli\nwith cli.Progress(3, "images") as progress:\n'
            '    progress.last_shown -= 11\n    progress.update(2)')
        assert done == Output('', '2 of 3 images\n', [], '')


def test_a_wrong_option_is_one_sentence_in_a_notebook(notebook):
    done = notebook.program('generate.py', '--num', 0)
    assert done.err == 'error: argument --num: 0 is not from 1 to 2147483647\n'
    assert done.error == 'SystemExit: 2' and done.out == ''


def test_a_program_runs_in_a_notebook_s_shell(notebook, tmp_path):
    command = f'!{sys.executable} {os.path.join(ROOT, "generate.py")} --ckpt {TINY}'
    done = notebook.run(f'{command} --num 4 --out {tmp_path}; echo $?')
    assert 'faces_seed0.png' in done.out and done.out.splitlines()[-1] == '0'
    assert notebook.run(f'{command} --num 0; echo $?').out.splitlines() == [
        'error: argument --num: 0 is not from 1 to 2147483647', '2']


@pytest.mark.skipif(TF1, reason='Keras is a part of TensorFlow 1.15')
def test_keras_is_the_current_one_in_a_notebook_after_a_program(notebook, tmp_path):
    notebook.program('generate.py', '--ckpt', TINY, '--num', 4, '--out', tmp_path)
    done = notebook.run('import tensorflow as tf; print(tf.keras.layers.Dense.__module__)')
    assert done.error == '' and done.out.startswith('keras.')


@costly
def test_interrupting_a_notebook_saves_the_run(notebook, tmp_path):
    table = tmp_path / 'samples' / 'loss.csv'

    def interrupt():
        while not (table.exists() and rows(table)) and not is_over.wait(0.1):
            pass
        notebook.manager.interrupt_kernel()

    is_over = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        done = notebook.program(
            'train.py', '--dataset', 'toy', '--image-size', 32, '--batch-size', 16,
            '--log-every', 1, '--data-dir', tmp_path, '--model-dir', tmp_path / 'model',
            '--samples-dir', tmp_path / 'samples')
    finally:
        is_over.set()
        thread.join()
    step, = steps_of(tmp_path / 'model')
    assert f'stopped at step {step:,} and saved ' in done.err and done.error == 'SystemExit: 130'


# threads

IN_A_THREAD = '''
import signal, sys, threading
from dcgan import session

def draw():
    session.set_up()
    import sampler
    with sampler.Sampler(sys.argv[1]) as faces:
        images.append(next(faces.draw_many(0, 4)))

images = []
before = signal.getsignal(signal.SIGINT)
threads = [threading.Thread(target=draw) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(images), (images[0] == images[1]).all(), signal.getsignal(signal.SIGINT) is before)
print('standard error is there', file=sys.stderr)
'''


def test_a_sampler_is_set_up_in_a_thread():
    done = subprocess.run([sys.executable, '-c', IN_A_THREAD, TINY], capture_output=True,
                          text=True, timeout=300, env=dict(os.environ, PYTHONPATH=ROOT))
    assert (done.stdout, done.stderr) == ('2 True True\n', 'standard error is there\n')


def test_threads_draw_the_same_from_one_sampler_at_the_same_time():
    prefix = os.path.join(ROOT, 'model', 'dcgan_celeba')
    with sampler.Sampler(prefix) as faces, concurrent.futures.ThreadPoolExecutor(4) as pool:
        def draw(seed):
            return np.concatenate(list(faces.draw_many(seed, 48, batch_size=16)))

        expected = [draw(seed) for seed in range(4)]
        for _ in range(3):
            for images, alone in zip(pool.map(draw, range(4)), expected):
                assert np.array_equal(images, alone)


def test_a_program_runs_in_a_thread(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        out, err = pool.submit(run_here, 'generate.py', '--ckpt', TINY, '--num', 4,
                               cwd=tmp_path).result()
    assert out.endswith('samples/faces_seed0.png\n') and err == ''


def test_the_server_in_the_page_serves_faces(monkeypatch):
    with open(os.path.join(ROOT, 'docs', 'drawing.md'), encoding='utf-8') as f:
        program, = re.findall(r'^```python\n(.*?)^```', f.read(), re.DOTALL | re.MULTILINE)
    servers, variables = queue.Queue(), {}

    class Server(http.server.ThreadingHTTPServer):
        def __init__(self, address, handler):
            super().__init__((address[0], 0), handler)      # the page's port may be taken
            servers.put(self)

    def get(seed):
        connection = http.client.HTTPConnection(*server.server_address, timeout=60)
        connection.request('GET', f'/{seed}')
        return np.asarray(Image.open(io.BytesIO(connection.getresponse().read())))

    monkeypatch.setattr(http.server, 'ThreadingHTTPServer', Server)
    monkeypatch.chdir(ROOT)
    thread = threading.Thread(target=exec, args=(program, variables), daemon=True)
    thread.start()
    server = servers.get(timeout=120)
    with variables['faces'] as faces, server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for seed, image in enumerate(pool.map(get, range(8))):
            assert np.array_equal(image, next(faces.draw_many(seed, 1))[0])
        server.shutdown()
    thread.join()


def test_signals_are_left_alone_in_a_thread():
    def block():
        with signals.received() as (stop, save):
            return [signal.getsignal(number) for number in SIGNALS], stop, save

    before = [signal.getsignal(number) for number in SIGNALS]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(block).result() == (before, [], [])


def test_standard_error_is_back_after_two_threads_hid_it(capfd):
    def hide(inside, leave):
        with session.hidden_stderr():
            inside.set()
            leave.wait(60)

    events = [[threading.Event() for _ in range(2)] for _ in range(2)]
    threads = [threading.Thread(target=hide, args=pair) for pair in events]
    for thread, (inside, _) in zip(threads, events):
        thread.start()
        inside.wait(1)              # the second one may have to wait for the first
    for thread, (_, leave) in zip(threads, events):
        leave.set()
        thread.join()
    os.write(2, b'seen\n')
    assert capfd.readouterr().err == 'seen\n'
