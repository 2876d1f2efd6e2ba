"""Starts a worker's server at each of these ports of 127.0.0.1, for test_cluster.py.

    python tests/cluster_servers.py PORT ...

It waits for a line on standard input before each start, and again before it prints how many more
files and connections are open then.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from dcgan import session  # noqa: E402


def main(ports):
    session.set_up()
    from dcgan import server
    servers = []
    for port in map(int, ports):
        print(f'next: {port}', flush=True)
        sys.stdin.readline()
        servers.append(server.start_server([('127.0.0.1', port)], 0, None))
        print('started', flush=True)
    before = len(os.listdir('/proc/self/fd'))
    sys.stdin.readline()
    print(len(os.listdir('/proc/self/fd')) - before, flush=True)
    os._exit(0)         # a normal exit would wait for all servers


if __name__ == '__main__':
    main(sys.argv[1:])
