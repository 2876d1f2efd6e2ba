"""Several processes that train one model: TensorFlow's servers and its collective ops.

Each worker runs the same graph on its share of every batch. What the shares differ in, gradients
and batch statistics, is averaged over all of them by TensorFlow's all-reduce, whose result is the
same to the bit on each: so all take the same step from the same weights.

TensorFlow's servers ask nobody for a name or a key. Whoever reaches the port of one can read and
change all that its process can: they belong in a network of their own.
"""
import array
import concurrent.futures
import contextlib
import ipaddress
import itertools
import json
import os
import queue
import re
import socket
import struct
import sys
import threading
import time
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

from dcgan import checkpoint, session

# TensorFlow's version is in the name of the job: where it differs, a reduction may well crash.
JOB = 'tensorflow_' + re.sub(r'\W', '_', tf.__version__)
GROUP = 1                   # key of the one group that there is
PACKED = 2 ** 14            # elements below which tensors are reduced in one piece
WATCH_EVERY = 5             # seconds
MISSES, TIMEOUT = 3, 10     # probes in a row, and seconds of each, without an answer: it has ended
BARRIER = 60                # seconds that the last meeting may take
LINGER = 1                  # seconds after it, in which others still fetch what is theirs

SO_ATTACH_FILTER = 26       # of Linux's asm-generic/socket.h
NET_OFF = 0xfff00000        # of linux/filter.h: from here on offsets count in the IP header


class ClusterError(ValueError):
    """A worker that is not there, no longer there, or not like the others."""


