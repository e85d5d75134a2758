"""Rows that are folded have the maximum and the sum that they had."""

import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.folding import fold


@pytest.mark.parametrize('classes', [1, 30, 1023, 1024, 2500, 11_925])
def test_maxima_and_counts_stay_the_same(classes):
    random = np.random.default_rng(classes)
    x = random.normal(size=(3, classes)).astype(np.float32)
    x[1, classes // 2] = np.inf
    folded = fold(jnp.maximum, jnp.asarray(x))
    np.testing.assert_array_equal(folded.max(1), x.max(1))
    counts = (x > 0).astype(np.int32)
    np.testing.assert_array_equal(fold(jnp.add, jnp.asarray(counts)).sum(1), counts.sum(1))
    assert folded.shape[1] <= max(1023, classes / 8 + 1023)


def test_not_a_number_is_not_lost():
    x = np.zeros((1, 5000), np.float32)
    for place in (0, 2000, 4999):
        x[0, place] = np.nan
        assert np.isnan(fold(jnp.maximum, jnp.asarray(x)).max(1))
        x[0, place] = 0
