"""Several processes that train one model, with TensorFlow's servers and its collective ops.

Each worker runs the same graph on its part of every batch. Gradients and batch statistics, in which
the parts differ, are averaged over all workers by TensorFlow's all-reduce, whose result is the same
to the bit on each: so all take the same step from the same weights.
"""
import concurrent.futures
import contextlib
import itertools
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

from dcgan import checkpoint, session
from dcgan.server import JOB, check_own, resolve, start_server
from dcgan.worker import ClusterError

GROUP = 1                   # key of the one group that there is
PACKED = 2 ** 14            # elements below which tensors are reduced in one piece
WATCH_EVERY = 5             # seconds
MISSES, TIMEOUT = 3, 10     # probes in a row, and seconds of each, without an answer: it is gone
BARRIER = 30                # seconds that the last meeting may take
LINGER = 1                  # seconds after it, in which others still fetch what is theirs
GRACE = 3                   # seconds that the main thread has to end after a second signal
STOPS = {1, 2, 15}          # Linux's SIGHUP, SIGINT and SIGTERM

# A client's first words in HTTP/2, which gRPC speaks (RFC 9113, section 3.4): empty SETTINGS.
HELLO = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


GO_ON = '--resume on all workers goes on from the last checkpoint, if there is one'


class Cluster:
    """This worker of several; worker.SingleWorker has the same methods.

    size: the number of workers. task: this one's; number 0 keeps the checkpoints. device: of its
    ops. run_options: of each sess.run that reduces or broadcasts; all workers make the same such
    runs in the same order. target, config, remapping: of its session.
    """
    # The remapper makes _FusedConv2D of bfloat16, which a server refuses before oneDNN's own pass
    # would have turned it into an op that is there.
    remapping = 2               # RewriterConfig.OFF

    def __init__(self, addresses, task):
        """Starts this worker's server and waits for the others'.

        addresses: [`host:port`], the same on all workers. Raises ClusterError if one has no IPv4
        address, this one's is not on this machine or its port is taken, or another worker has
        another TensorFlow.
        """
        if not sys.platform.startswith('linux'):
            raise ClusterError("--cluster: on Linux only; elsewhere TensorFlow's server, which "
                               "asks nobody who they are, can't be kept to one address")
        self.addresses, self.task, self.size = addresses, task, len(addresses)
        self.device = f'/job:{JOB}/task:{task}'
        self.run_options = tf.RunOptions()
        self.run_options.experimental.collective_graph_key = GROUP
        self._keys = itertools.count(1)     # no two reductions share one, in whatever graph
        self._shapes = []
        # Once: a name server may be away later.
        self._resolved = [resolve(address) for address in addresses]
        own = self._resolved[task]
        check_own(addresses[task], own, self._resolved)
        # A proxy of the environment is for the world outside; gRPC knows the name in this case.
        os.environ['no_grpc_proxy'] = ','.join(      # noqa: SIM112
            [host for host, _ in self._resolved]
            + [os.environ[name] for name in ('no_grpc_proxy', 'no_proxy') if name in os.environ])
        with session.explained_gpu_faults():
            self._server = start_server(self._resolved, task, self.config())
        self.target = self._server.target
        self._wait_for_all()
        self._compare_versions()
        self._left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())
        threading.Thread(target=self._end_at_second_signal, daemon=True).start()

    def config(self):
        """A tf.ConfigProto for a session with this worker's part of a graph."""
        config = tf.ConfigProto(isolate_session_state=True, device_filters=[self.device])
        config.experimental.collective_group_leader = f'/job:{JOB}/replica:0/task:0'
        return config

    # ops

    def all_reduce_mean(self, tensors):
        """The means over all workers of a list of float32 tensors of known shapes.

        Large ones are reduced as soon as they are computed, small ones together.
        """
        small = [x for x in tensors if x.shape.num_elements() < PACKED]
        parts = iter(())
        if small:
            packed = self._reduce(tf.concat([tf.reshape(x, [-1]) for x in small], 0), 'Div')
            parts = iter(tf.split(packed, [x.shape.num_elements() for x in small]))
        return [tf.reshape(next(parts), x.shape) if x.shape.num_elements() < PACKED
                else self._reduce(x, 'Div') for x in tensors]

    def all_reduce_mean_with_gradient(self, x):
        """The mean over all workers of x, with a gradient.

        A worker's loss is a mean over its part of the batch, so its x gets the mean of all workers'
        gradients at the result.
        """
        @tf.custom_gradient
        def mean(x):
            return self._reduce(x, 'Div'), self.all_reduce_mean_with_gradient
        return mean(x)

    def broadcast(self, variables):
        """An op that copies worker 0's float32 variables to all workers, to the bit."""
        shapes = [v.shape for v in variables]
        sizes = [shape.num_elements() for shape in shapes]
        if self.task:
            bits = tf.zeros([sum(sizes)], tf.int32)
        else:
            values = [tf.reshape(v.read_value(), [-1]) for v in variables]
            bits = tf.bitcast(tf.concat(values, 0), tf.int32)
        values = tf.split(tf.bitcast(self._reduce(bits, 'Id'), tf.float32), sizes)
        return tf.group(*[v.assign(tf.reshape(value, shape), read_value=False)
                          for v, value, shape in zip(variables, values, shapes)])

    def reductions(self):
        """A checksum of the shapes of all reductions built so far, in order."""
        return zlib.crc32(str(self._shapes).encode('ascii'))

    def _reduce(self, x, final_op):
        self._shapes.append(x.shape.as_list())
        with tf.device(self.device + '/device:CPU:0'):
            return tf.raw_ops.CollectiveReduce(
                input=x, group_size=self.size, group_key=GROUP, instance_key=next(self._keys),
                merge_op='Add', final_op=final_op, subdiv_offsets=[0])

    # between steps

    def all_gather(self, value):
        """[value of worker 0, of worker 1, ...]; a value is what JSON can hold."""
        mine = np.frombuffer(json.dumps(value).encode('ascii'), np.uint8)
        length = max(row[0] for row in self._rows(np.array([len(mine)])))
        padded = np.full([length], ord(' '))
        padded[:len(mine)] = mine
        return [json.loads(row.astype(np.uint8).tobytes().decode('ascii'))
                for row in self._rows(padded)]

    def require_equal(self, values):
        """Raises ClusterError on all workers if one's values, {name: value}, differ from 0's."""
        first, *others = self.all_gather(values)
        for number, theirs in enumerate(others, 1):
            for name in first:
                if theirs.get(name) != first[name]:
                    self.barrier()
                    raise ClusterError(f'all workers need the same: {name} is {theirs.get(name)} '
                                       f'at {self.describe(number)}, {first[name]} at worker 0')

    def barrier(self):
        """Waits until all workers are here, BARRIER seconds at most; they then end on their own."""
        self._left.set()
        with contextlib.suppress(ClusterError):         # some are gone already
            self._rows(np.zeros([1], int), timeout=BARRIER)
        time.sleep(LINGER)

    def describe(self, number):
        """The name of a worker in messages."""
        return f'worker {number} ({self.addresses[number]})'

    def stop_feed(self, model, received_signals):
        """A feed that tells the other workers whether this one received a signal to stop."""
        return {model.stop: bool(received_signals)}

    def must_stop(self, received_signals, votes):
        """Whether to end: if any worker had received a signal before the newest step.

        votes: the fetch of that step, [positive number if one had].
        """
        return bool(votes and votes[0])

    def _rows(self, row, timeout=None):
        """All workers' rows of integers, [size, n]; ClusterError after timeout seconds."""
        rows = np.zeros([self.size, len(row)], np.int32)
        rows[self.task] = row
        with tf.Graph().as_default() as graph, tf.device(self.device):
            x = tf.placeholder(tf.int32, rows.shape)
            reduced = self._reduce(x, 'Id')

        def run():
            with tf.Session(self.target, graph, self.config()) as sess:
                return sess.run(reduced, {x: rows}, options=self.run_options)

        with self.explained_errors():
            return _interruptible(run, timeout=timeout)

    # errors and signals

    @contextlib.contextmanager
    def explained_errors(self):
        """Turns a TensorFlow error, most often another worker's end, into a ClusterError."""
        try:
            yield
        except tf.errors.OpError as error:
            raise self._explained(error) from error

    def _explained(self, error):
        missing = []
        for _ in range(0 if self._left.is_set() else WATCH_EVERY):
            missing = self._missing(TIMEOUT)
            if missing:
                break
            time.sleep(1)       # the operation fails before the other process has ended
        self._left.set()        # what is to be said is said here
        return ClusterError(_are_gone(missing) if missing else
                            f'{self.describe(self.task)}: {checkpoint.first_line(error)}')

    def _watch(self):
        """Ends this process when another worker has ended or hangs, as TensorFlow may wait forever.

        The main thread may be anywhere; the run resumes from the last checkpoint.
        """
        missed = 0
        while not self._left.wait(WATCH_EVERY if not missed else 1):
            missing = self._missing(TIMEOUT)
            missed = missed + 1 if missing else 0
            if missed == MISSES and not self._left.is_set():
                _end(f'error: {_are_gone(missing)}', 2)

    def _end_at_second_signal(self):
        """Ends this process after the second Ctrl-C or SIGTERM, unless the main thread does.

        Python's own handlers run in the main thread only, which does not come back from sess.run
        until the other workers have done their part.
        """
        received = []
        while len(received) < 2:
            received += STOPS.intersection(self._signals.recv(1))
        time.sleep(GRACE)
        if not self._left.is_set():
            _end(f'ended at the second signal; {GO_ON}', 128 + received[1])

    def _wait_for_all(self):
        began, told = time.monotonic(), False
        while True:
            missing = self._missing(2)      # not TIMEOUT, since Ctrl-C waits for it
            if not missing:
                return
            if not told and time.monotonic() > began + 2:
                told = True
                print(f'waiting for {", ".join(missing)}', file=sys.stderr, flush=True)
            time.sleep(0.2)

    def _compare_versions(self):
        """Raises ClusterError if worker 0 and another one have different TensorFlows."""
        for number in [0] if self.task else range(1, self.size):
            try:
                device, *_ = _interruptible(_devices, self._resolved[number])
            except tf.errors.OpError as error:
                raise ClusterError(f'{self.describe(number)}: '
                                   f'{checkpoint.first_line(error)}') from error
            job = re.match(r'/job:(\w+)/', device.name).group(1)
            if job != JOB:
                time.sleep(WATCH_EVERY)         # it finds out as well, if it is there to be asked
                version = job.rpartition('tensorflow_')[2].replace('_', '.')
                raise ClusterError(f'all workers need the same: TensorFlow is {version} at '
                                   f'{self.describe(number)}, {tf.__version__} here')

    def _missing(self, timeout):
        """Names of the workers that don't answer within timeout seconds."""
        others = [number for number in range(self.size) if number != self.task]
        with concurrent.futures.ThreadPoolExecutor(len(others)) as pool:
            answers = pool.map(lambda number: _answers(self._resolved[number], timeout), others)
            return [self.describe(number) for number, answer in zip(others, answers) if not answer]


