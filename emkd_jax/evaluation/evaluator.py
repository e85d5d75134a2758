"""Ranks of held-out items, by the ensemble and by each network alone."""

import collections
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Int32, PyTree

from emkd_jax.data.dataset import Holdout
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import eval_batches
from emkd_jax.evaluation.metrics import metrics_by_rule
from emkd_jax.evaluation.ranking import RULES, target_ranks
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import AXIS, fill

# What a device works on at a time: on CPUs what their caches hold, elsewhere what memory allows.
_CHUNK_BYTES = {'cpu': 24 << 20}
_CHUNK_BYTES_ELSEWHERE = 512 << 20
_FEWEST_ROWS = 32  # since each chunk reads the whole item heads once
_AHEAD = 3  # batches sent to the devices before the ranks of the first one are read


class Result(NamedTuple):
    """Metrics and ranks on a held-out set.

    Attributes:
      ensemble: {rule: {metric: value}}.
      networks: the same for each network alone.
      ranks: ranks from 1 of the held-out rows in their order, for the ensemble and then each
        network, under each of `RULES`.
    """

    ensemble: dict[str, dict[str, float]]
    networks: list[dict[str, dict[str, float]]]
    ranks: Int32[np.ndarray, 'scorers rules rows']


class Evaluator:
    """Ranks a held-out set, which stays on the devices. Call it with parameters.

    The processes of a run share the work, so all of them must call it. The result does not depend
    on the number of devices and processes.
    """

    def __init__(
        self,
        options: ml_collections.ConfigDict,
        ensemble: Ensemble,
        holdout: Holdout,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Puts the held-out set on the devices.

        Args:
          options: `config.eval`.
          ensemble: the networks.
          holdout: the items to find.
          devices: of this process; None: all that it has.
        """
        devices = tuple(devices or jax.local_devices())
        network = ensemble.network
        self._ks = options.ks
        self._shape = (ensemble.num_networks + 1, len(RULES), len(holdout.targets))
        self._split, self._score, self._rank = _compiled(ensemble, devices)
        self._unused = fill(0, devices)  # a pmap needs a mapped argument
        rows = _rows_at_a_time(options.batch_size, ensemble, devices[0].platform)
        batches = list(
            eval_batches(holdout, network.encoder.max_len, network.mask_token, len(devices), rows)
        )
        spread = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
        self._batches = [
            (places, jax.device_put(batch, spread))
            for places, batch in batches[jax.process_index() :: jax.process_count()]
        ]

    def __call__(self, params: PyTree[Float[Array, 'networks ...']]) -> Result:
        """Ranks and metrics of the ensemble with `params`.

        Raises:
          RunError: a score is NaN or infinite.
        """
        if jax.process_count() > 1:  # this process's copy; those of others are out of its reach
            params = jax.tree.map(lambda x: x.addressable_data(0), params)
        networks = self._split(params, self._unused)
        ranks, finite = np.zeros(self._shape, np.int32), True
        in_flight = collections.deque()

        def read() -> bool:
            places, (batch_ranks, all_finite) = in_flight.popleft()
            real = places >= 0
            ranks[..., places[real]] = np.moveaxis(np.asarray(batch_ranks), 0, -2)[..., real]
            return bool(np.all(all_finite))

        for places, batch in self._batches:
            scores = self._score(networks, batch.items)
            in_flight.append((places, self._rank(scores, *batch[1:])))
            if len(in_flight) > _AHEAD:
                finite &= read()
        while in_flight:
            finite &= read()
        if jax.process_count() > 1:
            shares, all_finite = multihost_utils.process_allgather((ranks, np.array(finite)))
            ranks, finite = shares.sum(0), bool(all_finite.all())
        if not finite:
            raise RunError('The scores of the model are not finite; its parameters are damaged.')
        whole, *alone = [metrics_by_rule(r, self._ks) for r in ranks]
        return Result(whole, alone, ranks)


@functools.lru_cache(4)
def _compiled(ensemble, devices):
    """The functions that the validations and the test of a run share, so that each compiles once.

    The cache is small: a notebook that builds many ensembles does not keep all of them alive.
    """

    def split(params: PyTree, _: Int[Array, '']) -> list[PyTree]:
        return ensemble.split(params)

    def score(params: PyTree, items: Int[Array, 'rows slots']) -> Float[Array, 'rows classes']:
        [scores] = ensemble.scores([params], items)
        return scores

    def rank(
        scores: list[Float[Array, 'rows classes']],
        targets: Int[Array, ' rows'],
        others: Int[Array, 'rows width'],
        visible: Int[Array, ' rows'],
    ) -> tuple[Int[Array, 'scorers rules rows'], Bool[Array, '']]:
        together = sum(scores)
        ranks = [target_ranks(s, targets, others, visible) for s in (together, *scores)]
        # The sum is finite only where the score of each network is.
        return jnp.stack(ranks), jnp.isfinite(together).all()

    pmap = functools.partial(jax.pmap, devices=devices, axis_name=AXIS)
    score_one = pmap(score, in_axes=(None, 0))

    def score_all(networks: Sequence[PyTree], items: Array) -> list[Array]:
        return [score_one(params, items) for params in networks]

    return pmap(split, in_axes=(None, 0), out_axes=None), score_all, pmap(rank)


def _rows_at_a_time(most: int, ensemble: Ensemble, platform: str) -> int:
    network = ensemble.network
    scores = (ensemble.num_networks + 1) * (network.num_items + 1)
    activations = 8 * network.encoder.dim * network.encoder.max_len
    budget = _CHUNK_BYTES.get(platform, _CHUNK_BYTES_ELSEWHERE) // 4
    rows = budget // max(scores, activations) // 8 * 8  # products are tiled by 8 rows or more
    return min(most, max(_FEWEST_ROWS, rows))
