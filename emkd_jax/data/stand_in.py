"""Made-up data with the character of the real sets, for machines that have none.

Users walk over items: popularity is skewed, items come in groups that follow one another, and
attributes tell the groups. So there is something to learn, but no figure means anything.
"""

import zlib
from typing import NamedTuple

import numpy as np

from emkd_jax.data.dataset import Dataset, Ragged

ONLY = 'quickstart'  # the name that has no real data

_FOLLOW, _SAME_KIND = 0.5, 0.8  # cumulative probabilities of a step's kinds; the rest: any item
_SUCCESSORS = 4  # items that often follow an item
_GROUPS_PER_KIND = 4


class _Character(NamedTuple):
    users: int
    items: int
    attributes: int  # groups + kinds, each an attribute
    least: int  # items of a history
    extra: float  # mean number of items beyond `least`


_CHARACTERS = {
    'toys': _Character(users=2000, items=1000, attributes=100, least=5, extra=3.6),
    'beauty': _Character(users=2000, items=1000, attributes=60, least=5, extra=3.9),
    'ml_1m': _Character(users=500, items=400, attributes=20, least=20, extra=60.0),
    ONLY: _Character(users=400, items=150, attributes=20, least=5, extra=3.6),
}


def make(name: str) -> Dataset:
    """The stand-in for a set, the same at every call.

    It draws uniform numbers only, so that it depends on no library's way to shape them.
    """
    character = _CHARACTERS[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    groups = character.attributes * _GROUPS_PER_KIND // (_GROUPS_PER_KIND + 1)
    group = np.arange(character.items) * groups // character.items  # neighbours, in this order
    kind = group // _GROUPS_PER_KIND
    catalogue = _Catalogue(random, group, kind)

    extra = np.floor(-character.extra * np.log1p(-random.random(character.users)))
    lengths = np.minimum(character.least + extra, character.items // 4).astype(np.int64)
    walks = np.full((character.users, lengths.max()), -1)
    for step in range(walks.shape[1]):
        walks[:, step] = catalogue.step(random, walks[:, :step])

    number = np.argsort(random.random(character.items)) + 1  # hides the order of the groups
    table = np.full((character.items + 1, 2), -1, np.int32)
    table[number, 0] = 1 + kind
    table[number, 1] = 1 + kind.max() + 1 + group
    table[0, 0] = 0
    return Dataset(
        name=f'{name}_stand_in',
        histories=Ragged.from_rows(
            [number[walk[:length]] for walk, length in zip(walks, lengths, strict=True)]
        ),
        item_attributes=table,
        num_items=character.items,
        num_attributes=int(table.max()),
        user_ids=np.arange(1, character.users + 1),
        item_ids=np.arange(1, character.items + 1),
        stand_in=True,
    )


class _Catalogue:
    """Items, sorted by group: how popular each is, and which follow it."""

    def __init__(self, random, group, kind):
        rank = np.argsort(random.random(len(group)))
        weight = 1 / (rank + len(group) / 20)  # Zipf, flattened at its top
        self.mass = np.concatenate([[0.0], np.cumsum(weight)])
        self.everything = np.zeros_like(kind)
        self.kind = kind
        self.successors = self._draw(random, np.repeat(group[:, None], _SUCCESSORS, 1), group)

    def step(self, random, walks):
        """The next item of every walk; one that was there before is drawn anew a few times."""
        anything = self._draw(random, np.zeros(len(walks), int), self.everything)
        if walks.shape[1] == 0:
            return anything
        last = walks[:, -1]
        way = random.random(len(walks))
        place = _SUCCESSORS * random.random(len(walks)) ** 2  # the first ones more often
        same_kind = self._draw(random, self.kind[last], self.kind)
        chosen = np.where(
            way < _FOLLOW,
            self.successors[last, place.astype(int)],
            np.where(way < _SAME_KIND, same_kind, anything),
        )
        for _ in range(3):
            again = (walks == chosen[:, None]).any(1)
            anything = self._draw(random, np.zeros(len(walks), int), self.everything)
            chosen = np.where(again, anything, chosen)
        return chosen

    def _draw(self, random, wanted, labels):
        """Items whose label (`labels` are sorted) is the wanted one, by popularity."""
        low = self.mass[np.searchsorted(labels, wanted, 'left')]
        high = self.mass[np.searchsorted(labels, wanted, 'right')]
        point = low + random.random(wanted.shape) * (high - low)
        return np.searchsorted(self.mass, point, 'right') - 1
