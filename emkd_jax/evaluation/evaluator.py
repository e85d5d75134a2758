"""Ranks of held-out items, by the ensemble and by each network alone."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Int32, PyTree

from emkd_jax.data.dataset import Holdout
from emkd_jax.errors import RunError
from emkd_jax.evaluation.batches import EvalBatch, Ranked, compute_ahead, eval_batches
from emkd_jax.evaluation.counts import WEIGHTS, CountMember
from emkd_jax.evaluation.metrics import (
    RULES,
    best_items,
    metrics_by_rule,
    target_ranks,
    user_metrics,
)
from emkd_jax.evaluation.scoring import Scorer, scoring_devices
from emkd_jax.evaluation.sharded_scores import (
    best_of_shards,
    finite_rows,
    own_classes,
    ranks_of_shards,
)
from emkd_jax.model.counts import CountModel
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.training.placement import AXIS, own_places

# Bytes that a device works on at a time: on CPUs what fits their caches, elsewhere their memory.
_CHUNK_BYTES = {'cpu': 24 << 20}
_CHUNK_BYTES_ELSEWHERE = 512 << 20
_FEWEST_ROWS = 32  # because each chunk reads the item heads once
_AHEAD = 3  # batches started before the ranks of the first one are read


class Result(NamedTuple):
    """Metrics and ranks on a held-out set.

    Attributes:
      ensemble: {rule: {metric: value}}.
      networks: the same for each network alone.
      ranks: ranks from 1 of the held-out rows in their order, for the ensemble and then each
        network, under each of `RULES`.
      lists: the best items after each history under the rule 'history', as many as were asked for
        and 0 where none is left. After the scorers of `ranks` come, where counts are added, the
        networks together without them.
      without_counts: as `ensemble`, for the networks alone; None where no counts are added.
    """

    ensemble: dict[str, dict[str, float]]
    networks: list[dict[str, dict[str, float]]]
    ranks: Int32[np.ndarray, 'scorers rules rows']
    lists: Int32[np.ndarray, 'scorers_and_others rows k']
    without_counts: dict[str, dict[str, float]] | None = None


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
        counts: CountMember | None = None,
    ):
        """Copies the held-out set to the devices.

        Args:
          options: `config.eval`.
          ensemble: the networks.
          holdout: the items to find.
          devices: the devices to use; None: `scoring_devices`.
          counts: transition counts that are added to the networks' scores.
        """
        self._devices = tuple(devices or scoring_devices(ensemble))
        self._ensemble, self._ks, self._num_rows = ensemble, options.ks, len(holdout.targets)
        self._rank, self._best, self._rank_weights = _compiled(ensemble, self._devices)
        self._score = Scorer(ensemble, self._devices, own=True)
        self._histories, self._counts, self._rule = holdout.histories, counts, options.rule
        network, count = ensemble.network, len(self._devices)
        rows = _rows_at_a_time(options.batch_size, ensemble, self._devices[0].platform)
        batches = list(
            eval_batches(holdout, network.encoder.max_len, network.mask_token, count, rows)
        )
        own = own_places(self._devices)
        if len(own) < count:  # all processes compute every batch together
            self._batches = [
                (index[own], jax.tree.map(lambda x: x[own], batch)) for index, batch in batches
            ]
            return
        spread = NamedSharding(Mesh(np.array(self._devices), (AXIS,)), PartitionSpec(AXIS))
        self._batches = [
            (index, jax.device_put(batch, spread))
            for index, batch in batches[jax.process_index() :: jax.process_count()]
        ]

    def __call__(self, params: PyTree[Float[Array, '_ ...']], list_length: int = 0) -> Result:
        """Computes ranks and metrics of the ensemble with `params`.

        Args:
          params: the parameters of the ensemble, on the devices.
          list_length: number of items that are recommended after each history; 0 for no lists.

        Raises:
          RunError: a score is NaN or infinite.
        """
        networks = self._score.networks(params)
        count = len(networks)

        def compute(index: np.ndarray, batch: EvalBatch) -> Array:
            scores = self._scores(networks, index, batch)
            ranks = self._rank(scores, batch.ranked)
            if not k:
                return ranks
            return jnp.concatenate([ranks, self._best(scores, batch.ranked.others, k)], axis=-1)

        k = min(list_length, self._ensemble.network.num_items)
        scorers = 1 + count + (self._counts is not None)
        found = self._over_rows(compute, (scorers, len(RULES) + k), _AHEAD)
        ranks = found[:, : len(RULES)]
        if not ranks.all():
            raise RunError('The scores of the model are not finite; its parameters are damaged.')
        whole, *others = [metrics_by_rule(r, self._ks) for r in ranks]
        lists = found[:, len(RULES) :].swapaxes(1, 2)
        return Result(whole, others[:count], ranks[: count + 1], lists, *others[count:])

    def find_weight(
        self, params: PyTree[Float[Array, '_ ...']], model: CountModel
    ) -> dict[float, float]:
        """Tries `WEIGHTS` of transition counts on this held-out set.

        Returns:
          {weight: NDCG@10 under the run's rule}. A weight multiplies the counts before they are
          added to the sum of the networks' scores, so it grows with the number of networks.
        """
        networks = self._score.networks(params)
        weights = np.array(WEIGHTS, np.float32) * len(networks)
        counts = [CountMember(model, float(weight)) for weight in weights]

        def compute(index: np.ndarray, batch: EvalBatch) -> Array:
            scores = sum(self._score(networks, batch.items))
            unweighted = CountMember(model, 1.0).scores(self._histories, index)
            return self._rank_weights(scores, unweighted, weights, batch.ranked)

        ranks = self._over_rows(compute, (len(weights), len(RULES)), ahead=1)
        rule = RULES.index(self._rule)
        return {
            member.weight: float(user_metrics(found[rule], 10)['NDCG@10'].mean())
            for member, found in zip(counts, ranks, strict=True)
        }

    def _over_rows(self, compute, shape, ahead):
        """Computes integers of this shape for every held-out row, which are the last axis."""
        found = np.zeros((*shape, self._num_rows), np.int32)
        for index, values in compute_ahead(self._batches, compute, ahead):
            found[..., index] = np.moveaxis(values, 0, -1)
        if jax.process_count() > 1:  # a row that another process has is 0 here
            found = multihost_utils.process_allgather(found).sum(0)
        return found

    def _scores(self, networks, index, batch):
        """The scores of each network, and then those of the counts, if there are some."""
        scores = self._score(networks, batch.items)
        if self._counts is not None:
            scores.append(self._counts.scores(self._histories, index))
        return scores


@functools.lru_cache(4)
def _compiled(ensemble, devices):
    """The functions that the validations and the test of a run share, so that each compiles once.

    The cache is small, so that a notebook that builds many ensembles does not keep them all.
    """
    split, num_items = ensemble.shards > 1, ensemble.network.num_items

    def scorers(scores: list[Float[Array, '_ _']]) -> list[Float[Array, '_ _']]:
        networks = scores[: ensemble.num_networks]
        if len(scores) == len(networks):
            return [sum(networks), *networks]
        return [sum(networks) + of_counts(scores[-1], networks[0]), *networks, sum(networks)]

    def of_counts(counts: Float[Array, '_ _'], like: Float[Array, '_ _']) -> Float[Array, '_ _']:
        return own_classes(counts, like.shape[1]) if split else counts

    def ranks_of(scores: Float[Array, '_ _'], ranked: Ranked) -> Int[Array, 'rules rows']:
        if split:
            return ranks_of_shards(scores, *ranked, num_items)
        return target_ranks(scores, *ranked)

    def rank(scores: list[Float[Array, '_ _']], ranked: Ranked) -> Int[Array, 'rows scorers rules']:
        together, *others = scorers(scores)
        ranks = jnp.stack([ranks_of(s, ranked) for s in (together, *others)])
        # The sum is finite only if the scores of all networks are. No rank of a finite row is 0.
        finite = finite_rows(together) if split else jnp.isfinite(together).all(-1)
        ranks = jnp.where(finite, ranks, 0)
        return jnp.moveaxis(ranks, -1, 0)

    def best(
        scores: list[Float[Array, '_ _']], others: Int[Array, 'rows width'], k: int
    ) -> Int[Array, 'rows scorers k']:
        allowed = jnp.ones(num_items + 1, bool)
        found = [
            best_of_shards(s, allowed, others, k) if split else best_items(s, others, k)
            for s in scorers(scores)
        ]
        return jnp.stack([items for _, items in found], axis=1)

    def rank_weights(
        scores: Float[Array, '_ _'],
        counts: Float[Array, '_ _'],
        weights: Float[Array, ' weights'],
        ranked: Ranked,
    ) -> Int[Array, 'rows weights rules']:
        counts = of_counts(counts, scores)

        def ranks(weight):
            return ranks_of(scores + weight * counts, ranked)

        return jnp.moveaxis(jax.lax.map(ranks, weights), -1, 0)

    pmap = functools.partial(jax.pmap, devices=devices, axis_name=AXIS)
    return (
        pmap(rank),
        pmap(best, static_broadcasted_argnums=2),
        pmap(rank_weights, in_axes=(0, 0, None, 0)),
    )


def _rows_at_a_time(most: int, ensemble: Ensemble, platform: str) -> int:
    network = ensemble.network
    scores = (ensemble.num_networks + 1) * (network.num_items + 1)
    activations = 8 * network.encoder.dim * network.encoder.max_len
    budget = _CHUNK_BYTES.get(platform, _CHUNK_BYTES_ELSEWHERE) // 4
    rows = budget // max(scores, activations) // 8 * 8  # products have tiles of 8 rows or more
    return min(most, max(_FEWEST_ROWS, rows))
