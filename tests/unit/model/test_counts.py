"""Transition counts against their formula, written out in loops."""

import math

import jax
import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.model import counts
from emkd_jax.model.counts import CountModel, CountSettings

NUM_ITEMS = 9
GAINS = {'root': lambda d: d**-0.5, 'inverse': lambda d: 1 / d, 'decay': lambda d: 0.7 ** (d - 1)}

SETTINGS = [
    CountSettings('decay', 3, 20.0, 0.0, 12, True),
    CountSettings('root', 2, 50.0, -0.3, 4, False),
    CountSettings('inverse', 30, 5.0, -0.1, 9, True),
]


def histories(count=30, longest=20):
    rng = np.random.default_rng(0)
    return [rng.integers(1, NUM_ITEMS, rng.integers(1, longest)).tolist() for _ in range(count)]


def by_hand(train, history, settings):
    """The score of every item; item 9 has no training event."""
    gain = GAINS[settings.gain]
    counts = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    for row in train:
        for later, item in enumerate(row):
            for distance in range(1, min(settings.reach, later) + 1):
                counts[row[later - distance], item] += gain(distance)
    newest = history[::-1][: settings.history]
    weights = [0.6**age for age in range(len(newest))]
    if settings.tail and len(newest) > 7:
        head = sum(weights[:7])
        weights = [0.8 * w / head for w in weights[:7]] + [0.2 / (len(newest) - 7)] * (
            len(newest) - 7
        )
    total = sum(weights)
    events = np.bincount(np.concatenate(train), minlength=NUM_ITEMS + 1)
    share = np.maximum(events, 0.5) / events.sum()
    return [
        sum(
            w / total * math.log(1 + counts[item, a] * NUM_ITEMS / settings.scale)
            for w, item in zip(weights, newest, strict=True)
        )
        + settings.popularity * math.log(share[a])
        for a in range(NUM_ITEMS + 1)
    ]


@pytest.mark.parametrize('settings', SETTINGS, ids=lambda s: s.gain)
def test_scores_are_those_of_the_formula(settings):
    train, asked = histories(), [*histories(12), []]
    model = CountModel(Ragged.from_rows(train), NUM_ITEMS, settings)
    found = model.scores(Ragged.from_rows(asked), np.arange(len(asked)))
    expected = [by_hand(train, history, settings) for history in asked]
    np.testing.assert_allclose(found[:, 1:], np.array(expected)[:, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('settings', SETTINGS, ids=lambda s: s.gain)
def test_the_exported_form_computes_the_same(settings):
    model = CountModel(Ragged.from_rows(histories()), NUM_ITEMS, settings)
    asked = Ragged.from_rows([*histories(12), []])
    items = np.zeros((len(asked), 20), np.int32)
    for row in range(len(asked)):
        items[row, 20 - asked.lengths[row] :] = asked[row]
    found = jax.jit(model.device_scores)(items)
    expected = model.scores(asked, np.arange(len(asked)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_row_minus_one_is_an_empty_history():
    model = CountModel(Ragged.from_rows(histories()), NUM_ITEMS, SETTINGS[1])
    asked = Ragged.from_rows([[1, 2], []])
    np.testing.assert_array_equal(
        model.scores(asked, np.array([-1])), model.scores(asked, np.array([1]))
    )


def test_counting_in_ranges_changes_nothing(monkeypatch):
    train = Ragged.from_rows(histories())
    whole = CountModel(train, NUM_ITEMS, SETTINGS[0])
    monkeypatch.setattr(counts, '_PAIRS_AT_A_TIME', 100)
    ranges = CountModel(train, NUM_ITEMS, SETTINGS[0])
    assert (whole._transitions != ranges._transitions).nnz == 0
    assert whole._transitions.nnz == ranges._transitions.nnz > 30
