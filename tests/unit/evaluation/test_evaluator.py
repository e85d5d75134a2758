"""Ranks, rules and metrics, against plain loops over the catalogue."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.data.dataset import Holdout, Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.batches import eval_batches
from emkd_jax.evaluation.metrics import metrics_by_rule
from emkd_jax.evaluation.ranking import target_ranks
from emkd_jax.model.ensemble import make_ensemble
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS, tiny_config

CONFIG = tiny_config(eval__batch_size=8)
MAX_LEN = CONFIG.model.max_len
ENSEMBLE = make_ensemble(CONFIG, NUM_ITEMS, NUM_ATTRIBUTES)
PARAMS = ENSEMBLE.init(jax.random.key(0))


def make_holdout(rows=60, seed=0):
    """Histories from one item to more than the window shows, with repeats, the target among them
    now and then.
    """
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, NUM_ITEMS + 1, rng.choice([1, 3, 7, 25])) for _ in range(rows)]
    targets = rng.integers(1, NUM_ITEMS + 1, rows).astype(np.int32)
    histories[0] = np.array([7])
    histories[1] = np.array([3, 5, 3])
    targets[:3] = 9, 3, histories[2][0]
    return Holdout(Ragged.from_rows(histories), targets, np.arange(rows))


def candidates(history, target, rule):
    """What a target competes with, itself included."""
    left_out = {'window': history[-(MAX_LEN - 1) :], 'history': history, 'none': []}[rule]
    return [i for i in range(1, NUM_ITEMS + 1) if i == target or i not in left_out]


def rank(scores, history, target, rule):
    """1 + those above + the others level, one candidate at a time."""
    above = [scores[i] > scores[target] for i in candidates(history, target, rule)]
    level = [scores[i] == scores[target] for i in candidates(history, target, rule) if i != target]
    return 1 + sum(above) + sum(level)


def expected_ranks(scores, holdout):
    return np.array(
        [
            [
                rank(scores[u], holdout.histories[u].tolist(), holdout.targets[u], rule)
                for u in range(len(holdout.targets))
            ]
            for rule in RULES
        ]
    )


def answers(holdout, scores, **sizes):
    """Ranks by `target_ranks`, batches made by `eval_batches`."""
    ranks = np.zeros((len(RULES), len(holdout.targets)), int)
    sizes = {'num_devices': 2, 'rows': 8} | sizes
    for places, batch in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, **sizes):
        for place, _, targets, others, visible in zip(places, *batch, strict=True):
            of_rows = jax.jit(target_ranks)(jnp.asarray(scores)[place], targets, others, visible)
            ranks[:, place[place >= 0]] = np.asarray(of_rows)[:, place >= 0]
    return ranks


def all_scores(holdout):
    """Each network's scores by the plain path: every input at full width, every slot computed."""
    items = np.zeros((len(holdout.targets), MAX_LEN), np.int32)
    for u in range(len(items)):
        visible = [*holdout.histories[u][-(MAX_LEN - 1) :], NUM_ITEMS + 1]
        items[u, -len(visible) :] = visible
    return np.asarray(plain_scores(PARAMS, items))


@jax.jit
def plain_scores(params, items):
    return ENSEMBLE.item_logits(params, ENSEMBLE.hidden(params, items)[:, :, -1])


@jax.jit
def last_slot_scores(params, items):
    return ENSEMBLE.item_logits(params, ENSEMBLE.last_hidden(params, items))


@pytest.mark.parametrize('levels', [2, 5, 10_000])
def test_ranks_equal_a_loop_over_the_candidates(levels):
    holdout = make_holdout()
    # Few levels: many ties. Class 0 scores highest of all and must never compete.
    scores = np.random.default_rng(1).integers(levels, size=(60, NUM_ITEMS + 1))
    scores[:, 0] = levels
    for kind in (np.float32, np.int32):
        ranks = answers(holdout, scores.astype(kind))
        np.testing.assert_array_equal(ranks, expected_ranks(scores, holdout))


def test_constant_scores_give_the_worst_rank():
    holdout = make_holdout()
    ranks = answers(holdout, np.ones((60, NUM_ITEMS + 1), np.float32))
    for i, rule in enumerate(RULES):
        for u in range(60):
            worst = len(candidates(holdout.histories[u], holdout.targets[u], rule))
            assert ranks[i, u] == worst


def test_the_rules_leave_out_what_they_say():
    # 20 is seen before the window, 21 in it; the target 22 is seen too, and stays.
    history = np.array([20, *[1] * 4, 21, 22, 2])
    assert len(history) > MAX_LEN - 1
    holdout = Holdout(Ragged.from_rows([history]), np.array([22], np.int32), np.arange(1))
    scores = np.zeros((1, NUM_ITEMS + 1), np.float32)
    scores[0, [20, 21, 22, 23]] = 3, 3, 2, 3
    ranks = answers(holdout, scores)[:, 0]
    assert dict(zip(RULES, ranks.tolist(), strict=True)) == {'window': 3, 'history': 2, 'none': 4}


