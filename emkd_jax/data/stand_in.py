"""Made-up data that resembles the real data sets, for machines without them.

Users walk from item to item. Some items are popular, items of a group follow one another, and the
attributes name the groups. So there is something to learn, but the results have no meaning.
"""

import zlib
from typing import NamedTuple

import numpy as np

from emkd_jax.data.dataset import Dataset, Ragged

QUICKSTART = 'quickstart'  # a data set that exists as made-up data only

# A step of a walk goes to a frequent successor, to an item of the same kind, or to any item. These
# are the cumulative probabilities of the first two.
_SUCCESSOR, _SAME_KIND = 0.5, 0.8
_NUM_SUCCESSORS = 4  # frequent successors of each item
_GROUPS_PER_KIND = 4


class _Size(NamedTuple):
    users: int
    items: int
    attributes: int  # each group and each kind is one attribute
    min_length: int  # items in the shortest history
    mean_extra: float  # mean number of items beyond `min_length`


_SIZES = {
    'toys': _Size(users=2000, items=1000, attributes=100, min_length=5, mean_extra=3.6),
    'beauty': _Size(users=2000, items=1000, attributes=60, min_length=5, mean_extra=3.9),
    'ml_1m': _Size(users=500, items=400, attributes=20, min_length=20, mean_extra=60.0),
    QUICKSTART: _Size(users=400, items=150, attributes=20, min_length=5, mean_extra=3.6),
}


def make(name: str) -> Dataset:
    """Makes the stand-in for a data set; each call gives the same one.

    All random numbers are uniform, so the data does not depend on how a library's version draws
    other distributions.
    """
    size = _SIZES[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    groups = size.attributes * _GROUPS_PER_KIND // (_GROUPS_PER_KIND + 1)
    group = np.arange(size.items) * groups // size.items  # items of a group are neighbours
    kind = group // _GROUPS_PER_KIND
    catalogue = _Catalogue(random, group, kind)

    extra = np.floor(-size.mean_extra * np.log1p(-random.random(size.users)))
    lengths = np.minimum(size.min_length + extra, size.items // 4).astype(np.int64)
    walks = np.full((size.users, lengths.max()), -1)
    for step in range(walks.shape[1]):
        walks[:, step] = catalogue.step(random, walks[:, :step])

    number = np.argsort(random.random(size.items)) + 1  # numbers do not tell the groups
    table = np.full((size.items + 1, 2), -1, np.int32)
    table[number, 0] = 1 + kind
    table[number, 1] = 1 + kind.max() + 1 + group
    table[0, 0] = 0
    return Dataset(
        name=f'{name}_stand_in',
        histories=Ragged.from_rows(
            [number[walk[:length]] for walk, length in zip(walks, lengths, strict=True)]
        ),
        item_attributes=table,
        num_items=size.items,
        num_attributes=int(table.max()),
        user_ids=np.arange(1, size.users + 1),
        item_ids=np.arange(1, size.items + 1),
        stand_in=True,
    )


class _Catalogue:
    """Items in the order of their groups: how popular each is, and which ones follow it."""

    def __init__(self, random: np.random.Generator, group: np.ndarray, kind: np.ndarray):
        rank = np.argsort(random.random(len(group)))
        weight = 1 / (rank + len(group) / 20)  # Zipf's law, flattened for the most popular items
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight)])
        self.no_label = np.zeros_like(kind)
        self.kind = kind
        self.successors = self._draw(random, np.repeat(group[:, None], _NUM_SUCCESSORS, 1), group)

    def step(self, random: np.random.Generator, walks: np.ndarray) -> np.ndarray:
        """Draws the next item of each walk; an item that the walk has already is redrawn."""
        any_item = self._draw(random, np.zeros(len(walks), int), self.no_label)
        if walks.shape[1] == 0:
            return any_item
        last = walks[:, -1]
        choice = random.random(len(walks))
        successor = _NUM_SUCCESSORS * random.random(len(walks)) ** 2  # the first are likelier
        same_kind = self._draw(random, self.kind[last], self.kind)
        chosen = np.where(
            choice < _SUCCESSOR,
            self.successors[last, successor.astype(int)],
            np.where(choice < _SAME_KIND, same_kind, any_item),
        )
        for _ in range(3):
            repeated = (walks == chosen[:, None]).any(1)
            any_item = self._draw(random, np.zeros(len(walks), int), self.no_label)
            chosen = np.where(repeated, any_item, chosen)
        return chosen

    def _draw(
        self, random: np.random.Generator, wanted: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """Draws items whose label is the wanted one, by popularity; `labels` are sorted."""
        low = self.cumulative[np.searchsorted(labels, wanted, 'left')]
        high = self.cumulative[np.searchsorted(labels, wanted, 'right')]
        point = low + random.random(wanted.shape) * (high - low)
        return np.asarray(np.searchsorted(self.cumulative, point, 'right') - 1)
