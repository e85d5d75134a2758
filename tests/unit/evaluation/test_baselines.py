"""Popularity and the first-order Markov chain, counted by hand and on the real data."""

import numpy as np
import pytest

from emkd_jax.data import released
from emkd_jax.data.dataset import Dataset, Holdout, Ragged
from emkd_jax.data.splits import leave_one_out
from emkd_jax.evaluation import RULES
from emkd_jax.evaluation.baselines import evaluate_baselines, transitions
from emkd_jax.model.counts import SETTINGS, CountModel, CountSettings

KS = (1, 2, 3, 4, 5)


def found_at(metrics, rule):
    """The rank of the single held-out item."""
    return next((k for k in KS if metrics[rule][f'HR@{k}'] == 1), None)


def evaluate(train, history, target):
    holdout = Holdout(
        Ragged.from_rows([np.array(history)]), np.array([target], np.int32), np.arange(1)
    )
    rows = Ragged.from_rows([np.array(row) for row in train])
    counts = CountModel(rows, 5, CountSettings())
    return evaluate_baselines(rows, holdout, 5, max_len=3, ks=KS, counts=counts)[0]


def test_transitions_stay_within_a_history():
    followers, counts = transitions(Ragged.from_rows([np.array([1, 2, 1, 2]), np.array([3])]), 4)
    assert [followers[i].tolist() for i in range(5)] == [[], [2], [1], [], []]
    assert [counts[i].tolist() for i in range(5)] == [[], [2], [1], [], []]


# Item 1 has four events, 2 has three, 3 two, 4 one and 5 none. 4 followed 2 once, and 1 twice.
TRAIN = [[1, 2, 1, 2, 1], [2, 4], [3], [3, 1]]


@pytest.mark.parametrize(
    ('target', 'popularity', 'markov'), [(1, 1, 1), (2, 2, 3), (3, 3, 4), (4, 4, 2), (5, 5, 5)]
)
def test_ranks_counted_by_hand(target, popularity, markov):
    found = evaluate(TRAIN, [2], target)
    assert found_at(found['popularity'], 'none') == popularity
    assert found_at(found['markov'], 'none') == markov


def test_without_a_transition_markov_is_popularity():
    found = evaluate(TRAIN, [5], 3)
    assert found['markov'] == found['popularity']


def test_baselines_follow_the_rules():
    # The history has 1 before the window of two items, and 2 in it.
    found = evaluate(TRAIN, [1, 3, 2], 4)
    assert [found_at(found['popularity'], rule) for rule in RULES] == [2, 1, 4]


def test_items_that_tie_follow_their_ids():
    found = [evaluate([[4], [2], [5]], [1], target)['popularity'] for target in (2, 4, 5)]
    assert [found_at(f, 'none') for f in found] == [1, 2, 3]


def test_baselines_on_the_real_toys(real_data):
    content = released.read_verified(released.RELEASES['toys'].histories, real_data)
    histories = released.read_histories(content).histories
    num_items = int(histories.values.max())
    split = leave_one_out(
        Dataset(
            'toys',
            histories,
            np.zeros((num_items + 1, 1), np.int32),
            num_items,
            0,
            np.arange(len(histories)),
            np.arange(num_items),
        )
    )
    counts = CountModel(split.train, num_items, SETTINGS['toys'])
    found = evaluate_baselines(split.train, split.test, num_items, 20, (10,), counts)[0]
    figures = {
        name: [round(found[name]['window'][metric], 4) for metric in ('HR@10', 'NDCG@10')]
        for name in ('popularity', 'markov')
    }
    assert figures == {'popularity': [0.0090, 0.0049], 'markov': [0.0706, 0.0479]}
    # Figures of PCTM that were fitted on the training events alone, with this rule.
    assert found['pctm']['history']['HR@10'] == pytest.approx(0.0983, abs=5e-4)
    assert found['pctm']['history']['NDCG@10'] == pytest.approx(0.0641, abs=5e-4)
