"""Paired bootstrap over users (Efron and Tibshirani, 1993, chapters 13 and 16)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_RESAMPLES = 10_000
_CHUNK = 2**22  # numbers drawn at a time


class Difference(NamedTuple):
    """Of two means: the value, its 95% interval, and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(differences: Float[np.ndarray, ' users'], seed: int = 0) -> Difference:
    """How sure is the mean of per-user differences between two systems?

    Users are drawn anew with replacement 10,000 times. Users with the same difference are counted
    together, which draws from the same distribution.
    """
    values, counts = np.unique(np.round(differences, 12), return_counts=True)
    rng = np.random.default_rng(seed)
    users, at_a_time = len(differences), max(1, _CHUNK // len(values))
    means = np.concatenate(
        [
            rng.multinomial(users, counts / users, min(at_a_time, _RESAMPLES - first))
            @ values
            / users
            for first in range(0, _RESAMPLES, at_a_time)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    # The resamples on the far side of 0; one more, as the data themselves are one.
    tail = (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (_RESAMPLES + 1)
    return Difference(float(differences.mean()), float(low), float(high), min(1.0, 2 * float(tail)))
