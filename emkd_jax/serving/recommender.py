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
from emkd_jax.evaluation.batches import history_batches, last_values, padded_width
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import AXIS

_NUMBERS = 2**24  # that a device computes at a time, at most


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
    ):
        """Prepares the model on the devices of this process.

        Args:
          ensemble: the model.
          networks: parameters of each network whose scores are summed, on the devices.
          allowed: which classes 0..V may be recommended.
          k: number of items.
          exclude_seen: whether to leave out every item of the history, also those beyond what the
            model sees.
          rows: number of histories that a device computes at a time, at most.
        """
        self._ensemble, self._networks, self._rows = ensemble, networks, rows
        self._allowed, self._exclude_seen = allowed, exclude_seen
        k = min(k, int(allowed.sum()))
        self._best = compiled((None, None, 0, 0), _best_items, ensemble, k)

    def __call__(
        self, histories: Ragged, progress: Callable[[int], object] = lambda count: None
    ) -> tuple[list[Int32[np.ndarray, ' _']], list[Float32[np.ndarray, ' _']]]:
        """Items (best first) and scores for each history; fewer than k where no more are left.

        Args:
          histories: items 1..V, oldest first, of any length, also 0.
          progress: called after every batch with the number of histories in it.

        Raises:
          RunError: a score is not a number.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * len(histories)

        def best(places: np.ndarray, items: np.ndarray) -> tuple[Array, Array]:
            seen = np.zeros((*places.shape, 1), np.int32)
            if self._exclude_seen:
                longest = int(histories.lengths[places[places >= 0]].max())
                seen = last_values(histories, places, padded_width(longest))
            return self._best(self._networks, self._allowed, items, seen)

        answers = in_batches(self._ensemble, histories, best, self._rows, len(self._allowed))
        for places, (scores, items) in answers:
            if np.isnan(scores).any():
                raise RunError('The scores are not finite; the parameters are damaged.')
            for place, row, score in zip(places, items, scores, strict=True):
                left = score > -np.inf
                found[place] = row[left], score[left]
            progress(len(places))
        return [item for item, _ in found], [score for _, score in found]


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
      compute: dispatches a batch, given the places of its rows and its items as `history_batches`
        gives them.
      rows: number of histories that a device computes at a time, at most.
      width: numbers that it computes for each.

    Yields:
      Places in `histories`, and the results for them, while the devices work on the next batch.
    """
    devices, most = jax.local_device_count(), max(1, min(rows, _NUMBERS // width))
    rows = 1
    while rows * devices < len(histories) and rows < most:
        rows = min(most, 8 * rows)  # few rows for few histories, but few sizes, as each compiles
    max_len, mask_token = ensemble.network.encoder.max_len, ensemble.network.mask_token
    in_flight: list[tuple[np.ndarray, PyTree]] = []
    for places, items in history_batches(histories, max_len, mask_token, devices, rows):
        in_flight.append((places, compute(places, items)))
        if len(in_flight) > 1:
            yield _real(*in_flight.pop(0))
    if in_flight:
        yield _real(*in_flight.pop())


def _real(places: np.ndarray, results: PyTree) -> tuple[np.ndarray, PyTree]:
    real = places >= 0
    return places[real], jax.tree.map(lambda result: np.asarray(result)[real], results)


@functools.lru_cache(8)
def compiled(
    in_axes: tuple[int | None, ...], function: Callable[..., Any], *static: Any
) -> Callable[..., Any]:
    """`function(*static, ...)` on all devices of this process, so that each compiles once.

    The cache is small: a notebook that loads many models does not keep all of them alive.
    """
    return jax.pmap(  # type: ignore[no-any-return]
        functools.partial(function, *static), AXIS, in_axes=in_axes, devices=jax.local_devices()
    )


def _best_items(
    ensemble: Ensemble,
    k: int,
    networks: list[PyTree],
    allowed: Bool[Array, ' classes'],
    items: Int[Array, 'rows slots'],
    seen: Int[Array, 'rows width'],
) -> tuple[Float[Array, 'rows k'], Int[Array, 'rows k']]:
    scores = sum(ensemble.scores(networks, items))
    scores = jnp.where(allowed[None], scores, -jnp.inf)
    scores = scores.at[jnp.arange(len(items))[:, None], seen].set(-jnp.inf)
    best_scores, best = jax.lax.top_k(scores, k)
    return best_scores, best
