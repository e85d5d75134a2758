"""Packed rows for next-item training: pieces of histories one after another, without padding.

A row has a fixed number of slots. A slot holds an item whose next item is known, so a history of n
items fills n - 1 slots. Which lengths share a row is decided once, by first fit; which history of
that length takes the place is drawn anew for every epoch, on the devices (`training/batches.py`).
The number of rows is therefore the same in every epoch.
"""

import array
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Int32, Int64

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError

_AT_A_TIME = 1 << 16  # pieces that are Python numbers at a time
_OPEN_ROWS = 32  # rows that are tried before a new one is begun
_SEED = 0  # of the order in which lengths are packed; the order of training has its own


@flax.struct.dataclass
class Packing:
    """The pieces of all training histories, and the rows that hold pieces of their lengths.

    The items are stored once, end to end, and a row is a list of places for pieces; its slots are
    filled on the devices. Leaves may be NumPy arrays, device arrays or ShapeDtypeStructs.

    Attributes:
      values: (events,) int32, the items of all histories, end to end.
      piece_starts: (pieces,) int32, where the items of each piece start in `values`; the pieces are
        ordered by their number of slots.
      piece_slots: (pieces,) int32, the slots that each piece fills; it ascends.
      row_places: (pieces,) int32, the places of one row after another. Places are numbered in the
        order of pieces, so that place i takes any piece with as many slots as piece i.
      row_starts: (rows + 1,) int32, where each row starts in `row_places`.
      width: slots of a row; those behind its last piece are empty.
      most: the largest number of pieces in a row.
    """

    values: Any
    piece_starts: Any
    piece_slots: Any
    row_places: Any
    row_starts: Any
    width: int = flax.struct.field(pytree_node=False)
    most: int = flax.struct.field(pytree_node=False)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.row_starts) - 1

    @property
    def fill(self) -> float:
        """The share of slots that hold an item."""
        return float(self.piece_slots.sum() / (len(self) * self.width))

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows, and of targets, which are the slots that hold an item."""
        return {'rows': len(self), 'targets': int(self.piece_slots.sum(dtype=np.int64))}


def pack(train: Ragged, max_len: int, width: int) -> Packing:
    """Cuts histories into pieces and packs these into rows.

    A piece shows at most `max_len` - 1 items, as many as a model sees in evaluation. A longer
    history is cut from its end, so that the newest items have the longest history before them, and
    every item but the first of a history is the target of one slot.

    Args:
      train: training histories.
      max_len: L, the slots of the model's input.
      width: slots of a row.

    Raises:
      UserError: a row is too narrow for a piece, or no history has two items.
    """
    longest = min(max_len - 1, int(train.lengths.max(initial=0)) - 1)
    if longest < 1:
        raise UserError(
            'No history has two items to train on, so there is no next item to predict; use more '
            'data, or --config.objective.task=cloze.'
        )
    if width < longest:
        raise UserError(
            f'train.row_width={width} is narrower than the longest sequence, which takes {longest} '
            f'slots; set --config.train.row_width={longest} at least, or a smaller model.max_len.'
        )
    starts, lengths = _pieces(train, max_len - 1)
    order = np.argsort(lengths, kind='stable')
    starts, lengths = starts[order], lengths[order]
    places, row_starts = _first_fit(lengths.astype(np.int32), width)
    return Packing(
        train.values,
        starts.astype(np.int32),
        lengths.astype(np.int32),
        places,
        row_starts,
        width,
        int(np.diff(row_starts).max()),
    )


def _pieces(
    train: Ragged, longest: int
) -> tuple[Int64[np.ndarray, ' pieces'], Int64[np.ndarray, ' pieces']]:
    """Returns where each piece starts in `train.values`, and its number of slots."""
    slots = np.maximum(train.lengths - 1, 0)
    per_row = -(-slots // longest)
    row = np.repeat(np.arange(len(train)), per_row)
    from_end = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    end = slots[row] - from_end * longest
    start = np.maximum(end - longest, 0)
    return train.offsets[row] + start, end - start


def _first_fit(
    lengths: Int32[np.ndarray, ' pieces'], width: int
) -> tuple[Int32[np.ndarray, ' pieces'], Int32[np.ndarray, ' rows_and_one']]:
    """Puts pieces, in random order, into the first row with room.

    Returns:
      The pieces of one row after another, and where each row starts among them.
    """
    places, ends = array.array('i'), array.array('i', [0])
    contents: list[list[int]] = []  # of the open rows
    rooms: list[int] = []

    def close(i: int) -> None:
        places.extend(contents.pop(i))
        rooms.pop(i)
        ends.append(len(places))

    order = np.random.default_rng(_SEED).permutation(len(lengths)).astype(np.int32)
    for first in range(0, len(order), _AT_A_TIME):
        pieces = order[first : first + _AT_A_TIME]
        for piece, size in zip(pieces.tolist(), lengths[pieces].tolist(), strict=True):
            i = next((i for i, room in enumerate(rooms) if size <= room), len(rooms))
            if i == len(rooms):
                contents.append([])
                rooms.append(width)
            contents[i].append(piece)
            rooms[i] -= size
            if not rooms[i]:
                close(i)
            elif len(rooms) > _OPEN_ROWS:
                close(rooms.index(min(rooms)))
    while contents:
        close(0)
    return np.array(places, np.int32), np.array(ends, np.int32)
