"""Scores of all items by each network, on all devices of this process."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.network import Network
from emkd_jax.training.placement import AXIS, Flattened, axes, fill


def scoring_devices(ensemble: Ensemble) -> list[jax.Device]:
    """Returns the devices that score together: this process's, or all if tables are split."""
    return jax.devices() if ensemble.shards > 1 else jax.local_devices()


class Scorer:
    """Scores histories by the networks of an ensemble. Call it with the networks' parameters.

    Where the item tables are split, each device has its own rows of them.
    """

    def __init__(self, ensemble: Ensemble, devices: Sequence[jax.Device], own: bool = False):
        """Prepares to score.

        Args:
          ensemble: the networks.
          devices: those of `scoring_devices`, as a rule.
          own: whether each device keeps the scores of the items whose rows it has, for the rows of
            all devices; see `Network.own_scores_of`.
        """
        self._ensemble, self._devices = ensemble, tuple(devices)
        self._function = Network.own_scores_of if own else Network.scores_of

    def networks(self, params: PyTree[Float[Array, '_ ...']]) -> list[PyTree]:
        """Returns the effective parameters of each network, on the devices.

        Args:
          params: trained parameters of the ensemble, on the devices.
        """
        ensemble = self._ensemble
        if jax.process_count() > 1 and ensemble.shards == 1:
            # The copies of other processes are out of reach.
            params = jax.tree.map(lambda x: x.addressable_data(0), params)
        found = []
        for n, network in enumerate(ensemble.networks):
            stack, number = ensemble.place(params, n)
            effective = _effective(network, self._devices)
            found.append(effective(stack, fill(number, self._devices))[0])
        return found

    def __call__(
        self, networks: Sequence[PyTree], items: Int[Array | np.ndarray, 'devices rows slots']
    ) -> list[Float[Array, 'devices scored classes']]:
        """Scores every item as the continuation of each history, by each network.

        Args:
          networks: as `networks` returns them.
          items: the rows of each device; see `Ensemble.scores`.

        Returns:
          The scores of all classes for the rows of each device, unless each keeps its `own`.
        """
        return [
            _compiled(kind, self._devices, self._function)(network, items)
            for kind, network in zip(self._ensemble.networks, networks, strict=True)
        ]


def axes_of(network: Network) -> PyTree:
    """Returns what a pmap needs to know of the parameters of a network, as its `in_axes`."""
    if network.shards == 1:
        return None
    return axes(_shapes(network), network.shards)


def _shapes(network):
    one = jnp.ones((1, 1), jnp.int32)
    return jax.eval_shape(network.init, jax.random.key(0), one)['params']


@functools.lru_cache(8)
def _effective(network, devices):
    """Takes the effective parameters of a network out of its stack."""

    def effective(stack, number):
        return network.effective(jax.tree.map(lambda leaf: leaf[number], stack)), np.int32(0)

    return Flattened(effective, _shapes(network), network.shards, in_axes=(0,), devices=devices)


@functools.lru_cache(8)  # small, so that a notebook that builds many ensembles does not keep them
def _compiled(network, devices, function):
    score = functools.partial(function, network.without_attributes())
    return jax.pmap(score, AXIS, in_axes=(axes_of(network), 0), devices=devices)
