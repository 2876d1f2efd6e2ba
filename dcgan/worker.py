"""A process that trains: the only one, or one of several.

Callers do not ask which: SingleWorker has the methods of cluster.Cluster, with nothing to do.
"""
import contextlib


class ClusterError(ValueError):
    """A worker that is missing, has ended, or differs from the others."""


class SingleWorker:
    """The only worker. cluster.Cluster describes what the methods are for."""
    size, task = 1, 0
    device = run_options = None
    target = ''                 # a session of this process
    remapping = 0               # RewriterConfig's default

    def config(self):
        import tensorflow.compat.v1 as tf
        return tf.ConfigProto()

    def all_gather(self, value):
        return [value]

    def require_equal(self, values):
        pass

    def barrier(self):
        pass

    def broadcast(self, variables):
        return []               # nothing to run

    def reductions(self):
        return 0

    def explained_errors(self):
        return contextlib.nullcontext()

    def stop_feed(self, model, received_signals):
        return {}

    def must_stop(self, received_signals, votes):
        return bool(received_signals)


SINGLE = SingleWorker()