class Cluster:
    """This worker among all of them.

    size: how many there are. task: the number of this one; number 0 keeps the checkpoints.
    device: where its ops belong. run_options: for each run with ops of mean, shared_mean or
    copy_first in it; all workers make the same such runs in the same order.
    """

    def __init__(self, addresses, task):
        """Starts this worker's server and waits for the others'.

        addresses: [`host:port`], the same on all workers. Raises ClusterError where one is no IPv4
        address or name of one, this one's is not on this machine or its port is taken, or another
        worker has another TensorFlow.
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
        self._resolved = [_resolve(address) for address in addresses]
        own = self._resolved[task]
        _check_own(addresses[task], own, self._resolved)
        # A proxy of the environment is for the world outside; gRPC knows the name in this case.
        os.environ['no_grpc_proxy'] = ','.join(      # noqa: SIM112
            [host for host, _ in self._resolved]
            + [os.environ[name] for name in ('no_grpc_proxy', 'no_proxy') if name in os.environ])
        spec = tf.train.ClusterSpec({JOB: [f'{host}:{port}' for host, port in self._resolved]})
        with session.gpu_faults_named():
            self._server = tf.train.Server(spec, job_name=JOB, task_index=task,
                                           config=self.config(), start=False)
        _accept_only_at(*own)
        self._server.start()
        self.target = self._server.target
        self._wait_for_all()
        self._compare_versions()
        self._left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def config(self):
        """A tf.ConfigProto for a session of this worker's share of a graph."""
        config = tf.ConfigProto(isolate_session_state=True, device_filters=[self.device])
        config.experimental.collective_group_leader = f'/job:{JOB}/replica:0/task:0'
        return config

    # ops

    def mean(self, tensors):
        """The means over all workers of float32 tensors whose shapes are known, a list of them.

        Large ones are reduced as soon as they are there, small ones together.
        """
        small = [x for x in tensors if x.shape.num_elements() < PACKED]
        parts = iter(())
        if small:
            packed = self._reduce(tf.concat([tf.reshape(x, [-1]) for x in small], 0), 'Div')
            parts = iter(tf.split(packed, [x.shape.num_elements() for x in small]))
        return [tf.reshape(next(parts), x.shape) if x.shape.num_elements() < PACKED
                else self._reduce(x, 'Div') for x in tensors]

    def shared_mean(self, x):
        """The mean over all workers of x, with a gradient.

        A worker's loss is a mean over its share, so the mean of all gradients at the result is
        what its own x gets.
        """
        @tf.custom_gradient
        def mean(x):
            return self._reduce(x, 'Div'), self.shared_mean
        return mean(x)

    def copy_first(self, variables):
        """An op that gives float32 variables the values that worker 0 has, to the bit."""
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
        """A number for all reductions built so far, their order and shapes."""
        return zlib.crc32(str(self._shapes).encode('ascii'))

    def _reduce(self, x, final_op):
        self._shapes.append(x.shape.as_list())
        with tf.device(self.device + '/device:CPU:0'):
            return tf.raw_ops.CollectiveReduce(
                input=x, group_size=self.size, group_key=GROUP, instance_key=next(self._keys),
                merge_op='Add', final_op=final_op, subdiv_offsets=[0])

    # words

    def share(self, facts):
        """What all workers call this with, in their order: [facts], each of what JSON holds."""
        mine = np.frombuffer(json.dumps(facts).encode('ascii'), np.uint8)
        length = max(row[0] for row in self._rows(np.array([len(mine)])))
        padded = np.full([length], ord(' '))
        padded[:len(mine)] = mine
        return [json.loads(row.astype(np.uint8).tobytes().decode('ascii'))
                for row in self._rows(padded)]

    def agree(self, facts):
        """Compares facts, {what: value}, with worker 0's; ClusterError on all where one differs."""
        first, *others = self.share(facts)
        for number, theirs in enumerate(others, 1):
            for what in first:
                if theirs.get(what) != first[what]:
                    self.leave()
                    raise ClusterError(f'all workers need the same: {what} is {theirs.get(what)} '
                                       f'at {self.named(number)}, {first[what]} at worker 0')

    def leave(self):
        """Waits, for BARRIER seconds at most, until all are here; then none needs another one."""
        self._left.set()
        with contextlib.suppress(ClusterError):         # some are gone already
            self._rows(np.zeros([1], int), timeout=BARRIER)
        time.sleep(LINGER)

    def named(self, number):
        """What a sentence calls a worker."""
        return f'worker {number} ({self.addresses[number]})'

    def _rows(self, row, timeout=0):
        """All workers' rows of whole numbers, [size, n]."""
        rows = np.zeros([self.size, len(row)], np.int32)
        rows[self.task] = row
        options = tf.RunOptions(timeout_in_ms=1000 * timeout)
        options.experimental.collective_graph_key = GROUP
        with tf.Graph().as_default() as graph, tf.device(self.device):
            x = tf.placeholder(tf.int32, rows.shape)
            reduced = self._reduce(x, 'Id')

        def run():
            with tf.Session(self.target, graph, self.config()) as sess:
                return sess.run(reduced, {x: rows}, options=options)

        with self.errors_named():
            return _interruptible(run)

    # life and death

    @contextlib.contextmanager
    def errors_named(self):
        """Turns an error of TensorFlow's, most often another worker's end, into a ClusterError."""
        try:
            yield
        except tf.errors.OpError as error:
            raise self._explained(error) from error

    def _explained(self, error):
        missing = []
        for _ in range(0 if self._left.is_set() else WATCH_EVERY):
            missing = self._missing()
            if missing:
                break
            time.sleep(1)       # the operation fails before the other process has ended
        self._left.set()        # what is to be said is said here
        return ClusterError(_have_ended(missing) if missing else
                            f'{self.named(self.task)}: {checkpoint.first_line(error)}')

    def _watch(self):
        """Ends this process when another worker has ended, for which TensorFlow may wait forever.

        Whatever its main thread is doing: the last checkpoint is what the run goes on from.
        """
        missed = 0
        while not self._left.wait(WATCH_EVERY if not missed else 1):
            missing = self._missing()
            missed = missed + 1 if missing else 0
            if missed == MISSES and not self._left.is_set():
                try:
                    sys.stdout.flush()
                    print(f'error: {_have_ended(missing)}', file=sys.stderr, flush=True)
                finally:
                    os._exit(2)

    def _wait_for_all(self):
        began, told = time.monotonic(), False
        while True:
            missing = self._missing()
            if not missing:
                return
            if not told and time.monotonic() > began + 2:
                told = True
                print(f'waiting for {", ".join(missing)}', file=sys.stderr, flush=True)
            time.sleep(0.2)

    def _compare_versions(self):
        """ClusterError where worker 0 and another one have different versions of TensorFlow."""
        for number in [0] if self.task else range(1, self.size):
            try:
                device, *_ = _devices(self._resolved[number])
            except tf.errors.OpError as error:
                raise ClusterError(f'{self.named(number)}: '
                                   f'{checkpoint.first_line(error)}') from error
            job = re.match(r'/job:(\w+)/', device.name).group(1)
            if job != JOB:
                time.sleep(WATCH_EVERY)         # it finds out as well, if it is there to be asked
                version = job.rpartition('tensorflow_')[2].replace('_', '.')
                raise ClusterError(f'all workers need the same: TensorFlow is {version} at '
                                   f'{self.named(number)}, {tf.__version__} here')

    def _missing(self):
        """Names of the workers that don't answer."""
        others = [number for number in range(self.size) if number != self.task]
        with concurrent.futures.ThreadPoolExecutor(len(others)) as pool:
            answers = pool.map(_answers, [self._resolved[number] for number in others])
            return [self.named(number) for number, answer in zip(others, answers) if not answer]


