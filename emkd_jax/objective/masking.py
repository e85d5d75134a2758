"""Cloze views of a batch, drawn on the device (Section 3.2 of the EMKD paper, after BERT4Rec)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from emkd_jax.model import hash_rng as counted

_CHOOSE, _KIND, _ITEM = range(3)


class Views(NamedTuple):
    """`items`: what the encoders see. `labels`: the true item at masked positions, 0 elsewhere."""

    items: Int[Array, 'views rows slots']
    labels: Int[Array, 'views rows slots']


def draw_views(
    key: UInt32[Array, ''],
    sequences: Int[Array, 'rows slots'],
    row_ids: Int[Array, ' rows'],
    num_views: int,
    num_items: int,
    mask_prob: float,
) -> Views:
    """Draws `num_views` independent cloze views of every sequence.

    Each real position is chosen with `mask_prob`; of the chosen, 80% become the mask token
    (`num_items + 1`), 10% a uniformly random item and 10% stay as they are. All of them are
    predicted. A view is a function of (key, view, row id, slot) alone.
    """
    rows, slots = sequences.shape
    view = jnp.arange(num_views)[:, None, None]
    token_keys = counted.fold(key, view, row_ids[None, :, None], jnp.arange(slots)[None, None, :])
    random = counted.bits(token_keys, 3)
    sequences = jnp.broadcast_to(sequences, (num_views, rows, slots))
    chosen = counted.bernoulli(random[..., _CHOOSE], mask_prob) & (sequences > 0)
    hidden = counted.bernoulli(random[..., _KIND], 0.8)
    replaced = counted.bernoulli(random[..., _KIND], 0.9) & ~hidden
    random_item = 1 + (random[..., _ITEM] % jnp.uint32(num_items)).astype(sequences.dtype)
    shown = jnp.where(hidden, num_items + 1, jnp.where(replaced, random_item, sequences))
    return Views(items=jnp.where(chosen, shown, sequences), labels=jnp.where(chosen, sequences, 0))


class Masked(NamedTuple):
    """The masked positions of some views, gathered into a buffer of fixed size.

    `row` counts through (views, rows). `weight` is 1 / (masked positions of the position's view in
    the global batch), so a weighted sum is a sum over views of means; it is 0 at unused places of
    the buffer. `count` positions are masked here, `overflow` of them found no place.
    """

    row: Int[Array, ' positions']
    slot: Int[Array, ' positions']
    label: Int[Array, ' positions']
    weight: Float[Array, ' positions']
    count: Int[Array, '']
    overflow: Int[Array, '']


def masked_positions(
    labels: Int[Array, 'views rows slots'], capacity: int, axis_name: str | None = None
) -> Masked:
    """Gathers the positions with a label; see `Masked`.

    Args:
      labels: true items at masked positions, 0 elsewhere: this device's rows.
      capacity: size of the buffer.
      axis_name: the pmapped axis over which the global batch is spread.
    """
    _, rows, slots = labels.shape
    flat = labels.reshape(-1)
    chosen = flat > 0
    place = jnp.where(chosen, jnp.cumsum(chosen) - 1, capacity)
    index = (
        jnp.zeros(capacity, jnp.int32)
        .at[place]
        .set(jnp.arange(flat.size, dtype=jnp.int32), mode='drop')
    )
    per_view = (labels > 0).sum((1, 2))
    count = per_view.sum()
    if axis_name is not None:
        per_view = jax.lax.psum(per_view, axis_name)
    used = jnp.arange(capacity) < count
    view = index // (rows * slots)
    weight = jnp.where(used, 1 / jnp.maximum(per_view, 1).astype(float)[view], 0)
    return Masked(
        row=index // slots,
        slot=index % slots,
        label=jnp.where(used, flat[index], 0),
        weight=weight,
        count=count,
        overflow=jnp.maximum(count - capacity, 0),
    )


def buffer_capacity(lengths: np.ndarray, rows: int, num_views: int, mask_prob: float) -> int:
    """A size that masked positions of `rows` random windows, `num_views` times, do not exceed.

    Six standard deviations above the mean number of masked positions (a chance below 1e-6 a
    step), rounded up to a multiple of 128, and never more than could be masked at all.

    Args:
      lengths: real positions of each training window.
      rows: sequences a device sees at a time.
    """
    mean = rows * num_views * mask_prob * lengths.mean()
    variance = rows * num_views * mask_prob * (1 - mask_prob) * lengths.mean()
    variance += rows * (num_views * mask_prob) ** 2 * lengths.var()
    most = rows * num_views * int(lengths.max())
    return min(-(-math.ceil(mean + 6 * math.sqrt(variance)) // 128) * 128, most)
