"""EMKD's objective: the weighted sum of its parts, for one device's share of the global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from emkd_jax.errors import UserError
from emkd_jax.model import hash_rng as counted
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.precision import wide
from emkd_jax.objective.attributes import attribute_loss
from emkd_jax.objective.catalogue_loss import streamed_loss
from emkd_jax.objective.contrastive import contrastive_loss
from emkd_jax.objective.masking import Views, masked_positions
from emkd_jax.objective.positions import at_positions

PARTS = ('masked_items', 'kd', 'attributes', 'icl', 'ccl')

BLOCK = 1024  # classes of the catalogue that the streamed loss holds at a time


class Batch(NamedTuple):
    """One device's rows of the global batch.

    `row_ids` are the rows' places in the global batch; `valid` is False for rows that pad a short
    last batch (their sequences are all padding).
    """

    sequences: Int[Array, 'rows slots']
    views: Views
    valid: Bool[Array, ' rows']
    row_ids: Int[Array, ' rows']


class Capacity(NamedTuple):
    """Sizes of the buffers of masked positions: of all views, and of the last view alone."""

    all_views: int
    last_view: int


def check_options(options: ml_collections.ConfigDict) -> None:
    """Raises UserError where an option of `config.objective` makes no sense."""
    if options.self_contrast not in ('zero', 'excluded'):
        raise UserError(
            f"objective.self_contrast is '{options.self_contrast}'; use 'zero' or 'excluded'."
        )
    if not options.temperature > 0:
        raise UserError(f'objective.temperature is {options.temperature}; it must be positive.')
    if not 0 < options.mask_prob < 1:
        raise UserError(f'objective.mask_prob is {options.mask_prob}; it must lie in (0, 1).')
    if options.num_views < 1:
        raise UserError(f'objective.num_views is {options.num_views}; use at least 1.')


def distils(ensemble: Ensemble, options: ml_collections.ConfigDict) -> bool:
    """Whether `objective` computes 'kd'."""
    return ensemble.num_networks > 1 and not counted.is_known_zero(options.kd_weight)


def objective(
    params: PyTree,
    ensemble: Ensemble,
    options: ml_collections.ConfigDict,
    batch: Batch,
    item_attributes: Int[Array, 'items most'],
    capacity: Capacity,
    key: UInt32[Array, ''] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Array]]:
    """This device's share of the total and of its parts; sums over devices are the global values.

        total = masked_items + kd_weight kd + attribute_weight attributes
                + contrast_weight (icl_weight icl + ccl_weight ccl)

    All views and the originals go through all networks in one call.

    Args:
      params: of the ensemble.
      ensemble: the static description.
      options: `config.objective`; weights and temperature may be traced.
      batch: this device's rows and their views.
      item_attributes: attribute ids of every item, padded with -1.
      capacity: sizes of the buffers of masked positions.
      key: counted-randomness key of the step's dropout; None: no dropout.
      axis_name: the pmapped axis over which the global batch is spread.

    Returns:
      The total, and the unweighted parts by name with 'masked' (masked positions here) and
      'overflow' (those that found no place in the buffers, and so were left out).
    """
    num_views, rows, slots = batch.views.items.shape
    items = jnp.concatenate([batch.views.items, batch.sequences[None]])
    row_keys = None
    if key is not None:
        copies = jnp.arange(num_views + 1)[:, None]
        row_keys = counted.fold(key, copies, batch.row_ids[None]).reshape(-1)
    hidden = ensemble.hidden(params, items.reshape(-1, slots), row_keys)
    hidden = jax.lax.optimization_barrier(hidden)  # else XLA computes it once for each use

    parts = dict.fromkeys(PARTS, jnp.zeros((), wide(hidden.dtype)))
    masked = masked_positions(batch.views.labels, capacity.all_views, axis_name)
    row, slot, overflow = masked.row, masked.slot, masked.overflow
    has_attributes = not counted.is_known_zero(options.attribute_weight)
    if has_attributes:
        last = masked_positions(batch.views.labels[-1:], capacity.last_view, axis_name)
        row = jnp.concatenate([row, num_views * rows + last.row])
        slot = jnp.concatenate([slot, last.slot])
        overflow = overflow + last.overflow
    hidden, chosen = at_positions(hidden, row, slot)

    parts['masked_items'], parts['kd'] = streamed_loss(
        chosen[:, : capacity.all_views],
        params['item_head_kernel'],
        params['item_head_bias'],
        masked.label,
        masked.weight.astype(parts['kd'].dtype),
        options.temperature if distils(ensemble, options) else None,
        BLOCK,
    )

    if has_attributes:
        logits = ensemble.attribute_logits(params, chosen[:, capacity.all_views :])
        parts['attributes'] = attribute_loss(
            logits, item_attributes[last.label], last.weight.astype(logits.dtype)
        )

    if not counted.is_known_zero(options.contrast_weight):
        copies = hidden.reshape(len(hidden), num_views + 1, rows, *hidden.shape[2:])
        parts['icl'], parts['ccl'] = contrastive_loss(
            copies, batch.valid, options.temperature, options.self_contrast, axis_name
        )

    total = (
        parts['masked_items']
        + options.kd_weight * parts['kd']
        + options.attribute_weight * parts['attributes']
        + options.contrast_weight
        * (options.icl_weight * parts['icl'] + options.ccl_weight * parts['ccl'])
    )
    return total, parts | {'masked': masked.count, 'overflow': overflow}
