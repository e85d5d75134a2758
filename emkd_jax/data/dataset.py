"""Histories in memory, their split into training and held-out items, and the training windows."""

import dataclasses
import hashlib
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of different length, end to end: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Int32[np.ndarray, ' values']
    offsets: Int64[np.ndarray, ' rows_and_one']

    @classmethod
    def from_rows(cls, rows) -> 'Ragged':
        """Packs a list of rows of integers."""
        offsets = _offsets([len(row) for row in rows])
        values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, offsets[-1])
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row) -> Int32[np.ndarray, ' length']:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, ' rows']:
        return np.diff(self.offsets)

    def take(
        self, rows: Int64[np.ndarray, ' taken'], drop_last: int | Int64[np.ndarray, ' taken'] = 0
    ) -> 'Ragged':
        """The given rows, each without its last `drop_last` values (of which it has so many)."""
        lengths = self.lengths[rows] - drop_last
        offsets = _offsets(lengths)
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[np.arange(offsets[-1]) + shift], offsets)


def _arrays(tree):
    """The arrays in nested tuples of arrays and `Ragged`, in order."""
    for branch in tree:
        if isinstance(branch, Ragged):
            yield from (branch.values, branch.offsets)
        elif isinstance(branch, tuple):
            yield from _arrays(branch)
        else:
            yield branch


def _offsets(lengths):
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


class Holdout(NamedTuple):
    """Items to predict: `targets[i]` follows `histories[i]`, all of it that a model may see.

    `users` are indices into `SequenceData.user_ids`.
    """

    histories: Ragged
    targets: Int32[np.ndarray, ' rows']
    users: Int64[np.ndarray, ' rows']


class Split(NamedTuple):
    """`train` has a row for every user; a held-out part has one for each user it tests."""

    train: Ragged
    validation: Holdout
    test: Holdout


@dataclasses.dataclass(frozen=True)
class SequenceData:
    """A data set, decoded.

    Attributes:
      name: of the set; a stand-in's ends in `_stand_in`.
      histories: every user's items, oldest first, numbered from 1.
      item_attributes: attribute ids (from 1) of every item, padded with -1; row 0 is the padding
        item's own attribute 0.
      num_items: V.
      num_attributes: A, without the padding item's.
      user_ids: original ids, in the order of `histories`.
      item_ids: original ids; `item_ids[i - 1]` is item i's.
      stand_in: made up, so that no figure from it may pass for a real one.
      holdout: a split that came with the data; None: leave one out.
    """

    name: str
    histories: Ragged
    item_attributes: Int32[np.ndarray, 'items_and_padding most']
    num_items: int
    num_attributes: int
    user_ids: Shaped[np.ndarray, ' users']
    item_ids: Shaped[np.ndarray, ' items']
    stand_in: bool = False
    holdout: Split | None = None

    def counts(self) -> dict[str, int]:
        return {
            'users': len(self.histories),
            'items': self.num_items,
            'interactions': len(self.histories.values),
            'attributes': self.num_attributes,
        }

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: equal exactly where histories, attributes, ids and a split
        of the data's own are."""
        digest = hashlib.sha256()
        for array in (
            self.histories.values,
            self.histories.offsets,
            self.item_attributes,
            self.user_ids,
            self.item_ids,
            *_arrays(self.holdout or ()),
        ):
            array = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
            digest.update(f'{array.dtype.str}{array.shape}'.encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def attribute_table(rows) -> Int32[np.ndarray, 'rows most']:
    """Pads lists of attribute ids with -1."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for padded, row in zip(table, rows, strict=True):
        padded[: len(row)] = row
    return table


def leave_one_out(data: SequenceData) -> Split:
    """Every user's last item is the test's, the one before the validation's, the rest training.

    Users with fewer than three items are trained on whole and not tested.
    """
    histories = data.histories
    tested = histories.lengths >= 3
    users = np.flatnonzero(tested)
    ends = histories.offsets[users + 1]
    everyone = np.arange(len(histories))
    return Split(
        train=histories.take(everyone, drop_last=2 * tested.astype(np.int64)),
        validation=Holdout(histories.take(users, drop_last=2), histories.values[ends - 2], users),
        test=Holdout(histories.take(users, drop_last=1), histories.values[ends - 1], users),
    )


def windows(train: Ragged, max_len: int, step: int) -> Int32[np.ndarray, 'windows slots']:
    """Cuts training histories into left-padded windows of `max_len` items.

    A history of n items gives the windows that start at n - max_len, n - max_len - step, ... while
    above 0, and the one that starts at 0; users follow one another in order.
    """
    lengths = train.lengths
    last_start = np.maximum(lengths - max_len, 0)
    per_row = -(-last_start // step) + (lengths > 0)
    row = np.repeat(np.arange(len(train)), per_row)
    place = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    start = np.maximum(last_start[row] - place * step, 0)
    end = np.minimum(start + max_len, lengths[row])
    item = end[:, None] - max_len + np.arange(max_len)[None, :]
    values = np.append(train.values, np.int32(0))
    return values[np.where(item >= start[:, None], train.offsets[row][:, None] + item, -1)]
