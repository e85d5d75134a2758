"""Ranks and best items where the item tables are split, so that each device scores its own items.

The devices score the rows of all of them together, and exchange what they find for each row instead
of the scores of all items. Each then has the results for its own rows.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from emkd_jax.model.sharded_tables import AXIS, local_places

_gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)


def own_classes(values: Float[Array, 'rows _'], own: int) -> Float[Array, 'all_rows _']:
    """Exchanges values of all classes for this device's rows by those of its classes for all rows.

    Args:
      values: of the classes 0..V, or a column that stands for all of them.
      own: how many classes each device has.
    """
    if values.shape[1] == 1:
        return _gather(values)
    shards = jax.lax.axis_size(AXIS)
    beyond = shards * own - values.shape[1]
    values = jnp.pad(values, ((0, 0), (0, beyond)))
    parts = jnp.moveaxis(values.reshape(len(values), shards, own), 1, 0)
    return jax.lax.all_to_all(parts, AXIS, 0, 0).reshape(-1, own)


def finite_rows(scores: Float[Array, 'all_rows own_classes']) -> Bool[Array, ' rows']:
    """Returns for each row of this device whether all its scores are finite, on every device."""
    finite = jax.lax.pmin(jnp.isfinite(scores).all(1).astype(jnp.int32), AXIS)
    return _own_rows(finite) > 0


def ranks_of_shards(
    scores: Float[Array, 'all_rows own_classes'],
    targets: Int[Array, ' rows'],
    others: Int[Array, 'rows width'],
    visible: Int[Array, ' rows'],
    num_items: int,
) -> Int[Array, 'rules rows']:
    """Ranks each target of this device's rows, as `metrics.target_ranks` does.

    Args:
      scores: of the classes that this device has, for the rows of all devices in their order.
      targets, others, visible: of this device's rows; see `metrics.target_ranks`.
      num_items: V; the classes are 0..V.
    """
    own = scores.shape[1]
    targets, others, visible = _gather(targets), _gather(others), _gather(visible)
    rows = jnp.arange(len(scores))[:, None]
    found = scores.at[rows, local_places(targets, own)[:, None]].get(mode='fill', fill_value=0)
    target_score = jax.lax.psum(found, AXIS)
    classes = jax.lax.axis_index(AXIS) * own + jnp.arange(own)
    of_items = (classes > 0) & (classes <= num_items)
    competes = of_items[None] & (classes[None] != targets[:, None])
    # A class of another device is not ahead here.
    of_others = scores.at[rows, local_places(others, own)].get(mode='fill', fill_value=-jnp.inf)
    ahead = (others > 0) & (of_others >= target_score)
    in_window = jnp.arange(others.shape[1])[None, :] < visible[:, None]
    counts = [(scores >= target_score) & competes, ahead & in_window, ahead]
    counts = jnp.stack([count.sum(1, dtype=jnp.int32) for count in counts])
    at_least, in_window, in_history = _own_rows(jax.lax.psum(counts, AXIS))
    ranks = 1 + at_least
    return jnp.stack([ranks - in_window, ranks - in_history, ranks])


def best_of_shards(
    scores: Float[Array, 'all_rows own_classes'],
    allowed: Bool[Array, ' classes'],
    others: Int[Array, 'rows width'],
    k: int,
) -> tuple[Float[Array, 'rows k'], Int32[Array, 'rows k']]:
    """Finds the k items that score highest and their scores, as `metrics.best_items` does.

    Args:
      scores: of the classes that this device has, for the rows of all devices in their order.
      allowed: which classes may be among the items.
      others: items that are left out of this device's rows, and 0.
      k: number of items.
    """
    shards, own = jax.lax.axis_size(AXIS), scores.shape[1]
    first = jax.lax.axis_index(AXIS) * own
    allowed = jnp.pad(allowed.at[0].set(False), (0, shards * own - len(allowed)))
    mine = jax.lax.dynamic_slice(allowed, (first,), (own,))
    scores = jnp.where(mine[None], scores, -jnp.inf)
    out = local_places(_gather(others), own)
    scores = scores.at[jnp.arange(len(scores))[:, None], out].set(-jnp.inf, mode='drop')
    best, places = jax.lax.top_k(scores, min(k, own))

    def of_own_rows(values):  # by the shards' order, so that ties still go by id
        parts = values.reshape(shards, -1, values.shape[1])
        return jnp.concatenate(list(jax.lax.all_to_all(parts, AXIS, 0, 0)), axis=1)

    best, order = jax.lax.top_k(of_own_rows(best), k)
    items = jnp.take_along_axis(of_own_rows(places + first), order, axis=1)
    return best, jnp.where(best == -jnp.inf, 0, items).astype(jnp.int32)


def _own_rows(values: Int[Array, '*lead all_rows']) -> Int[Array, '*lead rows']:
    rows = values.shape[-1] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(AXIS) * rows, rows, -1)