def _devices(address):
    """The devices of the server there and of those that it knows, its own first."""
    config = tf.ConfigProto(operation_timeout_in_ms=1000 * TIMEOUT)
    with tf.Session('grpc://{}:{}'.format(*address), config=config) as sess:
        return sess.list_devices()


def _interruptible(call):
    """What call() returns or raises, during which Ctrl-C and SIGTERM are not waited with.

    They reach the main thread only while it is not within TensorFlow.
    """
    done = queue.Queue()

    def run():
        try:
            done.put((call(), None))
        except Exception as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    value, error = done.get()
    if error:
        raise error
    return value


def _answers(address):
    try:
        socket.create_connection(address, TIMEOUT).close()
    except OSError:
        return False
    return True


def _have_ended(missing):
    return (f'{", ".join(missing)}: ended or out of reach, its own output says why; --resume on '
            'all workers goes on from the last checkpoint, if there is one')


def _resolve(address):
    """(IPv4 address, port) of `host:port`."""
    host, _, port = address.rpartition(':')
    try:
        return socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except (OSError, UnicodeError) as error:
        raise ClusterError(f'--cluster {address}: {error}') from None


def _check_own(name, own, resolved):
    """ClusterError where no other worker could reach this one at its own (address, port)."""
    address = ipaddress.ip_address(own[0])
    if address.is_unspecified or address.is_loopback and not all(
            ipaddress.ip_address(other).is_loopback for other, _ in resolved):
        raise ClusterError(f'--cluster {name}: is {address} on this machine, where no other one '
                           'reaches it; give its address in your network')
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(own)
            probe.listen()
    except OSError as error:
        raise ClusterError(f'--cluster {name}: can\'t be listened on here ({error.strerror}); '
                           '--task says which of the addresses is this machine\'s') from None


def _accept_only_at(address, port):
    """Has the kernel drop what comes to the server of this process for another address.

    TensorFlow's server listens on all of the machine's addresses. A filter on its sockets, in the
    kernel's packet filter language (Linux, networking/filter), does what listening on one would:
    it is there before the server answers anything, and connections made later inherit it.
    """
    wanted, = struct.unpack('!I', socket.inet_aton(address))
    program = [
        (0x30, 0, 0, NET_OFF),              # load the first byte of the IP header
        (0x74, 0, 0, 4),                    # shift it right by 4: the protocol's version
        (0x15, 0, 3, 4),                    # 4, or skip 3
        (0x20, 0, 0, NET_OFF + 16),         # load where it is going
        (0x15, 0, 1, wanted),               # there, or skip 1
        (0x06, 0, 0, 0xffffffff),           # let it in
        (0x06, 0, 0, 0)]                    # drop it
    code = array.array('B', b''.join(struct.pack('HBBI', *line) for line in program))
    filtered = 0
    for name in os.listdir('/proc/self/fd'):
        try:
            listener = socket.socket(fileno=os.dup(int(name)))
        except OSError:                     # no socket, or the handle of the listing itself
            continue
        with listener:
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                    listener.getsockname()[1] == port):
                listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack(
                    'HP', len(program), code.buffer_info()[0]))
                filtered += 1
    if not filtered:
        raise ClusterError(f'--cluster {address}:{port}: the server\'s socket was not found')
