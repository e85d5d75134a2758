"""Packed rows for next-item training: pieces of histories one after another, without padding.

A row has a fixed number of slots. A slot holds an item whose next item is known, so a history of n
items fills n - 1 slots. Which lengths share a row is decided once, by first fit; which history of
that length takes the place is drawn anew for every epoch, on the devices (`training/batches.py`).
The number of rows is therefore the same in every epoch.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError

_OPEN_ROWS = 32  # rows that are tried before a new one is begun
_SEED = 0  # of the order in which lengths are packed; the order of training has its own


class Packing(NamedTuple):
    """The pieces of all training histories, and the rows that hold pieces of their lengths.

    Attributes:
      values: the items of all histories, end to end.
      piece_starts: where the items of each piece start in `values`; the pieces are ordered by their
        length.
      piece_groups: the number of the piece's length among all lengths; it ascends.
      slot_places: the place that each slot belongs to, and -1 for the empty end of a row. Places
        are numbered in the order of pieces, so that place i takes any piece with the group of
        piece i.
      slot_positions: the position of each slot in its piece, from 0.
    """

    values: Int32[np.ndarray, ' values']
    piece_starts: Int32[np.ndarray, ' pieces']
    piece_groups: Int32[np.ndarray, ' pieces']
    slot_places: Int32[np.ndarray, 'rows width']
    slot_positions: Int32[np.ndarray, 'rows width']

    @property
    def fill(self) -> float:
        """The share of slots that hold an item."""
        return float((self.slot_places >= 0).mean())

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of rows, and of targets, which are the slots that hold an item."""
        return {'rows': len(self.slot_places), 'targets': int((self.slot_places >= 0).sum())}


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
    rows = _first_fit(lengths, width)
    places = np.full((len(rows), width), -1, np.int32)
    positions = np.zeros((len(rows), width), np.int32)
    for places_of_row, positions_of_row, pieces in zip(places, positions, rows, strict=True):
        sizes = lengths[pieces]
        ends = np.cumsum(sizes)
        places_of_row[: ends[-1]] = np.repeat(pieces, sizes)
        positions_of_row[: ends[-1]] = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    groups = np.unique(lengths, return_inverse=True)[1]
    return Packing(
        train.values, starts.astype(np.int32), groups.astype(np.int32), places, positions
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


def _first_fit(lengths: Int64[np.ndarray, ' pieces'], width: int) -> list[list[int]]:
    """Returns the pieces of each row: pieces in random order go to the first row with room."""
    full: list[list[int]] = []
    open_rows: list[tuple[list[int], int]] = []  # pieces, and the room that is left
    for piece in np.random.default_rng(_SEED).permutation(len(lengths)).tolist():
        size = int(lengths[piece])
        for i, (pieces, room) in enumerate(open_rows):
            if size <= room:
                pieces.append(piece)
                open_rows[i] = pieces, room - size
                break
        else:
            open_rows.append(([piece], width - size))
        open_rows, closed = (
            [row for row in open_rows if row[1]],
            [row for row in open_rows if not row[1]],
        )
        if len(open_rows) > _OPEN_ROWS:
            fullest = min(range(len(open_rows)), key=lambda i: open_rows[i][1])
            closed.append(open_rows.pop(fullest))
        full += [pieces for pieces, _ in closed]
    return full + [pieces for pieces, _ in open_rows]
