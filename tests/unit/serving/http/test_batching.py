"""Queries that wait are computed together, and one that fails harms no other batch."""

import threading

import numpy as np
import pytest

from emkd_jax.serving.http import batching
from emkd_jax.serving.http.batching import Batcher, TooBusyError
from emkd_jax.serving.http.scorer import Query


def query(k):
    return Query(np.zeros(0, np.int32), k)


class Busy:
    """A device that computes when it is told to."""

    def __init__(self):
        self.free, self.began = threading.Semaphore(0), threading.Semaphore(0)
        self.batches = []

    def __call__(self, queries):
        self.batches.append([q.k for q in queries])
        self.began.release()
        assert self.free.acquire(timeout=60)
        if 13 in self.batches[-1]:
            raise ValueError('bad luck')
        return [[q.k] for q in queries]


def test_what_arrives_meanwhile_is_computed_together():
    device, sizes = Busy(), []
    batcher = Batcher(device, lambda: 3, sizes.append)
    first = batcher.submit(query(1))
    assert device.began.acquire(timeout=60)
    others = [batcher.submit(query(k)) for k in range(2, 7)]
    for _ in range(3):
        device.free.release()
    assert [answer.result(60) for answer in [first, *others]] == [[k] for k in range(1, 7)]
    batcher.close()
    assert device.batches == [[1], [2, 3, 4], [5, 6]]
    assert sizes == [1, 3, 2]


def test_an_error_reaches_the_one_who_asked_and_the_next_is_answered():
    device = Busy()
    batcher = Batcher(device, lambda: 1)
    bad, good = batcher.submit(query(13)), batcher.submit(query(2))
    device.free.release()
    device.free.release()
    with pytest.raises(ValueError, match='bad luck'):
        bad.result(60)
    assert good.result(60) == [2]
    batcher.close()


def test_one_who_has_left_harms_nobody():
    device = Busy()
    batcher = Batcher(device, lambda: 2)
    first = batcher.submit(query(1))
    assert device.began.acquire(timeout=60)
    left, stays = batcher.submit(query(13)), batcher.submit(query(2))
    assert left.cancel()
    device.free.release()
    device.free.release()
    assert first.result(60) == [1]
    assert stays.result(60) == [2]
    batcher.close()
    assert not batcher._thread.is_alive()


def test_too_many_waiting_are_refused(monkeypatch):
    monkeypatch.setattr(batching, '_MOST_WAITING', 2)
    device = Busy()
    batcher = Batcher(device, lambda: 1)
    batcher.submit(query(1))
    assert device.began.acquire(timeout=60)
    batcher.submit(query(2))
    batcher.submit(query(3))
    with pytest.raises(TooBusyError):
        batcher.submit(query(4))
    for _ in range(3):
        device.free.release()
    batcher.close()
