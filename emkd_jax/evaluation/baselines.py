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
    Ranked,
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
    chain = MarkovChain.of(train, num_items)
    popularity, followers, weights = chain.popularity, chain.followers, chain.weights
    ranks = np.zeros((len(BASELINES), len(RULES), len(holdout.targets)), np.int32)
    ranks[-1] = count_ranks(counts, holdout, max_len)
    lists = np.zeros((len(BASELINES), len(holdout.targets), min(LIST, num_items)), np.int32)
    for row, target in enumerate(holdout.targets.tolist()):
        history = holdout.histories[row]
        last, others = int(history[-1]) if len(history) else 0, history[history != target]
        for baseline, found in enumerate(
            [chain.most_popular(others, LIST), chain.best(last, others, LIST)]
        ):
            lists[baseline, row, : len(found)] = found

    def compute(index: np.ndarray, batch: EvalBatch) -> tuple[Array, Array]:
        last = last_values(holdout.histories, index, 1)[..., 0]
        width = padded_width(int(followers.lengths[last].max()))
        counted = [last_values(values, last, width) for values in (followers, weights)]
        scores = counts.scores(holdout.histories, index.reshape(-1))[None]
        best = _best_counted(lists.shape[-1], scores, batch.ranked.others)
        return _ranks(popularity, *counted, batch.ranked), best

    rows = min(len(holdout.targets), max(1, _CHUNK_SCORES // (num_items + 1)))
    batches = eval_batches(holdout, max_len, num_items + 1, 1, rows)
    for index, (found, best) in compute_ahead(batches, compute, ahead=0):
        ranks[:-1, :, index] = np.moveaxis(found, 0, -1)
        lists[-1, index] = best
    metrics = {name: metrics_by_rule(r, ks) for name, r in zip(BASELINES, ranks, strict=True)}
    return metrics, lists


class MarkovChain(NamedTuple):
    """The first-order Markov chain of training histories, with popularity among equals.

    Scores are integers in the order of (count, popularity, id), so nothing is rounded. The score of
    item i after item h is `popularity[i]`, and more for the `followers[h]` by `weights[h]`.
    `ranked` has the items 1..V by their popularity, the highest first.
    """

    popularity: Int32[np.ndarray, ' classes']
    followers: Ragged
    weights: Ragged
    ranked: Int32[np.ndarray, ' items']

    @classmethod
    def of(cls, train: Ragged, num_items: int) -> 'MarkovChain':
        """Counts the transitions of training histories of items 1..V."""
        popularity = _order(np.bincount(train.values, minlength=num_items + 1))
        followers, times = transitions(train, num_items)
        levels = np.unique(times.values, return_inverse=True)[1] + 1
        levels = np.minimum(levels, np.iinfo(np.int32).max // (num_items + 1) - 1)
        weights = Ragged((levels * (num_items + 1)).astype(np.int32), times.offsets)
        ranked = np.argsort(popularity)[::-1].astype(np.int32)
        return cls(popularity, followers, weights, ranked[ranked > 0])

    def most_popular(
        self, excluded: Int[np.ndarray, ' excluded'], k: int
    ) -> Int[np.ndarray, ' found']:
        """The k most popular items that are not excluded."""
        first = self.ranked[: k + len(excluded)]
        return first[~np.isin(first, excluded)][:k]

    def best(
        self, last: int, excluded: Int[np.ndarray, ' excluded'], k: int
    ) -> Int[np.ndarray, ' found']:
        """The k best items after the item `last` (0: after nothing) that are not excluded."""
        followers = self.followers[last]
        scores = self.popularity[followers] + self.weights[last]
        followers = followers[np.argsort(-scores)]
        followers = followers[~np.isin(followers, excluded)][:k]
        left = k - len(followers)  # no other item has come after this one
        popular = self.most_popular(np.concatenate([excluded, followers]), left)
        return np.concatenate([followers, popular])


def transitions(train: Ragged, num_items: int) -> tuple[Ragged, Ragged]:
    """The items that directly followed each item 0..V in training, and the number of times."""
    row = np.repeat(np.arange(len(train)), train.lengths)
    together = row[1:] == row[:-1]
    pairs = train.values[:-1].astype(np.int64) * (num_items + 1) + train.values[1:]
    pairs, counts = np.unique(pairs[together], return_counts=True)
    item, follower = np.divmod(pairs, num_items + 1)
    offsets = np.searchsorted(item, np.arange(num_items + 2))
    return Ragged(follower.astype(np.int32), offsets), Ragged(counts.astype(np.int32), offsets)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _ranks(
    popularity: Int[Array, ' classes'],
    followers: Int[Array, 'rows followers'],
    weights: Int[Array, 'rows followers'],
    ranked: Ranked,
) -> Int[Array, 'rows counters rules']:
    rows = len(ranked.targets)
    popular = jnp.broadcast_to(popularity, (rows, *popularity.shape))
    markov = popular.at[jnp.arange(rows)[:, None], followers].add(weights)
    ranks = [target_ranks(scores, *ranked) for scores in (popular, markov)]
    return jnp.moveaxis(jnp.stack(ranks), -1, 0)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def _best_counted(
    k: int, scores: Float[Array, 'rows classes'], others: Int[Array, 'rows width']
) -> Int[Array, 'rows k']:
    return best_items(scores, others, k)[1]


def _order(counts):
    """The place of each item in ascending order of the counts; among equals, higher ids first."""
    order = np.empty(len(counts), np.int32)
    order[np.lexsort((-np.arange(len(counts)), counts))] = np.arange(len(counts))
    return order
