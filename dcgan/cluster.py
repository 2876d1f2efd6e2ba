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
import signal
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
MISSES, TIMEOUT = 3, 10     # probes in a row, and seconds of each, without an answer: it is gone
BARRIER = 30                # seconds that the last meeting may take
LINGER = 1                  # seconds after it, in which others still fetch what is theirs
GRACE = 3                   # seconds that the main thread has to end after a second signal
STOPS = {1, 2, 15}          # Linux's SIGHUP, SIGINT and SIGTERM

# A client's first words in HTTP/2, which gRPC speaks (RFC 9113, section 3.4): empty SETTINGS.
HELLO = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 51     # of Linux's asm-generic/socket.h
NET_OFF = 0xfff00000        # of linux/filter.h: from here on offsets count in the IP header
RETURN_0 = [(0x06, 0, 0, 0)]

GO_ON = '--resume on all workers goes on from the last checkpoint, if there is one'


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
        with session.gpu_faults_named():
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

    def _rows(self, row, timeout=None):
        """All workers' rows of whole numbers, [size, n]; ClusterError after so many seconds."""
        rows = np.zeros([self.size, len(row)], np.int32)
        rows[self.task] = row
        with tf.Graph().as_default() as graph, tf.device(self.device):
            x = tf.placeholder(tf.int32, rows.shape)
            reduced = self._reduce(x, 'Id')

        def run():
            with tf.Session(self.target, graph, self.config()) as sess:
                return sess.run(reduced, {x: rows}, options=self.run_options)

        with self.errors_named():
            return _interruptible(run, timeout=timeout)

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
            missing = self._missing(TIMEOUT)
            if missing:
                break
            time.sleep(1)       # the operation fails before the other process has ended
        self._left.set()        # what is to be said is said here
        return ClusterError(_are_gone(missing) if missing else
                            f'{self.named(self.task)}: {checkpoint.first_line(error)}')

    def _watch(self):
        """Ends this process when another worker has ended or hangs: TensorFlow may wait forever.

        The main thread may be doing anything; the run goes on from the last checkpoint.
        """
        missed = 0
        while not self._left.wait(WATCH_EVERY if not missed else 1):
            missing = self._missing(TIMEOUT)
            missed = missed + 1 if missing else 0
            if missed == MISSES and not self._left.is_set():
                _end(f'error: {_are_gone(missing)}', 2)

    def _end_at_second_signal(self):
        """Ends this process at the second Ctrl-C or SIGTERM, unless the main thread does.

        Python's own handlers run in the main thread only, which does not come back from sess.run
        until the other workers have done their part.
        """
        came = []
        while len(came) < 2:
            came += STOPS.intersection(self._signals.recv(1))
        time.sleep(GRACE)
        if not self._left.is_set():
            _end(f'ended at the second signal; {GO_ON}', 128 + came[1])

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
        """ClusterError where worker 0 and another one have different versions of TensorFlow."""
        for number in [0] if self.task else range(1, self.size):
            try:
                device, *_ = _interruptible(_devices, self._resolved[number])
            except tf.errors.OpError as error:
                raise ClusterError(f'{self.named(number)}: '
                                   f'{checkpoint.first_line(error)}') from error
            job = re.match(r'/job:(\w+)/', device.name).group(1)
            if job != JOB:
                time.sleep(WATCH_EVERY)         # it finds out as well, if it is there to be asked
                version = job.rpartition('tensorflow_')[2].replace('_', '.')
                raise ClusterError(f'all workers need the same: TensorFlow is {version} at '
                                   f'{self.named(number)}, {tf.__version__} here')

    def _missing(self, timeout):
        """Names of the workers that don't answer within so many seconds."""
        others = [number for number in range(self.size) if number != self.task]
        with concurrent.futures.ThreadPoolExecutor(len(others)) as pool:
            answers = pool.map(lambda number: _answers(self._resolved[number], timeout), others)
            return [self.named(number) for number, answer in zip(others, answers) if not answer]


