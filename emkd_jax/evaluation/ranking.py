"""The rank of the target among the whole catalogue, under three rules of what else competes."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

# What does not compete: items visible in the input window (the released code's rule), items
# anywhere in the history, nothing. The target always competes, class 0 (padding) never.
RULES = ('window', 'history', 'none')


def target_ranks(
    scores: Shaped[Array, 'rows classes'],
    targets: Int[Array, ' rows'],
    others: Int[Array, 'rows width'],
    visible: Int[Array, ' rows'],
) -> Int[Array, 'rules rows']:
    """1 + the number of competitors that score at least as high, for each of `RULES`.

    Ties count against the target, so that constant scores do not look like hits.

    Args:
      scores: of classes 0..V; a NaN would compare false and lift the target.
      targets: the items to find, 1..V.
      others: the distinct items of the history but the target, first those in the window, then
        the others, then 0.
      visible: how many of `others` are in the window.
    """
    target_score = jnp.take_along_axis(scores, targets[:, None], 1)
    # The target scores as high as itself: that is the 1.
    ranks = (scores >= target_score)[:, 1:].sum(1, dtype=jnp.int32)
    ahead = (others > 0) & (jnp.take_along_axis(scores, others, 1) >= target_score)
    in_window = jnp.arange(others.shape[1])[None, :] < visible[:, None]
    excluded = jnp.stack([(ahead & in_window).sum(1), ahead.sum(1)]).astype(jnp.int32)
    return jnp.concatenate([ranks[None] - excluded, ranks[None]])
