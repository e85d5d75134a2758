"""The best items for many histories, on the devices."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, PyTree

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import compute_ahead, history_batches, last_values, padded_width
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.evaluation.metrics import best_items
from emkd_jax.evaluation.scoring import axes_of
from emkd_jax.evaluation.sharded_scores import best_of_shards, own_classes
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import AXIS

_MOST_NUMBERS = 2**24  # results that a device computes at a time


class Recommender:
    """Recommends items; call it with histories. It compiles once for each of a few lengths."""

    def __init__(
        self,
        ensemble: Ensemble,
        networks: Sequence[PyTree],
        allowed: Bool[np.ndarray, ' classes'],
        k: int,
        exclude_seen: bool,
        rows: int,
        counts: CountMember | None = None,
    ):
        """Prepares the model on the devices of this process.

        Args:
          ensemble: the model.
          networks: parameters of each network whose scores are summed, on the devices.
          allowed: which classes 0..V may be recommended.
          k: number of items.
          exclude_seen: whether to leave out all items of the history, including those that are too
            old for the input of the model.
          rows: the largest number of histories that a device computes at a time.
          counts: transition counts that are added to the scores.
        """
        self._ensemble, self._networks, self._rows = ensemble, networks, rows
        self._counts = counts
        self._allowed, self._exclude_seen = allowed, exclude_seen
        k = min(k, int(allowed.sum()))
        self._best = compiled((None, 0, 0, 0), _best_items, ensemble, k)

    def __call__(
        self, histories: Ragged, progress: Callable[[int], object] = lambda count: None
    ) -> tuple[list[Int32[np.ndarray, ' _']], list[Float32[np.ndarray, ' _']]]:
        """Finds the items (best first) and their scores for each history.

        There are fewer than k items where no more are left.

        Args:
          histories: items 1..V, oldest first. A history may have any length, including 0.
          progress: called after every batch with the number of histories in it.

        Raises:
          RunError: a score is not a number.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * len(histories)

        def best(index: np.ndarray, items: np.ndarray) -> tuple[Array, Array]:
            seen = np.zeros((*index.shape, 1), np.int32)
            if self._exclude_seen:
                longest = int(histories.lengths[index[index >= 0]].max())
                seen = last_values(histories, index, padded_width(longest))
            added = count_scores(self._counts, histories, index)
            return self._best(self._networks, self._allowed, items, seen, added)

        batches = in_batches(self._ensemble, histories, best, self._rows, len(self._allowed))
        for index, (scores, items) in batches:
            if np.isnan(scores).any():
                raise RunError('The scores are not finite; the parameters are damaged.')
            for place, row, score in zip(index, items, scores, strict=True):
                left = score > -np.inf
                found[place] = row[left], score[left]
            progress(len(index))
        return [item for item, _ in found], [score for _, score in found]


def count_scores(
    counts: CountMember | None, histories: Ragged, index: Int[np.ndarray, '*rows']
) -> Float32[np.ndarray, '*rows _']:
    """What is added to the networks' scores; a column of zeros where there are no counts."""
    if counts is None:
        return np.zeros((*index.shape, 1), np.float32)
    return counts.scores(histories, index)


def in_batches(
    ensemble: Ensemble,
    histories: Ragged,
    compute: Callable[[np.ndarray, np.ndarray], PyTree],
    rows: int,
    width: int,
) -> Iterator[tuple[Int[np.ndarray, ' rows'], PyTree]]:
    """Computes something for every history, on all devices of this process.

    Args:
      ensemble: the model that reads the histories.
      histories: items 1..V, oldest first.
      compute: starts the computation of a batch, given what `history_batches` yields.
      rows: the largest number of histories that a device computes at a time.
      width: the number of results for each history.

    Yields:
      Indices of histories, and the results for them.
    """
    devices, most = jax.local_device_count(), max(1, min(rows, _MOST_NUMBERS // width))
    # Few histories get small batches, but of few sizes, since each size compiles.
    rows = 1
    while rows * devices < len(histories) and rows < most:
        rows = min(most, 8 * rows)
    network = ensemble.network
    max_len, mask_token = network.encoder.max_len, network.mask_token
    return compute_ahead(
        history_batches(histories, max_len, mask_token, devices, rows), compute, ahead=1
    )


@functools.lru_cache(8)
def compiled(
    in_axes: tuple[int | None, ...], function: Callable[..., Any], ensemble: Ensemble, *static: Any
) -> Callable[..., Any]:
    """Compiles `function(ensemble, *static, networks, ...)` for all devices, once.

    The cache is small, so that a notebook that loads many models does not keep them all.

    Args:
      in_axes: of what follows the networks' parameters.
      function: what to compile.
      ensemble, static: its first arguments.
    """
    networks = [axes_of(network) for network in ensemble.networks]
    return jax.pmap(  # type: ignore[no-any-return]
        functools.partial(function, ensemble, *static),
        AXIS,
        in_axes=(networks, *in_axes),
        devices=jax.local_devices(),
    )


def _best_items(
    ensemble: Ensemble,
    k: int,
    networks: list[PyTree],
    allowed: Bool[Array, ' classes'],
    items: Int[Array, 'rows slots'],
    seen: Int[Array, 'rows width'],
    added: Float[Array, 'rows _'],
) -> tuple[Float[Array, 'rows k'], Int[Array, 'rows k']]:
    if ensemble.shards > 1:
        own = [
            network.own_scores_of(params, items)
            for network, params in zip(ensemble.networks, networks, strict=True)
        ]
        scores = functools.reduce(jnp.add, own) + own_classes(added, own[0].shape[1])
        return best_of_shards(scores, allowed, seen, k)
    scores = jnp.where(allowed[None], ensemble.score(networks, items) + added, -jnp.inf)
    return best_items(scores, seen, k)
