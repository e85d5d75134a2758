"""Attribute prediction: the networks predict the attributes of the item at a position."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def multi_hot(
    attributes: Int[Array, 'positions most'], num_classes: int
) -> Bool[Array, 'positions classes']:
    """Returns True at each listed attribute. The value -1 in the lists is padding."""
    classes = jnp.arange(num_classes, dtype=attributes.dtype)[None, None, :]
    return (attributes[:, :, None] == classes).any(1)


def attribute_loss(
    logits: Float[Array, 'networks positions classes'],
    attributes: Int[Array, 'positions most'],
    weights: Float[Array, ' positions'],
) -> Float[Array, '']:
    """Computes sum_n sum_p w_p mean_c BCE(z[n, p, c], y[p, c]).

    This is multi-label binary cross-entropy. With w_p = 1 / (number of positions) it equals the
    released code's mean over positions and A + 1 classes, summed over networks.

    Args:
      logits: attribute logits of the unmasked sequence, at the positions masked in the last view.
      attributes: attribute ids of the true item at each position, padded with -1.
      weights: w, which is 0 in the unused part of the buffer.
    """
    targets = multi_hot(attributes, logits.shape[-1])[None]
    losses = jax.nn.softplus(logits) - jnp.where(targets, logits, 0)
    return (losses.mean(-1).sum(0) * weights.astype(losses.dtype)).sum()
