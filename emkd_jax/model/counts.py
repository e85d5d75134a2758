"""PCTM: transition counts that score the next item without any training.

Petrov et al., "PCTM" (RecSys 2026, arXiv 2608.19833). With N^(d)_ba the number of times that item a
came d places after item b in a training history, V the number of items and p(a) the share of item a
in all training events,

    C_ba = sum_{d <= reach} gain(d) N^(d)_ba
    score(a | history) = sum_j w_j log(1 + C_{h_j a} V / scale) + popularity log p(a)

where j runs over the newest items of the history and the weights w_j sum to 1.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Float32, Int

from emkd_jax.data.dataset import Ragged

_PAIRS_AT_A_TIME = 1 << 24  # that are counted at a time
_DECAY = 0.6  # of the weights of a history, from one item to the item before it
_HEAD, _HEAD_SHARE = 7, 0.8  # with a tail, the newest items share this much of the weight
_UNSEEN = 0.5  # the events that an item without events counts as in the popularity


@dataclasses.dataclass(frozen=True)
class CountSettings:
    """Settings of the counts.

    Attributes:
      gain: how the gain falls with the distance d: 'root' for d^-1/2, 'inverse' for 1/d, and
        'decay' for 0.7^(d-1).
      reach: the largest distance that counts.
      scale: how many counts, times V, are one unit inside the logarithm.
      popularity: weight of the logarithm of the popularity.
      history: number of newest items that are read.
      tail: whether items before the newest seven share a fifth of the weight; otherwise the weights
        go on falling by 0.6 from item to item.
    """

    gain: str = 'decay'
    reach: int = 20
    scale: float = 15000.0
    popularity: float = 0.0
    history: int = 50
    tail: bool = True


# The settings of the paper for each data set.
SETTINGS = {
    'toys': CountSettings(),
    'beauty': CountSettings('root', 10, 11250.0, -0.04, 50, False),
    'ml_1m': CountSettings('inverse', 20, 150.0, -0.4, 200, True),
}

_GAINS = {
    'root': lambda distance: distance**-0.5,
    'inverse': lambda distance: 1 / distance,
    'decay': lambda distance: 0.7 ** (distance - 1),
}


class CountModel:
    """The counts of a training set.

    Attributes:
      settings: see `CountSettings`.
      num_items: V.
    """

    def __init__(self, train: Ragged, num_items: int, settings: CountSettings):
        """Counts the transitions of the training histories."""
        self.settings, self.num_items = settings, num_items
        size = num_items + 1
        events = np.bincount(train.values, minlength=size).astype(np.float64)
        # The items that come before are counted in ranges, which bounds the memory.
        ranges = np.cumsum(events * settings.reach) // _PAIRS_AT_A_TIME
        firsts = np.flatnonzero(np.diff(ranges, prepend=-1))
        self._transitions: scipy.sparse.csr_matrix = scipy.sparse.vstack(
            [
                _counted(train, first, last, size, settings)
                for first, last in itertools.pairwise([*firsts.tolist(), size])
            ],
            format='csr',
        )
        share = np.maximum(events, _UNSEEN) / max(events.sum(), 1)
        self._popularity = (settings.popularity * np.log(share)).astype(np.float32)

    def scores(
        self, histories: Ragged, rows: Int[np.ndarray, ' rows']
    ) -> Float32[np.ndarray, 'rows classes']:
        """Scores the classes 0..V as the continuation of some histories; row -1 is an empty one."""
        lengths = np.where(rows < 0, 0, histories.lengths[rows])
        used = np.minimum(lengths, self.settings.history)
        row = np.repeat(np.arange(len(rows)), used)
        age = np.arange(len(row)) - np.repeat(np.cumsum(used) - used, used)
        items = histories.values[histories.offsets[rows[row] + 1] - 1 - age]
        weights = _weight_table(self.settings.history, self.settings.tail)[used[row], age]
        shape = (len(rows), self.num_items + 1)
        found = scipy.sparse.csr_matrix((weights, (row, items)), shape) @ self._transitions
        dense: Float32[np.ndarray, 'rows classes'] = found.toarray()
        dense += self._popularity
        return dense

    def device_scores(self, items: Int[Array, 'rows slots']) -> Float[Array, 'rows classes']:
        """Computes `scores` with JAX, for a program that is exported.

        Args:
          items: the newest items of each history, padded on the left with 0.
        """
        rows, slots = items.shape
        length = (items > 0).sum(1)
        age = slots - 1 - jnp.arange(slots)[None]
        used = jnp.minimum(length, self.settings.history)[:, None]
        table = jnp.asarray(_weight_table(self.settings.history, self.settings.tail))
        weights = jnp.where(age < used, table[used, jnp.minimum(age, table.shape[1] - 1)], 0)
        by_item = jnp.zeros((self.num_items + 1, rows), jnp.float32)
        by_item = by_item.at[items.T, jnp.arange(rows)[None]].add(weights.T)
        counts = self._transitions.tocoo()
        found = (
            jnp.zeros_like(by_item).at[counts.col].add(counts.data[:, None] * by_item[counts.row])
        )
        return found.T + self._popularity[None]


def _counted(
    train: Ragged, first: int, last: int, size: int, settings: CountSettings
) -> scipy.sparse.csr_matrix:
    """The logarithms of the counts after the items from `first` to `last`, without the last."""
    row = np.repeat(np.arange(len(train), dtype=np.int32), train.lengths)
    counted: Any = scipy.sparse.csr_matrix((last - first, size), dtype=np.float64)
    for distance in range(1, settings.reach + 1):
        before = train.values[:-distance]
        own = (row[distance:] == row[:-distance]) & (before >= first) & (before < last)
        before, after = before[own] - first, train.values[distance:][own]
        if len(before):
            values = np.full(len(before), _GAINS[settings.gain](float(distance)))
            counted = counted + scipy.sparse.csr_matrix((values, (before, after)), counted.shape)
    counted.data = np.log1p(counted.data * (size - 1) / settings.scale)
    return counted.astype(np.float32)


@functools.lru_cache(8)
def _weight_table(most: int, tail: bool) -> Float32[np.ndarray, 'lengths ages']:
    """The weight of the item of each age in a history of each length, from 0 to `most`."""
    table = np.zeros((most + 1, most), np.float32)
    for length in range(1, most + 1):
        weights = _DECAY ** np.arange(length)
        if tail and length > _HEAD:
            weights[:_HEAD] *= _HEAD_SHARE / weights[:_HEAD].sum()
            weights[_HEAD:] = (1 - _HEAD_SHARE) / (length - _HEAD)
        table[length, :length] = weights / weights.sum()
    return table
