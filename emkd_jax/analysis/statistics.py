"""How certain is a difference between two systems? A paired bootstrap over users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2**22  # drawn indices held in memory: 32 MB


class Difference(NamedTuple):
    """A difference of means, its 95% confidence interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(differences: Float[np.ndarray, ' users']) -> Difference:
    """Bootstraps the mean of per-user differences (Efron and Tibshirani, 1993, chapters 13, 16).

    Args:
      differences: each user's metric under one system, minus that under the other; two users at
        least.

    Returns:
      The interval between the percentiles of the resampled means. The p-value is twice the share
      of resampled means on the other side of 0, where the data themselves count as one more.
    """
    resampled = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _NUMBERS_AT_ONCE // len(differences)),
        method='percentile',
        rng=0,
    )
    means, interval = resampled.bootstrap_distribution, resampled.confidence_interval
    # Sums of equal and opposite differences may miss 0 by rounding.
    beyond = min((means < 1e-12).sum(), (means > -1e-12).sum())
    p = min(1.0, 2 * float(beyond + 1) / (RESAMPLES + 1))
    return Difference(float(differences.mean()), float(interval.low), float(interval.high), p)
