"""worker.SINGLE has the interface of a cluster.Cluster, and when each of them stops."""
import inspect

from dcgan.cluster import Cluster
from dcgan.worker import SINGLE, SingleWorker


def methods(kind):
    """{name: parameters} of the public methods of a class."""
    return {name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith('_')}


def test_single_worker_has_methods_of_a_cluster_with_the_same_parameters():
    assert methods(SingleWorker).items() <= methods(Cluster).items()


def test_single_worker_stops_at_its_own_signal():
    assert not SINGLE.must_stop([], [])
    assert SINGLE.must_stop([15], [])


def test_one_of_several_workers_stops_only_by_the_votes():
    assert not Cluster.must_stop(None, [15], [])
    assert not Cluster.must_stop(None, [15], [0.0])
    assert Cluster.must_stop(None, [], [0.5])
