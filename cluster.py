"""Several processes that train one model: TensorFlow's servers and its collective ops.

Each worker runs the same graph on its share of every batch. What the shares differ in, gradients
and batch statistics, is averaged over all of them by TensorFlow's all-reduce, whose result is the
same to the bit on each: so all take the same step from the same weights.

TensorFlow's servers ask nobody for a name or a key. Whoever reaches the port of one can read and
change all that its process can: they belong into a network of their own.
"""
import array
import contextlib
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time

import numpy as np
import tensorflow.compat.v1 as tf

JOB = 'worker'
GROUP = 1                   # key of the one group that there is
PACKED = 2 ** 14            # elements below which tensors are reduced in one piece
WATCH_EVERY, WATCH_TIMEOUT = 5, 10          # seconds
PARTING = 1                 # seconds in which what others still fetch from this worker reaches them

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

        addresses: [`host:port`], the same on all workers. Raises ClusterError where this one's is
        none of the machine's IPv4 addresses or its port is taken, or another worker has another
        TensorFlow.
        """
        self.addresses, self.task, self.size = addresses, task, len(addresses)
        self.device = f'/job:{JOB}/task:{task}'
        self.run_options = tf.RunOptions()
        self.run_options.experimental.collective_graph_key = GROUP
        self._keys = itertools.count(1)     # no two reductions share one, in whatever graph
        host, port = split(addresses[task])
        address = _own_address(host, port)
        # A proxy of the environment is for the world outside, as gRPC has it under this name.
        os.environ['no_grpc_proxy'] = ','.join(      # noqa: SIM112
            split(other)[0] for other in addresses)
        server = tf.train.Server(tf.train.ClusterSpec({JOB: addresses}), job_name=JOB,
                                 task_index=task, config=self.config(), start=False)
        _accept_only_at(address, port)
        server.start()
        self.target = server.target
        self._wait_for_all()
        self._left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self.agree({'TensorFlow': tf.__version__})

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
        means = {}
        if small:
            sizes = [x.shape.num_elements() for x in small]
            packed = self._reduce(tf.concat([tf.reshape(x, [-1]) for x in small], 0), 'Div')
            means = {id(x): part for x, part in zip(small, tf.split(packed, sizes))}
        return [tf.reshape(means[id(x)], x.shape) if id(x) in means else self._reduce(x, 'Div')
                for x in tensors]

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

    def _reduce(self, x, final_op):
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
        """Raises ClusterError on all workers where one has other facts, {what: value}, than 0."""
        first, *others = self.share(facts)
        for number, theirs in enumerate(others, 1):
            for what in first:
                if theirs.get(what) != first[what]:
                    self.leave()
                    raise ClusterError(f'{self.named(number)} has {what} {theirs.get(what)}, '
                                       f'worker 0 {first[what]}: all need the same')

    def leave(self):
        """Waits until all workers are here: none of them needs another one any more."""
        self._left.set()
        with contextlib.suppress(tf.errors.OpError):        # some are gone already
            self._rows(np.zeros([1], int), timeout=60)
        time.sleep(PARTING)

    def named(self, number):
        return f'worker {number} ({self.addresses[number]})'

    def _rows(self, row, timeout=0):
        """All workers' rows of whole numbers, [size, n]."""
        rows = np.zeros([self.size, len(row)], np.int32)
        rows[self.task] = row
        options = tf.RunOptions(timeout_in_ms=1000 * timeout)
        options.experimental.collective_graph_key = GROUP
        with tf.Graph().as_default(), tf.device(self.device):
            x = tf.placeholder(tf.int32, rows.shape)
            reduced = self._reduce(x, 'Id')
            with tf.Session(self.target, config=self.config()) as sess:
                return sess.run(reduced, {x: rows}, options=options)

    # life and death

    @contextlib.contextmanager
    def losses_named(self):
        """Turns an error of TensorFlow's, most often another worker's end, into a ClusterError."""
        try:
            yield
        except tf.errors.OpError as error:
            missing = self._missing()
            raise ClusterError(
                _have_ended(missing) if missing else
                f'{self.named(self.task)}: {error.message.strip().splitlines()[0]}') from error

    def _watch(self):
        """Ends this process when another worker has ended, for which TensorFlow may wait forever.

        Whatever its main thread is doing: the last checkpoint is what the run goes on from.
        """
        while not self._left.wait(WATCH_EVERY):
            missing = self._missing()
            if missing and not self._left.is_set():
                print(f'error: {_have_ended(missing)}', file=sys.stderr, flush=True)
                os._exit(2)

    def _wait_for_all(self):
        began, told = time.time(), False
        while True:
            missing = self._missing()
            if not missing:
                return
            if not told and time.time() > began + 2:
                told = True
                print(f'waiting for {", ".join(missing)}', file=sys.stderr, flush=True)
            time.sleep(0.2)

    def _missing(self):
        """Names of the workers that don't answer."""
        return [self.named(number) for number in range(self.size)
                if number != self.task and not _answers(self.addresses[number])]


def _answers(address):
    try:
        socket.create_connection(split(address), WATCH_TIMEOUT).close()
    except OSError:
        return False
    return True


def _have_ended(missing):
    return (f'{", ".join(missing)}: ended or out of reach; --resume on all workers goes on from '
            'the last checkpoint')


def split(address):
    """(host, port) of `host:port`."""
    host, _, port = address.rpartition(':')
    return host, int(port)


def _own_address(host, port):
    """The IPv4 address of host, which must be one of this machine's with that port free."""
    if not sys.platform.startswith('linux'):
        raise ClusterError('--cluster: on Linux only; elsewhere TensorFlow\'s server, which asks '
                           'nobody who they are, can\'t be kept to one address')
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen()
    except OSError as error:
        raise ClusterError(f'--cluster {host}:{port}: no worker can be reached there on this '
                           f'machine ({error.strerror})') from None
    return address


def _accept_only_at(address, port):
    """Has the kernel drop what comes to the server of this process for another address.

    TensorFlow's server listens on all of the machine's addresses. A filter on its socket, in the
    kernel's packet filter language (Linux, networking/filter), is as good as listening on one: it
    is there before the server answers anything, and connections inherit it.
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
    for name in os.listdir('/proc/self/fd'):
        if not os.readlink(f'/proc/self/fd/{name}').startswith('socket:'):
            continue
        with socket.socket(fileno=os.dup(int(name))) as listener:
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                    listener.getsockname()[1] == port):
                listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack(
                    'HP', len(program), code.buffer_info()[0]))
                return
    raise ClusterError(f'--cluster {address}:{port}: the server\'s socket was not found')
