"""The best items for a few requests at a time, with few shapes, since each shape compiles once."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import last_values, model_inputs, padded_width
from emkd_jax.evaluation.metrics import best_items
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.serving.model import Model
from emkd_jax.serving.recommender import count_scores

MOST_HISTORY = 1000  # items of a history in a request; users of the data may have longer ones
MOST_K = 1000
_ROWS = (1, 8, 32)  # histories that are computed at a time
_MOST_SCORES = 2**25  # rows times classes
_FEWEST_K = 16


class Query(NamedTuple):
    """What is asked.

    Attributes:
      history: items 1..V, the oldest first.
      k: number of items to recommend.
      exclude_seen: whether to leave out the items of the history.
      each_network: whether the items that each network alone recommends are wanted too.
    """

    history: Int[np.ndarray, ' length']
    k: int
    exclude_seen: bool = True
    each_network: bool = False


class Best(NamedTuple):
    """Recommended items 1..V, the best first, and their scores."""

    items: Int[np.ndarray, ' found']
    scores: Float[np.ndarray, ' found']


class Scorer:
    """Answers queries on one device. The first call with a shape compiles it."""

    def __init__(self, model: Model):
        """Copies the parameters to the device."""
        self._model = model
        self._ensemble, params = model.ensemble.with_effective(model.params)
        networks = self._ensemble.split(params)
        self._networks = jax.device_put(networks, jax.local_devices()[0])
        classes = len(model.item_ids) + 1
        self.rows = [rows for rows in _ROWS if rows == 1 or rows * classes <= _MOST_SCORES]

    @property
    def most(self) -> int:
        """The number of queries that are computed at a time."""
        return self.rows[-1]

    def warm_up(self) -> None:
        """Compiles what usual queries need."""
        history = np.ones(1, np.int32)
        for rows in self.rows:
            self([Query(history, 1)] * rows)
        self([Query(history, 1, each_network=True)])

    def __call__(self, queries: Sequence[Query]) -> list[list[Best]]:
        """Answers up to `most` queries: the ensemble first, and then each network if it is wanted.

        Raises:
          RunError: a score is not finite.
        """
        count = next(rows for rows in self.rows if rows >= len(queries))
        each = any(query.each_network for query in queries)
        k = self._rounded(max(query.k for query in queries))
        histories = Ragged.from_rows([query.history for query in queries])
        index = np.full(count, -1)
        index[: len(queries)] = np.arange(len(queries))
        network = self._ensemble.network
        items = model_inputs(histories, index, network.encoder.max_len, network.mask_token)
        longest = int(histories.lengths.max())
        width = MOST_HISTORY if longest <= MOST_HISTORY else padded_width(longest)
        seen = last_values(histories, index, width)
        seen[: len(queries)][[not query.exclude_seen for query in queries]] = 0
        added = count_scores(self._model.counts, histories, index)
        compute = _compiled(self._ensemble, k, each)
        scores, found = jax.device_get(compute(self._networks, items, seen, added))
        if np.isnan(scores).any():
            raise RunError('The scores are not finite; the parameters are damaged.')
        return [
            [
                _first(found[scorer, row], scores[scorer, row], query.k)
                for scorer in range(len(found) if query.each_network else 1)
            ]
            for row, query in enumerate(queries)
        ]

    def _rounded(self, k: int) -> int:
        rounded = _FEWEST_K
        while rounded < k:
            rounded *= 8
        return min(rounded, len(self._model.item_ids))


def _first(items: np.ndarray, scores: np.ndarray, k: int) -> Best:
    real = items[:k] > 0
    return Best(items[:k][real], scores[:k][real])


@functools.lru_cache(16)
def _compiled(ensemble, k, each):
    return jax.jit(functools.partial(_best, ensemble, k, each))


def _best(
    ensemble: Ensemble,
    k: int,
    each: bool,
    networks: list[PyTree],
    items: Int[Array, 'rows slots'],
    seen: Int[Array, 'rows width'],
    added: Float[Array, 'rows _'],
) -> tuple[Float[Array, 'scorers rows k'], Int[Array, 'scorers rows k']]:
    scores = ensemble.scores(networks, items)
    together = functools.reduce(jnp.add, scores) + added
    found = [best_items(s, seen, k) for s in [together, *(scores if each else [])]]
    best_scores, best = zip(*found, strict=True)
    return jnp.stack(best_scores), jnp.stack(best)
