"""What a run is fed."""
import types

import numpy as np
import pytest

import data
import trainer
from dcgan.settings import DEFAULTS

P = types.SimpleNamespace(X='X', noise='noise', labels='labels', is_training='t', step='step')
IMAGES = np.arange(97 * 12, dtype=np.uint32).astype(np.uint8).reshape(97, 2, 2, 3)
LABELS = np.arange(97, dtype=np.int8)[:, None]


@pytest.mark.parametrize('step', [0, 3, 9])      # 4 steps an epoch
@pytest.mark.parametrize('d_steps, workers, batch_size', [(1, 1, 24), (3, 2, 4), (6, 1, 4)])
def test_all_batches_of_a_step_are_its_photographs(d_steps, workers, batch_size, step):
    settings = dict(DEFAULTS, d_steps=d_steps, workers=workers, batch_size=batch_size, seed=5)
    feeds = [trainer.Batches(IMAGES, LABELS, settings, task).feeds(step, P)
             for task in range(workers)]
    assert [len(of_worker) for of_worker in feeds] == [d_steps] * workers
    assert [feed['step'] for feed in feeds[0]] == [step * d_steps + n for n in range(d_steps)]
    in_order = [of_worker[number] for number in range(d_steps) for of_worker in feeds]
    rows = data.rows(97, 24, 5, step)
    for key, whole in (('X', data.scaled(IMAGES[rows])), ('labels', LABELS[rows]),
                       ('noise', data.noise(5, step, 24, 100))):
        assert all(len(feed[key]) == batch_size for feed in in_order)
        assert (np.concatenate([feed[key] for feed in in_order]) == whole).all(), key
