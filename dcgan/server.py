"""TensorFlow's server of a worker, which answers at its own address alone.

TensorFlow's servers ask nobody for a name or a key. Whoever reaches the port of one can read and
change all that its process can: they belong in a network of their own.
"""
import array
import contextlib
import ipaddress
import os
import re
import socket
import struct
import time

import tensorflow.compat.v1 as tf

from dcgan.worker import ClusterError

# TensorFlow's version is in the name of the job: where it differs, a reduction may well crash.
JOB = 'tensorflow_' + re.sub(r'\W', '_', tf.__version__)

SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 51     # of Linux's asm-generic/socket.h
NET_OFF = 0xfff00000        # of linux/filter.h: from here on offsets count in the IP header
RETURN_0 = [(0x06, 0, 0, 0)]


def start_server(resolved, task, config):
    """Starts the tf.train.Server of a task, which at no time answers at another address.

    resolved: the (IPv4 address, port) of each worker. Raises ClusterError if its socket is missing.
    """
    address, port = resolved[task]
    spec = tf.train.ClusterSpec({JOB: [f'{host}:{port}' for host, port in resolved]})
    with dropping_connections(port) as guards:
        server = tf.train.Server(spec, job_name=JOB, task_index=task, config=config, start=False)
        _accept_only_at(address, port, guards)
    server.start()
    return server


def resolve(address):
    """(IPv4 address, port) of `host:port`; ClusterError if the host has none."""
    host, _, port = address.rpartition(':')
    try:
        return socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except (OSError, UnicodeError) as error:
        raise ClusterError(f'--cluster {address}: {error}') from None


def check_own(name, own, resolved):
    """Raises ClusterError if no other worker could reach this one at its (address, port)."""
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
def dropping_connections(port):
    """Drops connections to a port on which a server begins to listen within the block.

    TensorFlow 2 reads a request as soon as it listens, and obeys it once it is started, even if
    the connection is closed by then. So these sockets, guards, listen on the port first. If several
    sockets listen (SO_REUSEPORT), the kernel asks a program which of them gets a connection: the
    first, which drops it. TensorFlow 1 can't share a port. It accepts nothing until it is started,
    so _accept_only_at can close what waits. Yields the guards.
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
    """Makes the kernel drop packets to this process's server for any other address.

    TensorFlow's server listens on all of the machine's addresses. A filter on its sockets, in the
    kernel's packet filter language (Linux, networking/filter), has the effect of listening on one:
    later connections inherit it, and those that wait already are closed. guards: sockets that
    listen on the port and are not the server's.
    """
    destination, = struct.unpack('!I', socket.inet_aton(address))
    program = [
        (0x30, 0, 0, NET_OFF),              # load the first byte of the IP header
        (0x74, 0, 0, 4),                    # shift it right by 4: the protocol's version
        (0x15, 0, 3, 4),                    # 4, or skip 3
        (0x20, 0, 0, NET_OFF + 16),         # load the destination
        (0x15, 0, 1, destination),          # this address, or skip 1
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
    """Closes the connections that the kernel has made and nobody has accepted."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def _attach(listener, option, program):
    """Attaches a program in the kernel's packet filter language to a socket."""
    code = array.array('B', b''.join(struct.pack('HBBI', *line) for line in program))
    listener.setsockopt(socket.SOL_SOCKET, option,
                        struct.pack('HP', len(program), code.buffer_info()[0]))
