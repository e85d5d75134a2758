"""How much the recommendations of an ensemble's networks differ."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from emkd_jax.data.dataset import Holdout
from emkd_jax.evaluation.batches import model_inputs
from emkd_jax.evaluation.scoring import Scorer, scoring_devices
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import of_all_devices, own_places

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
        self._devices, self._num_users = scoring_devices(ensemble), len(users)
        spread = np.append(users, np.full(-len(users) % len(self._devices), -1))
        self._items = model_inputs(
            holdout.histories,
            spread.reshape(len(self._devices), -1)[own_places(self._devices)],
            slots,
            network.mask_token,
        )
        self._score = Scorer(ensemble, self._devices)
        self._single = ensemble.num_networks == 1

    def __call__(self, params: PyTree[Float[Array, '_ ...']]) -> dict[str, float]:
        """Overlap and divergence with these parameters."""
        if self._single:
            return {}
        scores = self._score(self._score.networks(params), self._items)
        if len(own_places(self._devices)) < len(self._devices):
            scores = [of_all_devices(jax.device_get(s), self._devices) for s in scores]
        scores = jax.device_get(scores)
        logits = np.stack([s.reshape(-1, s.shape[-1])[: self._num_users, 1:] for s in scores])
        overlap, divergence = jax.device_get(_compare(logits))
        return {f'overlap@{_TOP}': float(overlap), 'kl': float(divergence)}


@jax.jit
def _compare(
    logits: Float[Array, 'networks users items'],
) -> tuple[Float[Array, ''], Float[Array, '']]:
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    best = jax.lax.top_k(logits, min(_TOP, logits.shape[-1]))[1]
    overlaps, divergences = [], []
    for a, b in itertools.permutations(range(len(logits)), 2):
        overlaps.append((best[a][:, :, None] == best[b][:, None]).any(-1).mean())
        divergences.append((p[a] * (log_p[a] - log_p[b])).sum(-1).mean())
    return sum(overlaps) / len(overlaps), sum(divergences) / len(divergences)
