"""Batches of histories, for evaluation and recommendation.

A batch holds histories of similar length and is only as wide as the longest one needs, rounded up
to one of a few widths: padding does not influence the result, so most of it need not be computed.
Each width compiles once.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Int32, Int64, PyTree

from emkd_jax.data.dataset import Holdout, Ragged


class Ranked(NamedTuple):
    """The items to find, and those that may not compete.

    Its shapes are the same in nearly all batches, unlike those of the model's input. What ranks
    takes it alone, since each shape compiles.

    Attributes:
      targets: the items to find.
      others, visible: the items that may not compete; see `metrics.target_ranks`.
    """

    targets: Int[Array | np.ndarray, '*lead']
    others: Int[Array | np.ndarray, '*lead width']
    visible: Int[Array | np.ndarray, '*lead']


class EvalBatch(NamedTuple):
    """Held-out rows in the form that the devices need; `items` are as of `model_inputs`."""

    items: Int[Array | np.ndarray, '*lead slots']
    ranked: Ranked


def model_inputs(
    histories: Ragged, rows: Int[np.ndarray, '*rows'], slots: int, mask_token: int
) -> Int32[np.ndarray, '*rows slots']:
    """The end of each history and then the mask token, padded on the left with 0.

    Row -1 stands for an empty history.
    """
    items = np.full((*rows.shape, slots), mask_token, np.int32)
    items[..., :-1] = last_values(histories, rows, slots - 1)
    return items


def history_batches(
    histories: Ragged, max_len: int, mask_token: int, num_devices: int, rows: int
) -> Iterator[tuple[Int64[np.ndarray, 'devices rows'], Int32[np.ndarray, 'devices rows slots']]]:
    """Divides histories into chunks of `rows`, the shortest first, with a chunk for each device.

    The content of a chunk does not depend on the number of devices.

    Yields:
      The index of each row in `histories`, which is -1 where the row only fills the batch; and the
      `model_inputs`.
    """
    order = np.argsort(histories.lengths, kind='stable')
    order = np.append(order, np.full(-len(order) % rows, -1)).reshape(-1, rows)
    longest = np.where(order < 0, 0, histories.lengths[order]).max(1)
    widths = input_widths(max_len)
    slots = widths[np.searchsorted(widths, np.minimum(longest + 1, max_len))]
    for width in np.unique(slots).tolist():
        chunks = order[slots == width]
        for first in range(0, len(chunks), num_devices):
            index = np.full((num_devices, rows), -1)
            index[: len(chunks) - first] = chunks[first : first + num_devices]
            yield index, model_inputs(histories, index, width, mask_token)


def eval_batches(
    holdout: Holdout, max_len: int, mask_token: int, num_devices: int, rows: int
) -> Iterator[tuple[Int64[np.ndarray, 'devices rows'], EvalBatch]]:
    """Yields `history_batches` of a held-out set, together with the targets and their rules."""
    others, visible = _distinct_others(holdout, max_len)
    batches = history_batches(holdout.histories, max_len, mask_token, num_devices, rows)
    for index, items in batches:
        real = index >= 0
        width = padded_width(int(others.lengths[index[real]].max()))
        yield (
            index,
            EvalBatch(
                items,
                Ranked(
                    np.where(real, holdout.targets[index], 1).astype(np.int32),
                    last_values(others, index, width)[..., ::-1],
                    np.where(real, visible[index], 0).astype(np.int32),
                ),
            ),
        )


def compute_ahead(
    batches: Iterable[tuple[Int[np.ndarray, 'devices rows'], PyTree]],
    compute: Callable[[Int[np.ndarray, 'devices rows'], PyTree], PyTree],
    ahead: int,
) -> Iterator[tuple[Int[np.ndarray, ' rows'], PyTree[np.ndarray]]]:
    """Computes batches on the devices, and reads results while the next batches are computed.

    Args:
      batches: pairs of an index, -1 in rows that only fill the batch, and what `compute` takes.
      compute: starts the computation of a batch; its results have the axes of the index first.
      ahead: the number of batches that are started before the result of the first one is read.

    Yields:
      The index and the results of each batch, without the rows that only fill it.
    """
    in_flight = collections.deque()

    def read():
        index, results = in_flight.popleft()
        real = index >= 0
        return index[real], jax.tree.map(lambda x: np.asarray(x)[real], results)

    for index, batch in batches:
        in_flight.append((index, compute(index, batch)))
        if len(in_flight) > ahead:
            yield read()
    while in_flight:
        yield read()


def input_widths(max_len: int) -> Int64[np.ndarray, ' widths']:
    """Numbers of slots that are worth a compilation, in ascending order up to `max_len`."""
    widths = [max_len]
    while widths[-1] > 1:
        widths.append(widths[-1] * 4 // 5)
    return np.array(widths[::-1])


def padded_width(longest: int) -> int:
    """The width for lists of up to `longest` ids: one of a few, since each one compiles."""
    width = 32
    while width < longest:
        width *= 4
    return width


def last_values(
    ragged: Ragged, rows: Int[np.ndarray, '*rows'], count: int
) -> Int32[np.ndarray, '*rows count']:
    """The last `count` values of each row, padded on the left with 0; row -1 is empty."""
    starts = ragged.offsets[rows]
    ends = np.where(rows < 0, starts, ragged.offsets[rows + 1])
    index = ends[..., None] - count + np.arange(count)
    inside = index >= starts[..., None]
    values = np.append(ragged.values, np.int32(0))
    return values[np.where(inside, index, -1)]


def _distinct_others(holdout: Holdout, max_len: int) -> tuple[Ragged, Int64[np.ndarray, ' rows']]:
    """The distinct items of each history without the target, ordered by their last occurrence.

    The second result counts those that the input window shows.
    """
    histories, targets, _ = holdout
    row = np.repeat(np.arange(len(histories)), histories.lengths)
    from_end = histories.offsets[row + 1] - np.arange(len(row))  # 1 for the last item
    # In reverse order, the first occurrence of an item is the last one of the history.
    pair = (row * (int(histories.values.max(initial=0)) + 1) + histories.values)[::-1]
    kept = np.sort(len(row) - 1 - np.unique(pair, return_index=True)[1])
    kept = kept[histories.values[kept] != targets[row[kept]]]
    offsets = np.zeros(len(histories) + 1, np.int64)
    np.cumsum(np.bincount(row[kept], minlength=len(histories)), out=offsets[1:])
    visible = np.bincount(row[kept][from_end[kept] < max_len], minlength=len(histories))
    return Ragged(histories.values[kept], offsets), visible
