"""Masked views of a batch, drawn on the device, and their masked positions in one buffer.

Section 3.2 of the EMKD paper describes them; they follow the cloze task of BERT4Rec.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.objective.targets import Targets

_CHOOSE, _KIND, _ITEM = range(3)


class Views(NamedTuple):
    """Masked views of a batch of sequences.

    Attributes:
      items: the input of the encoders.
      labels: the true item at each masked position, and 0 elsewhere.
    """

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
    """Draws `num_views` independent masked views of every sequence.

    Each real position is chosen with probability `mask_prob`, and the model predicts the item of
    every chosen position. Of the chosen items, 80% become the mask token (`num_items + 1`), 10%
    become a uniformly random item, and 10% stay as they are. The draw at a position depends only on
    (key, view, row id, slot).

    Args:
      key: key of the step.
      sequences: items 1..num_items, padded on the left with 0.
      row_ids: the place of each row in the global batch.
      num_views: M.
      num_items: V.
      mask_prob: probability that a real position is chosen.
    """
    rows, slots = sequences.shape
    view = jnp.arange(num_views)[:, None, None]
    token_keys = hash_rng.fold(key, view, row_ids[None, :, None], jnp.arange(slots)[None, None, :])
    random = hash_rng.bits(token_keys, 3)
    sequences = jnp.broadcast_to(sequences, (num_views, rows, slots))
    chosen = hash_rng.bernoulli(random[..., _CHOOSE], mask_prob) & (sequences > 0)
    hidden = hash_rng.bernoulli(random[..., _KIND], 0.8)
    replaced = hash_rng.bernoulli(random[..., _KIND], 0.9) & ~hidden
    random_item = 1 + (random[..., _ITEM] % jnp.uint32(num_items)).astype(sequences.dtype)
    shown = jnp.where(hidden, num_items + 1, jnp.where(replaced, random_item, sequences))
    return Views(items=jnp.where(chosen, shown, sequences), labels=jnp.where(chosen, sequences, 0))


class Masked(NamedTuple):
    """The masked positions of some views, in a buffer of fixed size.

    Attributes:
      row: the row of each position, where rows are counted through (views, rows).
      slot: the slot of each position.
      targets: the true items. Their weights are 1 / (masked positions of the view in the global
        batch), so that a weighted sum is a sum over views of means, and 0 in the unused part of the
        buffer.
      count: the number of masked positions on this device.
      overflow: the number of masked positions that did not fit in the buffer.
    """

    row: Int[Array, ' positions']
    slot: Int[Array, ' positions']
    targets: Targets
    count: Int[Array, '']
    overflow: Int[Array, '']


def masked_positions(
    labels: Int[Array, 'views rows slots'], capacity: int, axis_name: str | None = None
) -> Masked:
    """Gathers the positions that have a label.

    Args:
      labels: the true items at the masked positions of this device's rows, and 0 elsewhere.
      capacity: the size of the buffer.
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
    weights = jnp.where(used, 1 / jnp.maximum(per_view, 1).astype(float)[view], 0)
    return Masked(
        row=index // slots,
        slot=index % slots,
        targets=Targets(jnp.where(used, flat[index], 0), weights),
        count=count,
        overflow=jnp.maximum(count - capacity, 0),
    )


def buffer_capacity(lengths: np.ndarray, rows: int, num_views: int, mask_prob: float) -> int:
    """Returns a buffer size that the masked positions of `rows` windows do not exceed.

    The size is six standard deviations above the mean number of masked positions, so that a step
    exceeds it with a probability below 1e-6. It is rounded up to a multiple of 128, and is at most
    the number of positions that exist.

    Args:
      lengths: the number of real positions in each training window.
      rows: the number of sequences that a device sees at a time.
    """
    mean = rows * num_views * mask_prob * lengths.mean()
    variance = rows * num_views * mask_prob * (1 - mask_prob) * lengths.mean()
    variance += rows * (num_views * mask_prob) ** 2 * lengths.var()
    most = rows * num_views * int(lengths.max())
    return min(-(-math.ceil(mean + 6 * math.sqrt(variance)) // 128) * 128, most)


@jax.custom_vjp
def at_positions(
    hidden: Float[Array, 'networks rows slots dim'],
    row: Int[Array, ' positions'],
    slot: Int[Array, ' positions'],
) -> tuple[Float[Array, 'networks rows slots dim'], Float[Array, 'networks positions dim']]:
    """Returns (hidden, hidden[:, row, slot]).

    Callers must go on with the returned `hidden`. The gradient of the positions is then added to
    its gradient in place, instead of being scattered into a new array of zeros.
    """
    return hidden, hidden[_index(hidden, row, slot)]


def _index(hidden, row, slot):
    return jnp.arange(len(hidden))[:, None], row[None], slot[None]


def _forward(hidden, row, slot):
    return at_positions(hidden, row, slot), (row, slot)


def _backward(indices, gradients):
    hidden_grad, chosen_grad = gradients
    index = _index(hidden_grad, *indices)
    summed = hidden_grad.at[index].add(chosen_grad)
    no_gradient = np.zeros(indices[0].shape, jax.dtypes.float0)
    return summed, no_gradient, no_gradient


at_positions.defvjp(_forward, _backward)
