"""The objective of EMKD, a weighted sum of parts, for one device's share of the global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.attributes import attribute_loss
from emkd_jax.objective.contrastive import contrastive_loss
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.objective.item_loss import item_loss
from emkd_jax.objective.masking import Views, at_positions, masked_positions

PARTS = ('masked_items', 'kd', 'attributes', 'icl', 'ccl')


class Batch(NamedTuple):
    """One device's rows of the global batch.

    Attributes:
      sequences: items, padded on the left with 0.
      views: their masked views.
      valid: False for rows that fill up a short last batch. They hold nothing but padding.
      row_ids: the place of each row in the global batch.
    """

    sequences: Int[Array, 'rows slots']
    views: Views
    valid: Bool[Array, ' rows']
    row_ids: Int[Array, ' rows']


class Capacity(NamedTuple):
    """Sizes of the buffers for the masked positions of all views, and of the last view alone."""

    all_views: int
    last_view: int


def weighted_total(
    parts: dict[str, Float[Array, '']], prediction: str, hyper: HyperParameters
) -> Float[Array, '']:
    """Returns the weighted sum of the parts; `prediction` names the one whose weight is 1."""
    return (
        parts[prediction]
        + hyper.kd_weight * parts['kd']
        + hyper.attribute_weight * parts['attributes']
        + hyper.contrast_weight
        * (hyper.icl_weight * parts['icl'] + hyper.ccl_weight * parts['ccl'])
    )


def emkd_loss(
    params: PyTree,
    ensemble: Ensemble,
    options: ml_collections.ConfigDict,
    hyper: HyperParameters,
    batch: Batch,
    item_attributes: Int[Array, 'items most'],
    capacity: Capacity,
    key: UInt32[Array, ''] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Array]]:
    """Computes this device's share of the loss and its parts. Sums over devices are global values.

        total = masked_items + kd_weight kd + attribute_weight attributes
                + contrast_weight (icl_weight icl + ccl_weight ccl)

    All views and the original sequences pass through all networks in one call. A part is not
    computed if its weight is the constant 0.

    Args:
      params: parameters of the ensemble.
      ensemble: the networks.
      options: `config.objective`, which has the options that are not in `hyper`.
      hyper: the weights of the parts, and the temperature.
      batch: this device's rows and their views.
      item_attributes: attribute ids of every item, padded with -1.
      capacity: sizes of the buffers for masked positions.
      key: hash key of the dropout of this step. None switches dropout off.
      axis_name: the pmapped axis over which the global batch is spread.

    Returns:
      The total, and a dictionary of the unweighted parts. The dictionary also has 'masked', the
      number of masked positions on this device, and 'overflow', the number of those that were left
      out because the buffers were full.
    """
    params = ensemble.effective(params)
    num_views, rows, slots = batch.views.items.shape
    items = jnp.concatenate([batch.views.items, batch.sequences[None]])
    row_keys = None
    if key is not None:
        copies = jnp.arange(num_views + 1)[:, None]
        row_keys = hash_rng.fold(key, copies, batch.row_ids[None]).reshape(-1)
    hidden = ensemble.hidden(params, items.reshape(-1, slots), row_keys)
    hidden = jax.lax.optimization_barrier(hidden)  # keeps XLA from computing it for each use

    parts = dict.fromkeys(PARTS, jnp.zeros((), accumulation_dtype(hidden.dtype)))
    masked = masked_positions(batch.views.labels, capacity.all_views, axis_name)
    row, slot, overflow = masked.row, masked.slot, masked.overflow
    has_attributes = not hash_rng.is_static_zero(hyper.attribute_weight)
    if has_attributes:
        last = masked_positions(batch.views.labels[-1:], capacity.last_view, axis_name)
        row = jnp.concatenate([row, num_views * rows + last.row])
        slot = jnp.concatenate([slot, last.slot])
        overflow = overflow + last.overflow
    hidden, chosen = at_positions(hidden, row, slot)

    parts['masked_items'], parts['kd'] = item_loss(
        ensemble, params, hyper, chosen[:, : capacity.all_views], masked.targets
    )
    if has_attributes:
        logits = ensemble.attribute_logits(params, chosen[:, capacity.all_views :])
        parts['attributes'] = attribute_loss(
            logits, item_attributes[last.targets.labels], last.targets.weights
        )
    if not hash_rng.is_static_zero(hyper.contrast_weight):
        copies = hidden.reshape(len(hidden), num_views + 1, rows, *hidden.shape[2:])
        parts['icl'], parts['ccl'] = contrastive_loss(
            copies, batch.valid, hyper.temperature, options.self_contrast, axis_name
        )
    return weighted_total(parts, 'masked_items', hyper), parts | {
        'masked': masked.count,
        'overflow': overflow,
    }
