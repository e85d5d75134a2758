"""How differently the networks of an ensemble recommend."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from emkd_jax.data.dataset import Holdout
from emkd_jax.evaluation.batches import last_values
from emkd_jax.model.ensemble import Ensemble

_TOP = 10
_USERS = 512
_LOGITS = 2**25  # of all networks together, at most


class Diversity:
    """Overlap and divergence of the networks' recommendations to some held-out users.

    Call it with parameters. 'overlap@10' is the share of the best 10 items of a network that
    another one has among its own, 'kl' the Kullback-Leibler divergence of their softmaxes in nats;
    both are means over ordered pairs of networks and over users. One network alone has neither.
    """

    def __init__(self, ensemble: Ensemble, holdout: Holdout):
        """Chooses users evenly from `holdout`."""
        network = ensemble.network
        most = min(_USERS, max(1, _LOGITS // (ensemble.num_networks * (network.num_items + 1))))
        count = len(holdout.targets)
        chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
        max_len = network.encoder.max_len
        self._items = np.full((len(chosen), max_len), network.mask_token, np.int32)
        self._items[:, :-1] = last_values(holdout.histories, chosen, max_len - 1)
        self._compare = jax.jit(lambda params, items: _compare(ensemble, params, items))
        self._alone = ensemble.num_networks == 1

    def __call__(self, params: PyTree[Float[Array, 'networks ...']]) -> dict[str, float]:
        """Overlap and divergence with these parameters."""
        if self._alone:
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
