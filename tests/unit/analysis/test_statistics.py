"""The paired bootstrap."""

import math

import numpy as np
import pytest

from emkd_jax.analysis.statistics import paired_bootstrap


def test_the_bootstrap_agrees_with_the_normal_approximation():
    differences = np.random.default_rng(0).choice([-1.0, 0, 0, 1], 4000, p=[0.2, 0.3, 0.25, 0.25])
    found = paired_bootstrap(differences)
    error = differences.std() / 4000**0.5
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.1 * error)
    assert found.p == pytest.approx(math.erfc(found.value / error / 2**0.5), abs=0.01)


def test_no_difference_is_never_significant():
    assert paired_bootstrap(np.zeros(50)).p == 1
    assert paired_bootstrap(np.array([1.0, -1.0] * 50)).p > 0.5


def test_the_sign_tells_which_system_is_better():
    assert paired_bootstrap(np.full(50, 0.2)).p < 0.001
    assert paired_bootstrap(np.full(50, -0.2)).high < 0


def test_the_same_differences_give_the_same_interval():
    differences = np.random.default_rng(0).normal(size=200)
    assert paired_bootstrap(differences) == paired_bootstrap(differences)