def test_every_row_is_asked_once_and_alike_on_any_number_of_devices():
    holdout = make_holdout()
    asked = []
    for num_devices in (1, 2, 4):
        rows = {}
        for places, batch in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, num_devices, 8):
            assert places.shape == (num_devices, 8)
            for place, *row in zip(
                *(x.reshape(num_devices * 8, *x.shape[2:]) for x in (places, *batch)), strict=True
            ):
                if place >= 0:
                    assert place not in rows
                    rows[int(place)] = row
        assert sorted(rows) == list(range(60))
        asked.append(rows)
    for u, (items, target, others, visible) in asked[0].items():
        history = holdout.histories[u].tolist()
        real = [*history[-(MAX_LEN - 1) :], NUM_ITEMS + 1]
        assert items.tolist() == [0] * (len(items) - len(real)) + real
        assert target == holdout.targets[u]
        distinct = set(history) - {target}
        assert sorted(others[others > 0]) == sorted(distinct)
        assert set(others[:visible]) == set(history[-(MAX_LEN - 1) :]) - {target}
        for other in asked[1:]:
            assert other[u][0].tolist() == items.tolist()


def test_short_histories_are_asked_in_narrow_inputs():
    histories = Ragged.from_rows([np.arange(1, n + 1) for n in [20, 4, 2] * 8])
    holdout = Holdout(histories, np.full(24, 30, np.int32), np.arange(24))
    slots = [q.items.shape[-1] for _, q in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, 1, 8)]
    assert slots == [3, 6, 8]


@pytest.fixture(scope='module')
def result():
    return Evaluator(CONFIG.eval, ENSEMBLE, make_holdout(), jax.devices()[:1])(PARAMS)


def test_ranks_of_ensemble_and_networks_equal_the_plain_path(result):
    holdout = make_holdout()
    alone = all_scores(holdout)
    expected = [expected_ranks(s, holdout) for s in (alone.sum(0), *alone)]
    np.testing.assert_array_equal(result.ranks, expected)


def test_scores_do_not_depend_on_the_width_of_the_input():
    holdout = make_holdout()
    alone = all_scores(holdout)
    for places, batch in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, 1, 8):
        narrow = last_slot_scores(PARAMS, batch.items[0])
        real = places[0] >= 0
        np.testing.assert_allclose(narrow[:, real], alone[:, places[0][real]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('num_devices', [2, 4])
def test_ranks_are_the_same_on_any_number_of_devices(result, num_devices):
    evaluator = Evaluator(CONFIG.eval, ENSEMBLE, make_holdout(), jax.devices()[:num_devices])
    np.testing.assert_array_equal(evaluator(PARAMS).ranks, result.ranks)


def test_result_has_the_metrics_of_its_ranks(result):
    for metrics, ranks in zip([result.ensemble, *result.networks], result.ranks, strict=True):
        assert metrics == metrics_by_rule(ranks, CONFIG.eval.ks)
    assert len(result.networks) == CONFIG.ensemble.num_networks


def test_metrics():
    ranks = np.array([[1, 3, 11, 2]] * len(RULES))
    metrics = metrics_by_rule(ranks, (1, 3))
    assert set(metrics) == set(RULES)
    assert metrics['history'] == pytest.approx(
        {
            'HR@1': 1 / 4,
            'NDCG@1': 1 / 4,
            'MRR@1': 1 / 4,
            'HR@3': 3 / 4,
            'NDCG@3': (1 + 1 / 2 + 1 / np.log2(3)) / 4,
            'MRR@3': (1 + 1 / 3 + 1 / 2) / 4,
        }
    )


@pytest.mark.parametrize('network', range(CONFIG.ensemble.num_networks))
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_one_score_that_is_not_finite_is_an_error(network, bad):
    params = PARAMS | {
        'item_head_bias': PARAMS['item_head_bias'].at[network, NUM_ITEMS // 2].set(bad)
    }
    evaluator = Evaluator(CONFIG.eval, ENSEMBLE, make_holdout(20), jax.devices()[:1])
    with pytest.raises(RunError, match='not finite'):
        evaluator(params)


def test_nothing_compiles_again(caplog):
    """Not for the next parameters, and not for the test set after the validation set."""
    ensemble = make_ensemble(tiny_config(model__num_blocks=1), NUM_ITEMS, NUM_ATTRIBUTES)
    params, others = (ensemble.init(jax.random.key(seed)) for seed in (0, 1))
    validate = Evaluator(CONFIG.eval, ensemble, make_holdout(), jax.devices()[:1])
    test = Evaluator(CONFIG.eval, ensemble, make_holdout(seed=2), jax.devices()[:1])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        validate(params)
        assert 'Compiling' in caplog.text
        caplog.clear()
        validate(others)
        test(params)
        assert 'Compiling' not in caplog.text
