"""Baselines that count events. A model must beat them; they are evaluated in the same way."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from emkd_jax.data.dataset import Holdout, Ragged
from emkd_jax.evaluation.batches import (
    EvalBatch,
    compute_ahead,
    eval_batches,
    last_values,
    padded_width,
)
from emkd_jax.evaluation.counts import count_ranks
from emkd_jax.evaluation.metrics import RULES, best_items, metrics_by_rule, target_ranks
from emkd_jax.model.counts import CountModel

LIST = 10  # items of the lists that are recommended to a user

BASELINES = ('popularity', 'markov', 'pctm')

_CHUNK_SCORES = 1 << 22  # scores (rows times classes) that are computed at a time


def evaluate_baselines(
    train: Ragged,
    holdout: Holdout,
    num_items: int,
    max_len: int,
    ks: Sequence[int],
    counts: CountModel,
) -> tuple[dict[str, dict[str, dict[str, float]]], Int32[np.ndarray, 'baselines rows k']]:
    """Evaluates the baselines on a held-out set.

    Popularity scores an item by its number of training events. The first-order Markov chain scores
    it by the number of times that it followed the last item of the history in training, and then
    by popularity. Items that still tie are ordered by their ids, as a list of recommendations
    would have them.

    Args:
      train: training histories.
      holdout: the items to find.
      num_items: V.
      max_len: L, the slots of the model's input, to which the rule `window` refers.
      ks: cut-offs of the metrics.
      counts: the transition counts of the training histories, which are the third baseline.

    Returns:
      {baseline: {rule: {metric: value}}}, and the `LIST` best items of each baseline after each
      history under the rule 'history'.
    """
    popularity, followers, weights = MarkovChain.of(train, num_items)
    ranks = np.zeros((len(BASELINES), len(RULES), len(holdout.targets)), np.int32)
    ranks[-1] = count_ranks(counts, holdout, max_len)
    k = min(LIST, num_items)
    lists = np.zeros((len(BASELINES), len(holdout.targets), k), np.int32)

    def compute(index: np.ndarray, batch: EvalBatch) -> tuple[Array, Array]:
        last = last_values(holdout.histories, index, 1)[..., 0]
        width = padded_width(int(followers.lengths[last].max()))
        counted = [last_values(values, last, width) for values in (followers, weights)]
        counted += [counts.scores(holdout.histories, index.reshape(-1))[None]]
        return _rank(k, popularity, *counted, *batch[1:])

    rows = min(len(holdout.targets), max(1, _CHUNK_SCORES // (num_items + 1)))
    batches = eval_batches(holdout, max_len, num_items + 1, 1, rows)
    for index, (found, best) in compute_ahead(batches, compute, ahead=0):
        ranks[:-1, :, index] = np.moveaxis(found, 0, -1)
        lists[:, index] = best.swapaxes(0, 1)
    metrics = {name: metrics_by_rule(r, ks) for name, r in zip(BASELINES, ranks, strict=True)}
    return metrics, lists


class MarkovChain(NamedTuple):
    """The first-order Markov chain of training histories, with popularity among equals.

    Scores are integers in the order of (count, popularity, id), so nothing is rounded. The score of
    item i after item h is `popularity[i]`, and more for the `followers[h]` by `weights[h]`.
    """

    popularity: Int32[np.ndarray, ' classes']
    followers: Ragged
    weights: Ragged

    @classmethod
    def of(cls, train: Ragged, num_items: int) -> 'MarkovChain':
        """Counts the transitions of training histories of items 1..V."""
        popularity = _order(np.bincount(train.values, minlength=num_items + 1))
        followers, times = transitions(train, num_items)
        levels = np.unique(times.values, return_inverse=True)[1] + 1
        levels = np.minimum(levels, np.iinfo(np.int32).max // (num_items + 1) - 1)
        weights = Ragged((levels * (num_items + 1)).astype(np.int32), times.offsets)
        return cls(popularity, followers, weights)

    def best(
        self, history: Int[np.ndarray, ' length'], k: int, exclude_seen: bool = True
    ) -> Int[np.ndarray, ' found']:
        """The k best items after a history, without those of the history if `exclude_seen`."""
        scores = self.popularity.astype(np.int64)
        last = history[-1] if len(history) else 0
        scores[self.followers[last]] += self.weights[last]
        scores[0] = -1
        if exclude_seen:
            scores[history] = -1
        best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        best = best[np.argsort(-scores[best])]
        return best[scores[best] >= 0]


def transitions(train: Ragged, num_items: int) -> tuple[Ragged, Ragged]:
    """The items that directly followed each item 0..V in training, and the number of times."""
    row = np.repeat(np.arange(len(train)), train.lengths)
    together = row[1:] == row[:-1]
    pairs = train.values[:-1].astype(np.int64) * (num_items + 1) + train.values[1:]
    pairs, counts = np.unique(pairs[together], return_counts=True)
    item, follower = np.divmod(pairs, num_items + 1)
    offsets = np.searchsorted(item, np.arange(num_items + 2))
    return Ragged(follower.astype(np.int32), offsets), Ragged(counts.astype(np.int32), offsets)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0, 0, 0))
def _rank(
    k: int,
    popularity: Int[Array, ' classes'],
    followers: Int[Array, 'rows followers'],
    weights: Int[Array, 'rows followers'],
    counts: Float[Array, 'rows classes'],
    targets: Int[Array, ' rows'],
    others: Int[Array, 'rows width'],
    visible: Int[Array, ' rows'],
) -> tuple[Int[Array, 'rows counters rules'], Int[Array, 'rows baselines k']]:
    rows = len(targets)
    popular = jnp.broadcast_to(popularity, (rows, *popularity.shape))
    markov = popular.at[jnp.arange(rows)[:, None], followers].add(weights)
    ranks = [target_ranks(s, targets, others, visible) for s in (popular, markov)]
    lists = [best_items(s, others, k)[1] for s in (popular, markov, counts)]
    return jnp.moveaxis(jnp.stack(ranks), -1, 0), jnp.stack(lists, axis=1)


def _order(counts):
    """The place of each item in ascending order of the counts; among equals, higher ids first."""
    order = np.empty(len(counts), np.int32)
    order[np.lexsort((-np.arange(len(counts)), counts))] = np.arange(len(counts))
    return order
