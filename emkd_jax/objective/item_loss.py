"""The prediction of items and the distillation, by whichever way fits device and catalogue."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.catalogue_loss import BLOCK, catalogue_loss
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.objective.kept_cross_entropy import keeps_exponentials, kept_cross_entropy
from emkd_jax.objective.sharded_loss import sharded_catalogue_loss
from emkd_jax.objective.targets import Targets

_FAST_LOGITS = 48e6  # bytes of logits in float32 that the fast memory of a TPU holds
_FEWEST = 256  # classes: with fewer, XLA moves other arrays out of it


def distils(ensemble: Ensemble, hyper: HyperParameters) -> bool:
    """Returns whether the networks teach each other."""
    return ensemble.num_networks > 1 and not hash_rng.is_static_zero(hyper.kd_weight)


def item_loss(
    ensemble: Ensemble,
    params: PyTree,
    hyper: HyperParameters,
    hidden: Float[Array, 'networks positions dim'],
    targets: Targets,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes cross-entropy and distillation; see `catalogue_loss`. Without weight, it is 0.

    Args:
      ensemble: the networks.
      params: their effective parameters.
      hyper: the weight of distillation, and the temperature.
      hidden: hidden states at the positions that have labels.
      targets: the labels of the positions, and their weights.
    """
    targets = targets.astype(accumulation_dtype(hidden.dtype))
    positions, arrays = hidden.shape[1], (hidden, ensemble.item_heads(params), targets)
    distilled = distils(ensemble, hyper)
    temperature = hyper.temperature if distilled else None
    block = block_size(ensemble, positions)
    if ensemble.shards > 1:
        classes = ensemble.network.num_items + 1
        return sharded_catalogue_loss(*arrays, temperature, classes, block)
    if keeps_exponentials(ensemble, positions, distilled):
        cross_entropy = kept_cross_entropy(*arrays)
        return cross_entropy, jnp.zeros_like(cross_entropy)
    return catalogue_loss(*arrays, temperature, block)


def block_size(ensemble: Ensemble, positions: int) -> int:
    """Returns how many classes of the catalogue the loss visits at a time.

    Where there is a fast memory, as many as leave the logits of a block in it, as a power of 2.

    Args:
      ensemble: the networks.
      positions: labelled positions of one device; one with a share of the classes visits them for
        the positions of all.
    """
    if not ensemble.network.encoder.fast_memory:
        return BLOCK
    of_a_class = 4 * ensemble.num_networks * positions * ensemble.shards
    most = max(_FAST_LOGITS / of_a_class, 1)
    return min(BLOCK, max(_FEWEST, 2 ** int(math.log2(most))))
