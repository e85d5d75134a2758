"""Baselines by counting, which a model must beat; they are ranked as the model is."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from emkd_jax.data.dataset import Holdout, Ragged
from emkd_jax.evaluation.batches import eval_batches, last_values, padded_width
from emkd_jax.evaluation.metrics import metrics_by_rule
from emkd_jax.evaluation.ranking import RULES, target_ranks

BASELINES = ('popularity', 'markov')

_CHUNK_SCORES = 1 << 22  # rows x classes scored at a time


def evaluate_baselines(
    train: Ragged, holdout: Holdout, num_items: int, max_len: int, ks: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """{baseline: {rule: {metric: value}}} on a held-out set.

    Popularity scores an item by its number of training events. The first-order Markov chain scores
    it by how often it came right after the last item of the history in training, then by
    popularity. Items that still tie are ordered by their ids, as in a list to recommend from.

    Args:
      train: training histories.
      holdout: the items to find.
      num_items: V.
      max_len: L; items in this window do not compete under the rule `window`.
      ks: cut-offs of the metrics.
    """
    # Integers that order like (count, popularity, id), so that no rounding disturbs the order.
    popularity = _places(np.bincount(train.values, minlength=num_items + 1))
    followers, counts = transitions(train, num_items)
    levels = np.unique(counts.values, return_inverse=True)[1] + 1
    levels = np.minimum(levels, np.iinfo(np.int32).max // (num_items + 1) - 1)
    weights = Ragged((levels * (num_items + 1)).astype(np.int32), counts.offsets)
    ranks = np.zeros((len(BASELINES), len(RULES), len(holdout.targets)), np.int32)
    rows = min(len(holdout.targets), max(1, _CHUNK_SCORES // (num_items + 1)))
    for places, batch in eval_batches(holdout, max_len, num_items + 1, 1, rows):
        places = places[0]
        real = places >= 0
        last = last_values(holdout.histories, places, 1)[:, 0]
        width = padded_width(int(followers.lengths[last].max()))
        row_ranks = _ranks(
            popularity,
            last_values(followers, last, width),
            last_values(weights, last, width),
            batch.targets[0],
            batch.others[0],
            batch.visible[0],
        )
        ranks[..., places[real]] = np.asarray(row_ranks)[..., real]
    return {name: metrics_by_rule(r, ks) for name, r in zip(BASELINES, ranks, strict=True)}


def transitions(train: Ragged, num_items: int) -> tuple[Ragged, Ragged]:
    """The items that came right after each item 0..V in training, and how often."""
    row = np.repeat(np.arange(len(train)), train.lengths)
    together = row[1:] == row[:-1]
    pairs = train.values[:-1].astype(np.int64) * (num_items + 1) + train.values[1:]
    pairs, counts = np.unique(pairs[together], return_counts=True)
    item, follower = np.divmod(pairs, num_items + 1)
    offsets = np.searchsorted(item, np.arange(num_items + 2))
    return Ragged(follower.astype(np.int32), offsets), Ragged(counts.astype(np.int32), offsets)


@jax.jit
def _ranks(
    popularity: Int[Array, ' classes'],
    followers: Int[Array, 'rows followers'],
    weights: Int[Array, 'rows followers'],
    targets: Int[Array, ' rows'],
    others: Int[Array, 'rows width'],
    visible: Int[Array, ' rows'],
) -> Int[Array, 'baselines rules rows']:
    rows = len(targets)
    popular = jnp.broadcast_to(popularity, (rows, *popularity.shape))
    markov = popular.at[jnp.arange(rows)[:, None], followers].add(weights)
    return jnp.stack([target_ranks(s, targets, others, visible) for s in (popular, markov)])


def _places(counts):
    """Each item's place when sorted by count, the lowest first; of equals, the highest id."""
    places = np.empty(len(counts), np.int32)
    places[np.lexsort((-np.arange(len(counts)), counts))] = np.arange(len(counts))
    return places
