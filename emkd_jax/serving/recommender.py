"""The best items for many histories, on the devices."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, PyTree

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import history_batches, last_values, padded_width
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import AXIS

_SCORES = 2**24  # of a batch, at most; a device holds them at a time


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
        self._network = ensemble.network
        self._devices = tuple(jax.local_devices())
        self._rows = max(1, min(rows, _SCORES // len(allowed)))
        self._networks, self._allowed, self._exclude_seen = networks, allowed, exclude_seen
        self._best = _compiled(ensemble, min(k, int(allowed.sum())), self._devices)

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
        in_flight = None
        max_len, mask_token = self._network.encoder.max_len, self._network.mask_token
        devices = len(self._devices)
        rows = rows_at_a_time(len(histories), devices, self._rows)
        for places, items in history_batches(histories, max_len, mask_token, devices, rows):
            seen = np.zeros((*places.shape, 1), np.int32)
            if self._exclude_seen:
                longest = int(histories.lengths[places[places >= 0]].max())
                seen = last_values(histories, places, padded_width(longest))
            dispatched = places, self._best(self._networks, self._allowed, items, seen)
            if in_flight:
                self._read(found, progress, *in_flight)
            in_flight = dispatched
        if in_flight:
            self._read(found, progress, *in_flight)
        return [item for item, _ in found], [score for _, score in found]

    @staticmethod
    def _read(
        found: list[tuple[np.ndarray, np.ndarray]],
        progress: Callable[[int], object],
        places: Int[np.ndarray, 'devices rows'],
        best: tuple[Array, Array],
    ) -> None:
        real = places >= 0
        scores, items = (np.asarray(part)[real] for part in best)
        if np.isnan(scores).any():
            raise RunError('The scores of the model are not finite; its parameters are damaged.')
        for place, row, score in zip(places[real], items, scores, strict=True):
            left = score > -np.inf
            found[place] = row[left], score[left]
        progress(int(real.sum()))


def rows_at_a_time(count: int, devices: int, most: int) -> int:
    """Rows of a device's batch: fewer for few histories, but of few sizes, since each compiles."""
    rows = 1
    while rows * devices < count:
        rows *= 8
    return min(rows, most)


@functools.lru_cache(8)
def _compiled(
    ensemble: Ensemble, k: int, devices: tuple[jax.Device, ...]
) -> Callable[..., tuple[Array, Array]]:
    """The function that recommenders share, so that asking again does not compile again."""
    best: Callable[..., tuple[Array, Array]] = jax.pmap(
        functools.partial(_best_items, ensemble, k),
        axis_name=AXIS,
        in_axes=(None, None, 0, 0),
        devices=devices,
    )
    return best


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
