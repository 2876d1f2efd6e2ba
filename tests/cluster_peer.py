"""A worker that does one thing, for test_cluster.py.

    python tests/cluster_peer.py WHAT TASK HOST:PORT ...
"""
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from dcgan import cli, session, signals  # noqa: E402


def main(arguments):
    what, task, *addresses = arguments
    tf = session.set_up()
    from dcgan import cluster
    # With the real values the tests would take minutes.
    cluster.WATCH_EVERY, cluster.TIMEOUT, cluster.BARRIER = 1, 3, 5
    worker = cluster.Cluster(addresses, int(task))
    worker.all_gather(0)        # both workers have started
    time.sleep(2)
    print('ready', flush=True)
    if what == 'stop':
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == 'hold the GIL':
        re.match('(a|aa)+b', 'a' * 1000)        # in C, and longer than any test
    elif what == 'gather':
        worker.all_gather(0)
    elif what == 'reduce':                      # as in a step of training
        reduced = worker.all_reduce_mean([tf.ones([1])])
        with signals.received(), worker.explained_errors(), session.open_session(
                tf.get_default_graph(), worker=worker) as sess:
            sess.run(reduced, options=worker.run_options)
    elif what == 'barrier':
        worker.barrier()
    return 0


if __name__ == '__main__':
    sys.exit(cli.run(main, sys.argv[1:], {}))
