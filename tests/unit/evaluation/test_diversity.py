"""Overlap and divergence of the networks, against plain NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.data.splits import leave_one_out
from emkd_jax.evaluation.diversity import Diversity
from tests.support import small
from tests.support.tiny import tiny_data


@pytest.fixture(scope='module')
def ensemble():
    return small.ensemble()


@pytest.fixture(scope='module')
def params(ensemble):
    return jax.jit(ensemble.init)(jax.random.key(0))


def test_overlap_and_divergence_are_means_over_pairs_and_users(ensemble, params):
    holdout = leave_one_out(tiny_data()).validation
    items = np.zeros((len(holdout.targets), small.MAX_LEN), np.int32)
    items[:, -1] = small.NUM_ITEMS + 1
    for row, history in zip(items, holdout.histories, strict=True):
        seen = history[-(small.MAX_LEN - 1) :]
        row[small.MAX_LEN - 1 - len(seen) : -1] = seen
    hidden = ensemble.hidden(params, jnp.asarray(items))[:, :, -1]
    logits = np.asarray(ensemble.item_logits(params, hidden))[..., 1:].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    overlaps, divergences = [], []
    for a, b in itertools.permutations(range(3), 2):
        for user_a, user_b in zip(p[a], p[b], strict=True):
            best = set(np.argsort(-user_a)[:10]), set(np.argsort(-user_b)[:10])
            overlaps.append(len(best[0] & best[1]) / 10)
            divergences.append((user_a * np.log(user_a / user_b)).sum())
    found = Diversity(ensemble, holdout)(params)
    assert found['overlap@10'] == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert found['kl'] == pytest.approx(np.mean(divergences), rel=1e-4)


def test_equal_networks_do_not_differ(ensemble, params):
    twins = jax.tree.map(lambda x: jnp.repeat(x[:1], len(x), axis=0), params)
    found = Diversity(ensemble, leave_one_out(tiny_data()).validation)(twins)
    assert found['overlap@10'] == 1
    assert found['kl'] == pytest.approx(0, abs=1e-6)


def test_a_single_network_has_no_diversity(params):
    alone = small.ensemble(ensemble__num_networks=1)
    assert Diversity(alone, leave_one_out(tiny_data()).validation)(params) == {}
