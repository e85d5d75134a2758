"""Packed rows hold every next item of the training histories once, and little else."""

import collections
import itertools

import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.data.packing import pack
from emkd_jax.errors import UserError

MAX_LEN = 8


def histories(count=200, longest=30):
    """Histories of 1 to `longest` items; each item tells its history and its place."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, count)
    return Ragged.from_rows([100 * user + np.arange(n) + 1 for user, n in enumerate(lengths)])


def segments_of(packing):
    """The (history, first place, slots) of each segment, by row, with piece i in place i."""
    for row in itertools.pairwise(packing.row_starts.tolist()):
        places = packing.row_places[slice(*row)]
        assert 0 < len(places) <= packing.most
        assert packing.piece_slots[places].sum() <= packing.width
        for place in places:
            first = packing.values[packing.piece_starts[place]] - 1
            yield first // 100, first % 100, int(packing.piece_slots[place])


def test_every_item_but_the_first_of_a_history_is_a_target_once():
    train = histories()
    targets = collections.Counter()
    for user, first, slots in segments_of(pack(train, MAX_LEN, 16)):
        assert slots <= MAX_LEN - 1
        targets.update((user, first + slot + 1) for slot in range(slots))
    expected = {(u, place) for u, n in enumerate(train.lengths.tolist()) for place in range(1, n)}
    assert set(targets) == expected
    assert set(targets.values()) == {1}


def test_long_histories_are_cut_from_their_end():
    train = Ragged.from_rows([np.arange(1, 21)])  # 19 targets: pieces of 7, 7 and 5
    pieces = sorted(segments_of(pack(train, MAX_LEN, 7)))
    assert pieces == [(0, 0, 5), (0, 5, 7), (0, 12, 7)]


def test_every_place_is_in_one_row_and_pieces_are_ordered_by_their_slots():
    packing = pack(histories(), MAX_LEN, 16)
    assert (np.diff(packing.piece_slots) >= 0).all()
    assert sorted(packing.row_places.tolist()) == list(range(len(packing.piece_slots)))
    assert packing.row_starts[-1] == len(packing.piece_slots)


def test_rows_are_nearly_full():
    packing = pack(histories(2000, 12), MAX_LEN, 32)
    assert packing.fill > 0.98
    assert packing.counts['targets'] == round(packing.fill * len(packing) * packing.width)


def test_rows_that_are_too_narrow_and_histories_without_a_next_item_are_refused():
    with pytest.raises(UserError, match=r'train\.row_width=6 is narrower .* takes 7 slots'):
        pack(histories(), MAX_LEN, 6)
    with pytest.raises(UserError, match='No history has two items to train on'):
        pack(Ragged.from_rows([[1], [2]]), MAX_LEN, 16)
