"""A data set in memory: the histories of all users, the items' attributes, and the split."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from emkd_jax.errors import UserError

_VALUES_AT_A_TIME = 1 << 22


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, stored end to end.

    Row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: Int32[np.ndarray, ' values']
    offsets: Int64[np.ndarray, ' rows_and_one']

    @classmethod
    def from_rows(cls, rows: Sequence[Any]) -> 'Ragged':
        """Packs a sequence of rows of integers."""
        offsets = _offsets([len(row) for row in rows])
        values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, offsets[-1])
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f'<Ragged: {len(self):,} rows of {len(self.values):,} values>'

    def __getitem__(self, row: Any) -> Int32[np.ndarray, ' length']:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, ' rows']:
        """The number of values in each row."""
        return np.diff(self.offsets)

    def take(
        self, rows: Int64[np.ndarray, ' taken'], drop_last: int | Int64[np.ndarray, ' taken'] = 0
    ) -> 'Ragged':
        """Selects rows and cuts `drop_last` values off the end of each; no row may be shorter."""
        lengths = self.lengths[rows] - drop_last
        offsets = _offsets(lengths)
        values = np.empty(offsets[-1], self.values.dtype)
        # A number of values at a time, since their places take more memory than they do.
        cuts = np.searchsorted(offsets, np.arange(0, offsets[-1], _VALUES_AT_A_TIME))
        for first, last in itertools.pairwise(np.append(np.unique(cuts), len(rows)).tolist()):
            some = slice(offsets[first], offsets[last])
            shift = np.repeat(self.offsets[rows[first:last]], lengths[first:last])
            own = np.arange(offsets[first], offsets[last])
            own -= np.repeat(offsets[first:last], lengths[first:last])
            values[some] = self.values[own + shift]
        return Ragged(values, offsets)

    def sample(self, most: int) -> 'Ragged':
        """Returns rows at even distances that have about `most` values; all rows if they fit."""
        if len(self.values) <= most:
            return self
        count = max(1, round(len(self) * most / len(self.values)))
        return self.take(np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64)))


class Holdout(NamedTuple):
    """Items to predict: `targets[i]` follows `histories[i]`, which is all that a model may see.

    `users` are indices into `Dataset.user_ids`.
    """

    histories: Ragged
    targets: Int32[np.ndarray, ' rows']
    users: Int64[np.ndarray, ' rows']


class Split(NamedTuple):
    """`train` has a row for each user; `validation` and `test` have one for each tested user."""

    train: Ragged
    validation: Holdout
    test: Holdout


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Users' histories of items, and the items' attributes.

    Attributes:
      name: name of the data set; made-up data has the suffix `_stand_in`.
      histories: the items of each user, oldest first. Items are numbered from 1.
      item_attributes: attribute numbers (from 1) of each item, padded with -1. Row 0 belongs to the
        padding item, which has attribute 0.
      num_items: number of items, V.
      num_attributes: number of attributes, A, without the padding item's attribute 0.
      user_ids: original user ids, in the order of `histories`.
      item_ids: original item ids; `item_ids[i - 1]` is the id of item i.
      stand_in: True for made-up data, so that its results are not mistaken for real ones.
      split: the split that came with the data; None: hold out each user's last two items.
      titles: titles of the items, item i's at i - 1; empty if the data has none.
      notes: what was read, left out and assumed when the data was prepared, for people to read.
      attribute_names: names of the attributes, attribute a's at a - 1; empty if only numbers are
        known.
      times: when each event of `histories.values` happened, in seconds since 1970; None if unknown.
    """

    name: str
    histories: Ragged
    item_attributes: Int32[np.ndarray, 'items_and_padding most']
    num_items: int
    num_attributes: int
    user_ids: Shaped[np.ndarray, ' users']
    item_ids: Shaped[np.ndarray, ' items']
    stand_in: bool = False
    split: Split | None = None
    titles: tuple[str, ...] = ()
    notes: str = ''
    attribute_names: tuple[str, ...] = ()
    times: Int64[np.ndarray, ' events'] | None = None

    def __repr__(self) -> str:
        counts = (f'{count:,} {name}' for name, count in self.counts().items())
        return f'<Dataset {self.name}: {", ".join(counts)}>'

    def counts(self) -> dict[str, int]:
        """The numbers of users, items, interactions and attributes."""
        return {
            'users': len(self.histories),
            'items': self.num_items,
            'interactions': len(self.histories.values),
            'attributes': self.num_attributes,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content that a model is trained and tested on.

        It covers histories, attributes, ids and the split, but not the name, titles, names of
        attributes, notes and times. Runs store it, so its value for the same content must never
        change.
        """
        digest = hashlib.sha256()
        for array in (
            self.histories.values,
            self.histories.offsets,
            self.item_attributes,
            self.user_ids,
            self.item_ids,
            *_arrays(self.split or ()),
        ):
            array = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
            digest.update(f'{array.dtype.str}{array.shape}'.encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def check_dataset(data: Any) -> None:
    """Raises UserError unless `data` is a `Dataset`, and says how a table becomes one."""
    if not isinstance(data, Dataset):
        raise UserError(
            f'The data is a {type(data).__name__}, and must be a Dataset; emkd_jax.read_events '
            'makes one of a table or a path.'
        )


def attribute_table(rows: Sequence[Any]) -> Int32[np.ndarray, 'rows most']:
    """Packs lists of attribute numbers into a table, padded with -1."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for padded, row in zip(table, rows, strict=True):
        padded[: len(row)] = row
    return table


def _offsets(lengths: Any) -> Int64[np.ndarray, ' rows_and_one']:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _arrays(tree: Iterable[Any]) -> Iterator[np.ndarray]:
    """The arrays in nested tuples of arrays and `Ragged`, in order."""
    for branch in tree:
        if isinstance(branch, Ragged):
            yield from (branch.values, branch.offsets)
        elif isinstance(branch, tuple):
            yield from _arrays(branch)
        else:
            yield branch
