"""How much the recommendations of an ensemble's networks differ."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from emkd_jax.data.dataset import Holdout
from emkd_jax.evaluation.batches import model_inputs
from emkd_jax.model.ensemble import Ensemble

_TOP = 10
_MOST_USERS = 512
_MOST_LOGITS = 2**25  # of all networks together


class Diversity:
    """Overlap and divergence of the networks' recommendations to some held-out users.

    Call it with parameters. 'overlap@10' is the share of a network's best 10 items that are among
    the best 10 of another network. 'kl' is the Kullback-Leibler divergence of their softmaxes, in
    nats. Both are means over ordered pairs of networks and over users. There is neither for a
    single network.
    """

    def __init__(self, ensemble: Ensemble, holdout: Holdout):
        """Chooses users from `holdout` at even distances."""
        network, count = ensemble.network, len(holdout.targets)
        most = _MOST_LOGITS // (ensemble.num_networks * (network.num_items + 1))
        most = min(_MOST_USERS, max(1, most), count)
        users = np.unique(np.linspace(0, count - 1, most).astype(int))
        slots = network.encoder.max_len
        self._items = model_inputs(holdout.histories, users, slots, network.mask_token)
        self._compare = jax.jit(lambda params, items: _compare(ensemble, params, items))
        self._single = ensemble.num_networks == 1

    def __call__(self, params: PyTree[Float[Array, '_ ...']]) -> dict[str, float]:
        """Overlap and divergence with these parameters."""
        if self._single:
            return {}
        overlap, divergence = jax.device_get(self._compare(params, self._items))
        return {f'overlap@{_TOP}': float(overlap), 'kl': float(divergence)}


def _compare(
    ensemble: Ensemble, params: PyTree, items: Int[Array, 'users slots']
) -> tuple[Float[Array, ''], Float[Array, '']]:
    logits = jnp.stack(ensemble.scores(ensemble.split(params), items))[..., 1:]
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    best = jax.lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]
    overlaps, divergences = [], []
    for a, b in itertools.permutations(range(len(logits)), 2):
        overlaps.append((best[a][:, :, None] == best[b][:, None]).any(-1).mean())
        divergences.append((p[a] * (log_p[a] - log_p[b])).sum(-1).mean())
    return sum(overlaps) / len(overlaps), sum(divergences) / len(divergences)
