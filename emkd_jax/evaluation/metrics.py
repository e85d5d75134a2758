"""The rank of each held-out item among the whole catalogue, and the metrics of ranks.

A rule says which items do not compete with the held-out item: those that the input window shows
(the rule of the released code), those anywhere in the history, or none. The held-out item itself
always competes, and class 0 (padding) never does.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Shaped

from emkd_jax.data.dataset import Holdout
from emkd_jax.model.folding import fold

RULES = ('window', 'history', 'none')


def target_ranks(
    scores: Shaped[Array, 'rows classes'],
    targets: Int[Array, ' rows'],
    others: Int[Array, 'rows width'],
    visible: Int[Array, ' rows'],
) -> Int[Array, 'rules rows']:
    """Ranks each target, from 1, under each of `RULES`.

    The rank is 1 + the number of competitors that score at least as high. Ties count against the
    target, so that a model with constant scores does not seem to find anything.

    Args:
      scores: of classes 0..V, without NaN, which would compare as lower.
      targets: the items to find, 1..V.
      others: the distinct items of the history without the target: first those in the window, then
        the others, then 0.
      visible: how many of `others` are in the window.
    """
    target_score = jnp.take_along_axis(scores, targets[:, None], 1)
    # The target is left out, not compared with itself: where the scores are computed while they are
    # compared, a compiler may round the same score in two ways.
    competes = jnp.arange(scores.shape[1])[None] != targets[:, None]
    at_least = ((scores >= target_score) & competes)[:, 1:].astype(jnp.int32)
    ranks = 1 + fold(jnp.add, at_least).sum(1)
    ahead = (others > 0) & (jnp.take_along_axis(scores, others, 1) >= target_score)
    in_window = jnp.arange(others.shape[1])[None, :] < visible[:, None]
    excluded = jnp.stack([(ahead & in_window).sum(1), ahead.sum(1)]).astype(jnp.int32)
    return jnp.concatenate([ranks[None] - excluded, ranks[None]])


def best_items(
    scores: Float[Array, 'rows classes'], others: Int[Array, 'rows width'], k: int
) -> tuple[Float[Array, 'rows k'], Int32[Array, 'rows k']]:
    """Finds the k items that score highest and their scores, the best first; ties go by id.

    Args:
      scores: of classes 0..V.
      others: items that are left out, and 0.
      k: number of items, at most V. Where fewer are left, class 0 stands for the others, with
        the score -inf.
    """
    scores = scores.at[:, 0].set(-jnp.inf)
    scores = scores.at[jnp.arange(len(scores))[:, None], others].set(-jnp.inf)
    best, items = jax.lax.top_k(scores, k)
    return best, jnp.where(best == -jnp.inf, 0, items).astype(jnp.int32)


def host_ranks(
    scores: Float[np.ndarray, 'rows classes'],
    holdout: Holdout,
    rows: Int[np.ndarray, ' rows'],
    max_len: int,
) -> Int32[np.ndarray, 'rules rows']:
    """Ranks the targets of some rows of a held-out set, from 1, under each of `RULES`, with NumPy.

    Items that tie are ordered by their ids, as a list of recommendations would have them.

    Args:
      scores: of classes 0..V.
      holdout: the held-out set.
      rows: the rows of the held-out set that `scores` belong to.
      max_len: L; the input of a model shows the last L - 1 items of a history.
    """
    targets = holdout.targets[rows]
    found = scores[np.arange(len(rows)), targets][:, None]
    ahead = scores > found
    ahead |= (scores == found) & (np.arange(scores.shape[1])[None] < targets[:, None])
    ahead[:, 0] = False
    ranks = np.empty((len(RULES), len(rows)), np.int32)
    ranks[RULES.index('none')] = 1 + ahead.sum(1)
    for rule, most in (('window', max_len - 1), ('history', None)):
        left = ahead.copy()
        for place, row in enumerate(rows):
            history = holdout.histories[row]
            left[place, history[len(history) - min(len(history), most or len(history)) :]] = False
        ranks[RULES.index(rule)] = 1 + left.sum(1)
    return ranks


def user_metrics(
    ranks: Int[np.ndarray, '*lead users'], k: int
) -> dict[str, Float[np.ndarray, '*lead users']]:
    """The metrics of each user at cut-off k.

    With a single relevant item of rank r: HR = [r <= k], NDCG = [r <= k] / log2(r + 1) and
    MRR = [r <= k] / r.
    """
    hit = (ranks <= k).astype(np.float64)
    return {f'HR@{k}': hit, f'NDCG@{k}': hit / np.log2(ranks + 1.0), f'MRR@{k}': hit / ranks}


def metrics_by_rule(
    ranks: Int[np.ndarray, 'rules users'], ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """{rule: {metric: mean over all users}}, for ranks under each of `RULES`."""
    return {
        rule: {
            name: float(values.sum() / len(values))
            for k in ks
            for name, values in user_metrics(rule_ranks, k).items()
        }
        for rule, rule_ranks in zip(RULES, ranks, strict=True)
    }
