"""HR, NDCG and MRR from ranks."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from emkd_jax.evaluation.ranking import RULES


def user_metrics(
    ranks: Int[np.ndarray, '*lead users'], k: int
) -> dict[str, Float[np.ndarray, '*lead users']]:
    """The metrics of each user at cut-off k.

    With one relevant item of rank r, counted from 1: HR = [r <= k], NDCG = [r <= k] / log2(r + 1),
    MRR = [r <= k] / r.
    """
    hit = (ranks <= k).astype(np.float64)
    return {f'HR@{k}': hit, f'NDCG@{k}': hit / np.log2(ranks + 1.0), f'MRR@{k}': hit / ranks}


def metric_sums(
    ranks: Int[np.ndarray, '*lead users'], ks: Sequence[int]
) -> dict[str, Float[np.ndarray, '*lead']]:
    """Sums over users of each metric at each cut-off k."""
    return {name: values.sum(-1) for k in ks for name, values in user_metrics(ranks, k).items()}


def metrics_by_rule(
    ranks: Int[np.ndarray, 'rules users'], ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """{rule: {metric: mean over all users}}, for ranks under each of `RULES`."""
    sums = metric_sums(ranks, ks)
    return {
        rule: {name: float(values[i] / ranks.shape[-1]) for name, values in sums.items()}
        for i, rule in enumerate(RULES)
    }