def start_server(resolved, task, config):
    """A tf.train.Server of this task that has never answered but at its own address.

    resolved: the (IPv4 address, port) of each worker.
    """
    address, port = resolved[task]
    spec = tf.train.ClusterSpec({JOB: [f'{host}:{port}' for host, port in resolved]})
    with _nobody_let_in(port) as guards:
        server = tf.train.Server(spec, job_name=JOB, task_index=task, config=config, start=False)
        _accept_only_at(address, port, guards)
    server.start()
    return server


def _devices(address):
    """The devices of the server there. Its config's filter keeps it from asking other workers."""
    config = tf.ConfigProto(operation_timeout_in_ms=1000 * TIMEOUT)
    with tf.Session('grpc://{}:{}'.format(*address), config=config) as sess:
        return sess.list_devices()


def _interruptible(call, *arguments, timeout=None):
    """Returns or raises what the call does; Ctrl-C, SIGTERM and the timeout do not wait for it.

    Signals reach the main thread only while it is not within TensorFlow, and TensorFlow 1.15 keeps
    no timeout while another worker hangs. Raises ClusterError after so many seconds.
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
        raise ClusterError(f'nothing came of it in {timeout} seconds') from None
    if error:
        raise error
    return value


def _answers(address, timeout):
    """Whether the server there answers within so many seconds.

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
    """Ends this process, whatever its threads are doing."""
    try:
        sys.stdout.flush()
        print(sentence, file=sys.stderr, flush=True)
    finally:
        os._exit(code)


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


@contextlib.contextmanager
def _nobody_let_in(port):
    """Drops all that comes for a port on which a server begins to listen within the block.

    TensorFlow 2 reads a request as soon as it listens, and obeys it once it is started, even if
    the connection is closed by then. So these sockets, guards, listen on the port before it does.
    Where several do (SO_REUSEPORT), the kernel asks a program which one a connection is for: the
    first, which drops it. TensorFlow 1 can't share a port. It leaves all connections waiting until
    it is started, so _accept_only_at can close them.
    """
    with contextlib.ExitStack() as opened:
        guards = []
        if not tf.__version__.startswith('1.'):
            os.environ['TF_GRPC_REUSE_PORT'] = 'true'               # has the server share it
            for family in (socket.AF_INET6, socket.AF_INET):
                with contextlib.suppress(OSError):                  # no IPv6 on this machine
                    guards.append(opened.enter_context(socket.socket(family)))
        for guard in guards:
            if guard.family == socket.AF_INET6:
                guard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            guard.bind(('', port))
            _attach(guard, SO_ATTACH_FILTER, RETURN_0)              # drop it
            guard.listen()
            _attach(guard, SO_ATTACH_REUSEPORT_CBPF, RETURN_0)      # the first socket
        yield guards


def _accept_only_at(address, port, guards):
    """Has the kernel drop what comes to the server of this process for another address.

    TensorFlow's server listens on all of the machine's addresses. A filter on its sockets, in the
    kernel's packet filter language (Linux, networking/filter), does what listening on one would:
    connections made later inherit it, and those that wait already are closed. guards: sockets that
    listen on the port and are not the server's.
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
    filtered = 0
    for fd in set(map(int, os.listdir('/proc/self/fd'))) - {guard.fileno() for guard in guards}:
        try:
            listener = socket.socket(fileno=fd)
        except OSError:                     # no socket, or the handle of the listing itself
            continue
        try:
            if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                    listener.getsockname()[1] == port):
                _attach(listener, SO_ATTACH_FILTER, program)
                filtered += 1
                time.sleep(0.01)            # a packet may have passed just before
                _close_waiting(listener)
        finally:
            listener.detach()               # it is TensorFlow's to close
    if not filtered:
        raise ClusterError(f'--cluster {address}:{port}: the server\'s socket was not found')


def _close_waiting(listener):
    """Closes the connections that the kernel made and nobody has accepted yet."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def _attach(listener, option, program):
    """Gives a socket a program in the kernel's packet filter language."""
    code = array.array('B', b''.join(struct.pack('HBBI', *line) for line in program))
    listener.setsockopt(socket.SOL_SOCKET, option,
                        struct.pack('HP', len(program), code.buffer_info()[0]))
