"""Evaluation agrees with the released code, on every case in the golden folder."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from emkd_jax.data.dataset import Holdout, Ragged
from emkd_jax.evaluation import RULES, Evaluator
from tests.support import golden_cases

cases = pytest.mark.parametrize('path', golden_cases.FILES, ids=lambda path: path.stem)


@functools.cache
def case_of(path):
    return golden_cases.Case(path)


@functools.cache
def evaluated(path):
    case = case_of(path)
    histories = [row[row > 0] for row in case.arrays['eval_history']]
    targets = case.arrays['eval_answer'].astype(np.int32)
    holdout = Holdout(Ragged.from_rows(histories), targets, np.arange(len(targets)))
    options = ml_collections.ConfigDict({'ks': (1, 5, 10, 20), 'batch_size': 16, 'rule': 'window'})
    return Evaluator(options, case.ensemble, holdout, jax.devices()[:1])(case.params)


@cases
def test_scores(path):
    case = case_of(path)
    items = np.zeros((len(case.arrays['eval_answer']), case.max_len), np.int32)
    items[:, -1] = case.ensemble.network.mask_token
    history = case.arrays['eval_history'][:, -(case.max_len - 1) :]
    items[:, -1 - history.shape[1] : -1] = history

    score = jax.jit(lambda params, items: case.ensemble.score(case.ensemble.split(params), items))
    found = score(case.params, jnp.asarray(items))[:, 1:]
    assert golden_cases.relative_error(found, case.arrays['eval_scores'][:, 1:]) <= 1e-5


@cases
def test_ranks(path):
    found = evaluated(path).ranks[0, RULES.index('window')]
    np.testing.assert_array_equal(found - 1, case_of(path).arrays['eval_rank'])


@cases
def test_metrics(path):
    found = evaluated(path).ensemble['window']
    released = {
        name.removeprefix('metric/').replace('Recall', 'HR'): float(value)
        for name, value in case_of(path).arrays.items()
        if name.startswith('metric/')
    }
    assert released
    assert {name: found[name] for name in released} == pytest.approx(released, rel=1e-6)
