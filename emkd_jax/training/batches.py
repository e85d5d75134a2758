"""The batch of each step, drawn on the devices from the seed and the number of the step.

Training rows lie on the devices. The order of an epoch is a hash of the seed and the epoch, so a
batch is a few rows of it, gathered by index.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Int, UInt32

from emkd_jax.data.packing import Packing
from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.layers import segment_starts
from emkd_jax.objective.emkd import Batch
from emkd_jax.objective.masking import draw_views
from emkd_jax.objective.next_item import PackedBatch

_ORDER, _MASKS, DROPOUT, _PIECES = range(4)  # independent streams of random numbers

Windows = Int[Array | np.ndarray, 'windows slots']  # items, padded on the left with 0


class Order(NamedTuple):
    """What an epoch visits.

    Attributes:
      rows: the rows in their order.
      pieces: the piece that takes each place of the packed rows; None for windows.
    """

    rows: Int[Array, ' rows']
    pieces: Int[Array, ' places'] | None = None


def num_rows(rows: Windows | Packing) -> int:
    """Returns the number of rows that an epoch visits."""
    return len(rows.slot_places) if isinstance(rows, Packing) else len(rows)


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Returns the steps in which every row is seen once. The last batch may be short."""
    return -(-num_rows // batch_size)


def epoch_order(seed: UInt32[Array, ''], epoch: Int[Array, ''], rows: Windows | Packing) -> Order:
    """Returns the order of an epoch, and which piece takes each place of packed rows."""

    def keys(stream: int, count: int) -> UInt32[Array, ' count']:
        return hash_rng.fold(jnp.broadcast_to(seed, count), stream, epoch, jnp.arange(count))

    order = jnp.argsort(keys(_ORDER, num_rows(rows))).astype(jnp.int32)
    if not isinstance(rows, Packing):
        return Order(order)
    # The pieces of each length are permuted among the places of that length.
    count = len(rows.piece_groups)
    pieces = jnp.arange(count, dtype=jnp.int32)
    sorted_by = (jnp.asarray(rows.piece_groups), keys(_PIECES, count), pieces)
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
    chosen = jnp.asarray(windows)[order.rows[places]].astype(jnp.int32)
    sequences = jnp.where(valid[:, None], chosen, 0)
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
    slot_places = jnp.asarray(packing.slot_places)[row]
    filled = valid[:, None] & (slot_places >= 0)
    assert order.pieces is not None
    piece = order.pieces[jnp.maximum(slot_places, 0)]
    positions = jnp.asarray(packing.slot_positions)[row]
    index = jnp.asarray(packing.piece_starts)[piece] + positions
    values = jnp.asarray(packing.values)
    # A piece is followed by its last label, so the next value always exists where a slot is filled.
    after = values[jnp.minimum(index + 1, len(values) - 1)]
    # Two neighbours of one piece have the same place, so a new place starts a segment.
    segments = jnp.cumsum(segment_starts(slot_places), axis=1)
    return PackedBatch(
        items=jnp.where(filled, values[index], 0),
        labels=jnp.where(filled, after, 0),
        segments=jnp.where(filled, segments, 0),
        row_ids=row_ids,
    )


def _places(step, order, batch_size, row_ids):
    """The place of each row in the epoch, and whether it exists in a short last batch."""
    count = len(order.rows)
    places = step % steps_per_epoch(count, batch_size) * batch_size + row_ids
    return jnp.minimum(places, count - 1), places < count
