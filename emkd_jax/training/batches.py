"""The batch of each step, drawn on the devices from the seed and the number of the step.

The training histories lie on the devices, end to end, and rows are cut from them by index. The
order of an epoch is a hash of the seed and the epoch, so a batch is a few rows of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Int, UInt32

from emkd_jax.data.packing import Packing
from emkd_jax.data.windows import Windows
from emkd_jax.model import hash_rng
from emkd_jax.objective.emkd import Batch
from emkd_jax.objective.masking import draw_views
from emkd_jax.objective.next_item import PackedBatch

_ORDER, _MASKS, DROPOUT, _PIECES = range(4)  # independent streams of random numbers


class Order(NamedTuple):
    """What an epoch visits.

    Attributes:
      rows: the rows in their order.
      pieces: the piece that takes each place of the packed rows; None for windows.
    """

    rows: Int[Array, ' rows']
    pieces: Int[Array, ' places'] | None = None


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Returns the steps in which every row is seen once. The last batch may be short."""
    return -(-num_rows // batch_size)


def epoch_order(seed: UInt32[Array, ''], epoch: Int[Array, ''], rows: Windows | Packing) -> Order:
    """Returns the order of an epoch, and which piece takes each place of packed rows."""

    def keys(stream: int, count: int) -> UInt32[Array, ' count']:
        return hash_rng.fold(jnp.broadcast_to(seed, count), stream, epoch, jnp.arange(count))

    order = jnp.argsort(keys(_ORDER, len(rows))).astype(jnp.int32)
    if not isinstance(rows, Packing):
        return Order(order)
    # The pieces of each length are permuted among the places of that length.
    count = len(rows.piece_slots)
    pieces = jnp.arange(count, dtype=jnp.int32)
    sorted_by = (jnp.asarray(rows.piece_slots), keys(_PIECES, count), pieces)
    return Order(order, jax.lax.sort(sorted_by, num_keys=2)[2])


def draw_windows(
    seed: UInt32[Array, ''],
    step: Int[Array, ''],
    order: Order,
    windows: Windows,
    options: ml_collections.ConfigDict,
    num_items: int,
    batch_size: int,
    row_ids: Int[Array, ' rows'],
) -> Batch:
    """Returns the windows `row_ids` of the global batch of a step, and their masked views.

    Args:
      seed: the seed of the run.
      step: the number of the step.
      order: the order of this epoch.
      windows: all training windows.
      options: `config.objective`.
      num_items: V.
      batch_size: the number of rows of the global batch.
      row_ids: the rows of the global batch that this device computes.
    """
    places, valid = _places(step, order, batch_size, row_ids)
    row, slots = order.rows[places], windows.slots
    place = jnp.arange(slots)[None] - (slots - jnp.asarray(windows.lengths)[row, None])
    index = jnp.asarray(windows.starts)[row, None] + jnp.maximum(place, 0)
    filled = valid[:, None] & (place >= 0)
    sequences = jnp.where(filled, jnp.asarray(windows.values)[index], 0)
    key = hash_rng.fold(seed, _MASKS, step)
    views = draw_views(key, sequences, row_ids, options.num_views, num_items, options.mask_prob)
    return Batch(sequences, views, valid, row_ids)


def draw_packed(
    step: Int[Array, ''],
    order: Order,
    packing: Packing,
    batch_size: int,
    row_ids: Int[Array, ' rows'],
) -> PackedBatch:
    """Returns the packed rows `row_ids` of the global batch of a step; see `draw_windows`."""
    places, valid = _places(step, order, batch_size, row_ids)
    row = order.rows[places]
    starts, row_places = jnp.asarray(packing.row_starts), jnp.asarray(packing.row_places)
    first, number = starts[row, None], jnp.arange(packing.most)[None]
    of_row = row_places[jnp.minimum(first + number, len(row_places) - 1)]
    sizes = jnp.asarray(packing.piece_slots)[of_row]
    sizes = jnp.where(number < starts[row + 1, None] - first, sizes, 0)
    ends = jnp.cumsum(sizes, axis=1)
    slot = jnp.arange(packing.width)[None]
    filled = valid[:, None] & (slot < ends[:, -1:])
    before = (slot[..., None] >= ends[:, None]).sum(-1)  # pieces that end before the slot
    in_row = jnp.minimum(before, packing.most - 1)
    positions = slot - jnp.take_along_axis(ends - sizes, in_row, 1)
    assert order.pieces is not None
    piece = order.pieces[jnp.take_along_axis(of_row, in_row, 1)]
    index = jnp.asarray(packing.piece_starts)[piece] + positions
    values = jnp.asarray(packing.values)
    # A piece is followed by its last label, so the next value always exists where a slot is filled.
    after = values[jnp.minimum(index + 1, len(values) - 1)]
    return PackedBatch(
        items=jnp.where(filled, values[jnp.minimum(index, len(values) - 1)], 0),
        labels=jnp.where(filled, after, 0),
        segments=jnp.where(filled, before + 1, 0).astype(jnp.int32),
        ends=jnp.where(valid[:, None] & (sizes > 0), ends - 1, -1),
        row_ids=row_ids,
    )


def _places(step, order, batch_size, row_ids):
    """The place of each row in the epoch, and whether it exists in a short last batch."""
    count = len(order.rows)
    places = step % steps_per_epoch(count, batch_size) * batch_size + row_ids
    return jnp.minimum(places, count - 1), places < count
