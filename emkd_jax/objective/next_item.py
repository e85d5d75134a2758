"""The parts of EMKD for causal encoders, which predict the next item at every slot of packed rows.

What changes against the cloze objective (`emkd.py`): a slot has a label unless it is padding, so
there are no masked views. The other networks are the views of a sequence for the contrast across
networks, which needs no further pass; the contrast within a network needs a second pass with other
dropout, as in SimCSE and DuoRec.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.attributes import attribute_loss
from emkd_jax.objective.contrastive import contrastive_loss
from emkd_jax.objective.emkd import weighted_total
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.objective.item_loss import item_loss
from emkd_jax.objective.targets import Targets

PARTS = ('next_item', 'kd', 'attributes', 'icl', 'ccl')


class PackedBatch(NamedTuple):
    """One device's packed rows of the global batch.

    Attributes:
      items: the item at each slot; 0 is padding.
      labels: the item that follows each slot in its sequence; 0 at padding.
      segments: the number of the sequence at each slot, counted from 1 in each row; 0 is padding.
      ends: the last slot of each sequence of a row, and -1 where a row has fewer sequences than
        there is room for.
      row_ids: the place of each row in the global batch.
    """

    items: Int[Array, 'rows slots']
    labels: Int[Array, 'rows slots']
    segments: Int[Array, 'rows slots']
    ends: Int[Array, 'rows most']
    row_ids: Int[Array, ' rows']


def next_items(batch: PackedBatch, axis_name: str | None = None) -> tuple[Targets, Int[Array, '']]:
    """Returns the targets of all slots, and how many of them have a label on this device.

    The weight of a label is 1 / (labels in the global batch).
    """
    labels = batch.labels.reshape(-1)
    real = labels > 0
    count = real.sum()
    total = count if axis_name is None else jax.lax.psum(count, axis_name)
    return Targets(labels, jnp.where(real, 1 / jnp.maximum(total, 1).astype(float), 0)), count


def next_item_loss(
    params: PyTree,
    ensemble: Ensemble,
    options: ml_collections.ConfigDict,
    hyper: HyperParameters,
    batch: PackedBatch,
    item_attributes: Int[Array, 'items most'],
    key: UInt32[Array, ''] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Array]]:
    """Computes this device's share of the loss and its parts. Sums over devices are global values.

        total = next_item + kd_weight kd + attribute_weight attributes
                + contrast_weight (icl_weight icl + ccl_weight ccl)

    With P the labelled slots of the global batch and S the sequences that end in it,

        next_item  = sum_n mean_P ( logsumexp(z_n) - z_n[label] )
        kd         = sum_{a > b} mean_P ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2
        attributes = sum_n mean_P mean_c BCE(attributes of the label)
        icl, ccl   = as in `contrastive_loss`, with the hidden states at the ends of the S sequences

    A part is not computed if its weight is the constant 0.

    Args:
      params: parameters of the ensemble.
      ensemble: the networks.
      options: `config.objective`, which has the options that are not in `hyper`.
      hyper: the weights of the parts, and the temperature.
      batch: this device's rows.
      item_attributes: attribute ids of every item, padded with -1.
      key: hash key of the dropout of this step. None switches dropout off.
      axis_name: the pmapped axis over which the global batch is spread.

    Returns:
      The total, and a dictionary of the unweighted parts. The dictionary also has 'masked', the
      number of labels on this device, and 'overflow', which is 0.
    """
    if ensemble.one_after_another:
        ensemble, params = ensemble.apart(params)
    params = ensemble.effective(params)

    def hidden_states(copy: int) -> Float[Array, 'networks positions dim']:
        row_keys = None if key is None else hash_rng.fold(key, copy, batch.row_ids)
        states = ensemble.hidden(params, batch.items, row_keys, batch.segments)
        return states.reshape(len(states), -1, states.shape[-1])

    hidden = hidden_states(0)
    parts = dict.fromkeys(PARTS, jnp.zeros((), accumulation_dtype(hidden.dtype)))
    targets, count = next_items(batch, axis_name)
    parts['next_item'], parts['kd'] = item_loss(ensemble, params, hyper, hidden, targets)
    if not hash_rng.is_static_zero(hyper.attribute_weight):
        logits = ensemble.attribute_logits(params, hidden)
        attributes = item_attributes[targets.labels]
        parts['attributes'] = attribute_loss(logits, attributes, targets.weights)
    if not hash_rng.is_static_zero(hyper.contrast_weight):
        views = hidden if hash_rng.is_static_zero(hyper.icl_weight) else hidden_states(1)
        # There are far fewer ends than slots, and the contrast compares all of them with all.
        rows, slots = batch.items.shape
        ends = (jnp.maximum(batch.ends, 0) + slots * jnp.arange(rows)[:, None]).reshape(-1)
        parts['icl'], parts['ccl'] = contrastive_loss(
            jnp.stack([views[:, ends], hidden[:, ends]], axis=1)[..., None, :],
            batch.ends.reshape(-1) >= 0,
            hyper.temperature,
            options.self_contrast,
            axis_name,
        )
    return weighted_total(parts, 'next_item', hyper), parts | {
        'masked': count,
        'overflow': jnp.zeros((), jnp.int32),
    }