def _devices(address):
    """The devices of the server at an address; the filter keeps it from asking other workers."""
    config = tf.ConfigProto(operation_timeout_in_ms=1000 * TIMEOUT)
    with tf.Session('grpc://{}:{}'.format(*address), config=config) as sess:
        return sess.list_devices()


def _interruptible(call, *arguments, timeout=None):
    """Returns or raises what the call does, but lets Ctrl-C, SIGTERM and the timeout interrupt it.

    Signals reach the main thread only while it is not within TensorFlow, and TensorFlow 1.15 keeps
    no timeout while another worker hangs. Raises ClusterError after timeout seconds.
    """
    done = queue.Queue()

    def run():
        try:
            done.put((call(*arguments), None))
        except Exception as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = done.get(timeout=timeout)
    except queue.Empty:
        raise ClusterError(f'no answer within {timeout} seconds') from None
    if error:
        raise error
    return value


def _answers(address, timeout):
    """Whether the server at an address answers within timeout seconds.

    A connection alone shows nothing: the kernel makes one for a stopped process too. The answer
    comes from gRPC's threads, which need no interpreter lock, so a busy worker gives it as well.
    """
    try:
        with socket.create_connection(address, timeout) as connection:
            connection.sendall(HELLO)
            return bool(connection.recv(1))
    except OSError:
        return False


def _are_gone(missing):
    return f'{", ".join(missing)}: ended, hanging or out of reach, its own output says why; {GO_ON}'


def _end(sentence, code):
    """Ends this process at once, whatever its threads are doing."""
    try:
        sys.stdout.flush()
        print(sentence, file=sys.stderr, flush=True)
    finally:
        os._exit(code)


