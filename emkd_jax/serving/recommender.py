"""The best items of many histories, on the devices."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, PyTree

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import input_sizes, last_values, padded_width
from emkd_jax.model.ensemble import Ensemble, Network, take_network
from emkd_jax.training.placement import AXIS

_SCORES = 2**24  # of a batch, at most: what a device holds at a time


@functools.cache
def best_items(network: Network, k: int, devices: tuple[jax.Device, ...]) -> Callable[..., Any]:
    """The mapped function (scores, items) of `_best_items`, compiled once for each shape."""
    return jax.pmap(
        functools.partial(_best_items, network, k),
        axis_name=AXIS,
        in_axes=(None, None, 0, 0),
        devices=devices,
    )


def _best_items(
    network: Network,
    k: int,
    params: list[PyTree],
    allowed: Bool[Array, ' classes'],
    items: Int[Array, 'rows slots'],
    seen: Int[Array, 'rows width'],
) -> tuple[Float[Array, 'rows k'], Int[Array, 'rows k']]:
    scores = 0
    for of_network in params:  # plain products: a CPU runs batched ones at half the rate
        variables = {'params': of_network}
        hidden = network.apply(variables, items, last_only=True)[:, -1]
        scores += network.apply(variables, hidden, method=Network.item_logits)
    scores = jnp.where(allowed[None], scores, -jnp.inf)
    scores = scores.at[jnp.arange(len(items))[:, None], seen].set(-jnp.inf)
    best_scores, best = jax.lax.top_k(scores, k)
    return best_scores, best


class Recommender:
    """Call it with histories.

    Args:
      ensemble: the model.
      params: its parameters, on this process's devices.
      networks: those whose logits are summed.
      allowed: which classes may come out.
      k: how many items.
      exclude_seen: leave out what is in the history (all of it, not what the model sees).
      rows: histories at a time on each device, at most.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        params: PyTree[Float[Array, 'networks ...']],
        networks: Iterable[int],
        allowed: Bool[np.ndarray, ' classes'],
        k: int,
        exclude_seen: bool,
        rows: int,
    ):
        network = ensemble.network
        self._max_len, self._mask_token = network.encoder.max_len, network.num_items + 1
        self._devices = jax.local_devices()
        self._rows = max(1, min(rows, _SCORES // len(allowed)))
        self._params = [take_network(params, n) for n in networks]
        self._allowed, self._exclude_seen = allowed, exclude_seen
        self._best = best_items(network, min(k, int(allowed.sum())), tuple(self._devices))

    def __call__(
        self, histories: Ragged, progress: Callable[[int], object] = lambda count: None
    ) -> tuple[list[Int32[np.ndarray, ' found']], list[Float32[np.ndarray, ' found']]]:
        """Items (best first) and scores for each history; fewer than k where no more are left.

        A batch has histories of about the same length, and each of a few lengths compiles once.

        Args:
          histories: items 1..V, oldest first; any length, 0 too.
          progress: told of every batch how many histories it had.

        Raises:
          RunError: a score is not a number.
        """
        found = [None] * len(histories)
        under_way = None
        for places, items, seen in self._batches(histories):
            dispatched = places, self._best(self._params, self._allowed, items, seen)
            if under_way:
                self._read(found, progress, *under_way)
            under_way = dispatched
        if under_way:
            self._read(found, progress, *under_way)
        return [item for item, _ in found], [score for _, score in found]

    def _batches(self, histories):
        """(places, items, seen), each (devices, rows, ...); place -1 fills up."""
        shape = len(self._devices), self._rows
        sizes = input_sizes(self._max_len)
        order = np.argsort(histories.lengths, kind='stable')
        slots = sizes[
            np.searchsorted(sizes, np.minimum(histories.lengths[order] + 1, self._max_len))
        ]
        for size in np.unique(slots).tolist():
            group = order[slots == size]
            for first in range(0, len(group), np.prod(shape)):
                places = np.full(shape, -1)
                chunk = group[first : first + places.size]
                places.flat[: len(chunk)] = chunk
                items = np.full((*shape, size), self._mask_token, np.int32)
                items[..., :-1] = last_values(histories, places, size - 1)
                width = padded_width(int(histories.lengths[chunk].max()))
                seen = np.zeros((*shape, 1), np.int32)
                if self._exclude_seen:
                    seen = last_values(histories, places, width)
                yield places, items, seen

    @staticmethod
    def _read(found, progress, places, best):
        real = places >= 0
        scores, items = (np.asarray(part)[real] for part in best)
        if np.isnan(scores).any():
            raise RunError('The scores of the model are not finite; its parameters are damaged.')
        for place, row, score in zip(places[real], items, scores, strict=True):
            left = score > -np.inf
            found[place] = row[left], score[left]
        progress(int(real.sum()))
