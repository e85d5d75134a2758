"""Histories as batches for the devices: for evaluation, and for recommendation.

A batch holds histories of about the same length and is only as wide as its longest one needs,
rounded up to one of a few sizes: padding on the left does not influence what is real, so most of it
need not be computed, and each size compiles once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int, Int32, Int64

from emkd_jax.data.dataset import Holdout, Ragged


class EvalBatch(NamedTuple):
    """Held-out rows as the devices take them.

    Attributes:
      items: the end of each history and then the mask token, padded on the left with 0.
      targets: the items to find.
      others, visible: what else competes, as `ranking.target_ranks` takes it.
    """

    items: Int[Array | np.ndarray, '*lead slots']
    targets: Int[Array | np.ndarray, '*lead']
    others: Int[Array | np.ndarray, '*lead width']
    visible: Int[Array | np.ndarray, '*lead']


def history_batches(
    histories: Ragged, max_len: int, mask_token: int, num_devices: int, rows: int
) -> Iterator[tuple[Int64[np.ndarray, 'devices rows'], Int32[np.ndarray, 'devices rows slots']]]:
    """Cuts histories into chunks of `rows`, shortest first, with one chunk for each device.

    What is in a chunk does not depend on the number of devices.

    Yields:
      The place of each row in `histories` (-1: the row only fills up the batch); and the end of
      each history and then the mask token, padded on the left with 0.
    """
    order = np.argsort(histories.lengths, kind='stable')
    order = np.append(order, np.full(-len(order) % rows, -1)).reshape(-1, rows)
    longest = np.where(order < 0, 0, histories.lengths[order]).max(1)
    sizes = input_sizes(max_len)
    slots = sizes[np.searchsorted(sizes, np.minimum(longest + 1, max_len))]
    for size in np.unique(slots).tolist():
        chunks = order[slots == size]
        for first in range(0, len(chunks), num_devices):
            places = np.full((num_devices, rows), -1)
            places[: len(chunks) - first] = chunks[first : first + num_devices]
            items = np.full((*places.shape, size), mask_token, np.int32)
            items[..., :-1] = last_values(histories, places, size - 1)
            yield places, items


def eval_batches(
    holdout: Holdout, max_len: int, mask_token: int, num_devices: int, rows: int
) -> Iterator[tuple[Int64[np.ndarray, 'devices rows'], EvalBatch]]:
    """`history_batches` of a held-out set, with what its targets compete against."""
    others, visible = _distinct_others(holdout, max_len)
    batches = history_batches(holdout.histories, max_len, mask_token, num_devices, rows)
    for places, items in batches:
        real = places >= 0
        width = padded_width(int(others.lengths[places[real]].max()))
        yield (
            places,
            EvalBatch(
                items,
                np.where(real, holdout.targets[places], 1).astype(np.int32),
                last_values(others, places, width)[..., ::-1],
                np.where(real, visible[places], 0).astype(np.int32),
            ),
        )


def input_sizes(max_len: int) -> Int64[np.ndarray, ' sizes']:
    """Numbers of slots that are worth a compilation, ascending; the last one is `max_len`."""
    sizes = [max_len]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] * 4 // 5)
    return np.array(sizes[::-1])


def padded_width(longest: int) -> int:
    """The width of lists of up to `longest` ids, one of a few so that few compile."""
    width = 32
    while width < longest:
        width *= 4
    return width


def last_values(
    ragged: Ragged, rows: Int[np.ndarray, '*rows'], count: int
) -> Int32[np.ndarray, '*rows count']:
    """The last `count` values of the rows, padded on the left with 0; row -1 is empty."""
    starts = ragged.offsets[rows]
    ends = np.where(rows < 0, starts, ragged.offsets[rows + 1])
    index = ends[..., None] - count + np.arange(count)
    inside = index >= starts[..., None]
    values = np.append(ragged.values, np.int32(0))
    return values[np.where(inside, index, -1)]


def _distinct_others(holdout: Holdout, max_len: int) -> tuple[Ragged, Int64[np.ndarray, ' rows']]:
    """The distinct items of each history but the target, the last seen one last; and how many of
    them the input window shows."""
    histories, targets, _ = holdout
    row = np.repeat(np.arange(len(histories)), histories.lengths)
    from_end = histories.offsets[row + 1] - np.arange(len(row))  # 1: the last item
    # Read backwards, the first time an item is met is the last time it was seen.
    pair = (row * (int(histories.values.max(initial=0)) + 1) + histories.values)[::-1]
    kept = np.sort(len(row) - 1 - np.unique(pair, return_index=True)[1])
    kept = kept[histories.values[kept] != targets[row[kept]]]
    offsets = np.zeros(len(histories) + 1, np.int64)
    np.cumsum(np.bincount(row[kept], minlength=len(histories)), out=offsets[1:])
    visible = np.bincount(row[kept][from_end[kept] < max_len], minlength=len(histories))
    return Ragged(histories.values[kept], offsets), visible
