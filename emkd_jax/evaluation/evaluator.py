"""Ranks of held-out items by the ensemble, and by each network alone."""

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
from emkd_jax.evaluation.batches import question_batches
from emkd_jax.evaluation.metrics import metrics_by_rule
from emkd_jax.evaluation.ranking import RULES, target_ranks
from emkd_jax.model.ensemble import Ensemble, Network, take_network
from emkd_jax.training.placement import AXIS, fill

# What a device works on at a time: on a CPU what its caches hold, elsewhere what memory spares.
_CHUNK_BYTES = {'cpu': 24 << 20}
_CHUNK_BYTES_ELSEWHERE = 512 << 20
_FEWEST_ROWS = 32  # all the same: each chunk reads the whole item heads once
_AHEAD = 3  # batches sent to the devices before the first one's ranks are read


class Result(NamedTuple):
    """`ensemble` and each of `networks` are {rule: {metric: value}}.

    `ranks` (from 1; the ensemble's, then each network's) are those of the held-out rows in their
    order, under each of `RULES`.
    """

    ensemble: dict[str, dict[str, float]]
    networks: list[dict[str, dict[str, float]]]
    ranks: Int32[np.ndarray, 'scorers rules rows']


class Evaluator:
    """Ranks a held-out set, which stays on the devices; call it with parameters.

    The processes of a run share the work, so all must call it. What comes out does not depend on
    the number of devices and processes.

    Args:
      options: `config.eval`.
      ensemble: what to evaluate.
      holdout: the items to find.
      devices: of this process; all it has when None.
    """

    def __init__(
        self,
        options: ml_collections.ConfigDict,
        ensemble: Ensemble,
        holdout: Holdout,
        devices: Sequence[jax.Device] | None = None,
    ):
        devices = tuple(devices or jax.local_devices())
        network = ensemble.network
        self._ks = options.ks
        self._shape = (ensemble.num_networks + 1, len(RULES), len(holdout.targets))
        self._split, self._score, self._rank = _compiled(ensemble, devices)
        self._unused = fill(0, devices)  # a pmap needs a mapped argument
        batches = list(
            question_batches(
                holdout,
                network.num_items,
                network.encoder.max_len,
                len(devices),
                _rows_at_a_time(options.batch_size, ensemble, devices[0].platform),
            )
        )
        spread = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
        self._batches = [
            (places, jax.device_put(questions, spread))
            for places, questions in batches[jax.process_index() :: jax.process_count()]
        ]

    def __call__(self, params: PyTree[Float[Array, 'networks ...']]) -> Result:
        """Ranks and metrics of the ensemble with `params`.

        Raises:
          RunError: a score is NaN or infinite.
        """
        if jax.process_count() > 1:  # this process's copy; the others' are out of its reach
            params = jax.tree.map(lambda x: x.addressable_data(0), params)
        networks = self._split(params, self._unused)
        ranks, finite = np.zeros(self._shape, np.int32), True
        under_way = collections.deque()

        def read():
            places, (of_batch, all_finite) = under_way.popleft()
            real = places >= 0
            ranks[..., places[real]] = np.moveaxis(np.asarray(of_batch), 0, -2)[..., real]
            return bool(np.all(all_finite))

        for places, questions in self._batches:
            scores = [self._score(network, questions.items) for network in networks]
            under_way.append((places, self._rank(scores, *questions[1:])))
            if len(under_way) > _AHEAD:
                finite &= read()
        while under_way:
            finite &= read()
        if jax.process_count() > 1:
            shares, all_finite = multihost_utils.process_allgather((ranks, np.array(finite)))
            ranks, finite = shares.sum(0), bool(all_finite.all())
        if not finite:
            raise RunError('The scores of the model are not finite; its parameters are damaged.')
        ensemble, *alone = [metrics_by_rule(r, self._ks) for r in ranks]
        return Result(ensemble, alone, ranks)


@functools.cache
def _compiled(ensemble, devices):
    """The functions that every evaluation of `ensemble` shares, so that each compiles once.

    Networks are scored one at a time, by plain products: a CPU runs batched ones, or ones whose
    weights are slices of stacked ones, at down to half the rate.
    """

    def split(params: PyTree, _: Int[Array, '']) -> list[PyTree]:
        return [take_network(params, n) for n in range(ensemble.num_networks)]

    def score(params: PyTree, items: Int[Array, 'rows slots']) -> Float[Array, 'rows classes']:
        variables = {'params': params}
        hidden = ensemble.network.apply(variables, items, last_only=True)[:, -1]
        return ensemble.network.apply(variables, hidden, method=Network.item_logits)

    def rank(
        scores: list[Float[Array, 'rows classes']],
        targets: Int[Array, ' rows'],
        others: Int[Array, 'rows width'],
        visible: Int[Array, ' rows'],
    ) -> tuple[Int[Array, 'scorers rules rows'], Bool[Array, '']]:
        together = sum(scores)
        ranks = [target_ranks(s, targets, others, visible) for s in (together, *scores)]
        # The sum is finite only where each network's score is.
        return jnp.stack(ranks), jnp.isfinite(together).all()

    pmap = functools.partial(jax.pmap, devices=devices, axis_name=AXIS)
    return (
        pmap(split, in_axes=(None, 0), out_axes=None),
        pmap(score, in_axes=(None, 0)),
        pmap(rank),
    )


def _rows_at_a_time(most, ensemble, platform):
    network = ensemble.network
    scores = (ensemble.num_networks + 1) * (network.num_items + 1)
    activations = 8 * network.encoder.dim * network.encoder.max_len
    budget = _CHUNK_BYTES.get(platform, _CHUNK_BYTES_ELSEWHERE) // 4
    rows = budget // max(scores, activations) // 8 * 8  # products are tiled by 8 rows or more
    return min(most, max(_FEWEST_ROWS, rows))
