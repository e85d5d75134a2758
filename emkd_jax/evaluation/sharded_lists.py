"""The best items where the item tables are split: the best of each device's rows, merged.

Only the few best scores of each device are exchanged, instead of those of all items.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from emkd_jax.model.sharded_tables import AXIS, local_places


def best_of_shards(
    scores: Float[Array, 'all_rows own_classes'],
    added: Float[Array, 'rows _'],
    allowed: Bool[Array, ' classes'],
    others: Int[Array, 'rows width'],
    k: int,
) -> tuple[Float[Array, 'rows k'], Int32[Array, 'rows k']]:
    """Finds the k items that score highest and their scores, as `metrics.best_items` does.

    Args:
      scores: of the classes that this device has, for the rows of all devices in their order.
      added: what is added to the scores of this device's rows: of all classes, or a column.
      allowed: which classes may be among the items.
      others: items that are left out of this device's rows, and 0.
      k: number of items.
    """
    shards, own = jax.lax.axis_size(AXIS), scores.shape[1]
    first = jax.lax.axis_index(AXIS) * own
    beyond = shards * own - len(allowed)
    mine = jax.lax.dynamic_slice(jnp.pad(allowed.at[0].set(False), (0, beyond)), (first,), (own,))
    if added.shape[1] > 1:
        added = jnp.pad(added, ((0, 0), (0, beyond))).reshape(len(added), shards, own)
        added = jax.lax.all_to_all(jnp.moveaxis(added, 1, 0), AXIS, 0, 0).reshape(-1, own)
    else:
        added = jax.lax.all_gather(added, AXIS, tiled=True)
    scores = jnp.where(mine[None], scores + added, -jnp.inf)
    out = local_places(jax.lax.all_gather(others, AXIS, tiled=True), own)
    scores = scores.at[jnp.arange(len(scores))[:, None], out].set(-jnp.inf, mode='drop')
    best, places = jax.lax.top_k(scores, min(k, own))

    def of_own_rows(values):  # by the shards' order, so that ties still go by id
        parts = values.reshape(shards, -1, values.shape[1])
        return jnp.concatenate(list(jax.lax.all_to_all(parts, AXIS, 0, 0)), axis=1)

    best, order = jax.lax.top_k(of_own_rows(best), k)
    items = jnp.take_along_axis(of_own_rows(places + first), order, axis=1)
    return best, jnp.where(best == -jnp.inf, 0, items).astype(jnp.int32)
