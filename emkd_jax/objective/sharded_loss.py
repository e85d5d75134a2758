"""The loss over the catalogue where the rows of the item heads are split over the devices.

Each device visits its own classes, for the labelled positions of all devices. Maxima and sums over
its classes meet those of the other devices in two collectives in the forward pass; the gradients of
the hidden states meet in one in the backward pass. No device holds a whole item head, its gradient,
or an array of (positions x catalogue). The formulas are those of `catalogue_loss`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.model.sharded_tables import AXIS, sum_of_own
from emkd_jax.objective.catalogue_loss import (
    catalogue_gradients,
    catalogue_sums,
    losses_of,
    normalisers,
)
from emkd_jax.objective.targets import Targets

_NO_CLASS = -1e30  # the logit of rows behind the last class: finite, so that N z_n - S is


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def sharded_catalogue_loss(
    hidden: Float[Array, 'networks positions dim'],
    heads: ItemHeads,
    targets: Targets,
    temperature: float | Float[Array, ''] | None,
    num_classes: int,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes this device's share of `catalogue_loss`; sums over the devices are the loss.

    The gradients of the item heads are those of the global batch, so that they must not be summed
    over the devices again; those of the hidden states are complete, too. The factors by which the
    two losses enter the total must be the same on all devices.

    Args:
      hidden, targets: of this device's positions, as many as on every other device.
      heads: this device's rows of the item heads.
      temperature, block: as in `catalogue_loss`.
      num_classes: the number of classes of the whole catalogue.
    """
    return _forward(hidden, heads, targets, temperature, num_classes, block)[0]


def _forward(hidden, heads, targets, temperature, num_classes, block):
    device, own, rows = jax.lax.axis_index(AXIS), len(targets.labels), heads.bias.shape[1]
    all_hidden = jax.lax.all_gather(hidden, AXIS, axis=1, tiled=True)
    labels, weights = (jax.lax.all_gather(x, AXIS, tiled=True) for x in targets)
    # A label that another device has is below 0 or behind the last row, and no class hits it.
    all_targets = Targets(labels - device * rows, weights)
    there = device * rows + jnp.arange(rows) < num_classes
    heads = heads._replace(bias=jnp.where(there, heads.bias, _NO_CLASS))
    top, *sums = catalogue_sums(all_hidden, heads, all_targets.labels, temperature, block)
    highest = jax.lax.pmax(top, AXIS)
    shrink = jnp.exp(top - highest)
    sums[0] *= shrink
    if temperature is not None:
        shrink_soft = jnp.exp((top - highest) / temperature)
        sums[2] *= shrink_soft
        sums[3] *= shrink_soft
    sums = (highest, *jax.lax.psum(sums, AXIS))
    lses = normalisers(sums, temperature)
    kept = (all_hidden, heads, all_targets, temperature, lses)

    def of_own(array):
        return jax.lax.dynamic_slice_in_dim(array, device * own, own, axis=1)

    own_lses = [lse if lse is None else of_own(lse) for lse in lses]
    return losses_of([of_own(s) for s in sums], own_lses, targets.weights, temperature), kept


def _backward(num_classes, block, kept, cotangents):
    d_hidden, d_heads = catalogue_gradients(block, kept, cotangents)
    return sum_of_own(d_hidden).astype(kept[0].dtype), d_heads, None, None


sharded_catalogue_loss.defvjp(_forward, _backward)
