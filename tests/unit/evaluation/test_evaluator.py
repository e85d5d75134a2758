"""Ranks, rules and metrics, against plain loops over the catalogue."""

import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.data.dataset import Holdout, Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.batches import eval_batches
from emkd_jax.evaluation.metrics import metrics_by_rule, target_ranks
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.serving.recommender import Recommender
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS, tiny_config

CONFIG = tiny_config(eval__batch_size=8)
MAX_LEN = CONFIG.model.max_len
ENSEMBLE = make_ensemble(CONFIG, NUM_ITEMS, NUM_ATTRIBUTES)
PARAMS = ENSEMBLE.init(jax.random.key(0))


def make_holdout(rows=60, seed=0):
    """Histories from one item to more than the window shows.

    They have repeated items, and some of them contain their target.
    """
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, NUM_ITEMS + 1, rng.choice([1, 3, 7, 25])) for _ in range(rows)]
    targets = rng.integers(1, NUM_ITEMS + 1, rows).astype(np.int32)
    histories[0] = np.array([7])
    histories[1] = np.array([3, 5, 3])
    targets[:3] = 9, 3, histories[2][0]
    return Holdout(Ragged.from_rows(histories), targets, np.arange(rows))


def candidates(history, target, rule):
    """The items that compete with a target, including the target."""
    left_out = {'window': history[-(MAX_LEN - 1) :], 'history': history, 'none': []}[rule]
    return [i for i in range(1, NUM_ITEMS + 1) if i == target or i not in left_out]


def rank(scores, history, target, rule):
    """1 + the number of other candidates that score at least as high, counted one by one."""
    others = [i for i in candidates(history, target, rule) if i != target]
    return 1 + sum(bool(scores[i] >= scores[target]) for i in others)


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


def ranks_in_batches(holdout, scores):
    """Ranks by `target_ranks`, of batches that `eval_batches` makes for two devices."""
    ranks = np.zeros((len(RULES), len(holdout.targets)), int)
    for places, batch in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, num_devices=2, rows=8):
        for place, *ranked in zip(places, *batch.ranked, strict=True):
            found = jax.jit(target_ranks)(jnp.asarray(scores)[place], *ranked)
            ranks[:, place[place >= 0]] = np.asarray(found)[:, place >= 0]
    return ranks


def all_scores(holdout):
    """The scores of each network, computed in the plain way: all slots of inputs of full width."""
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
    return jnp.stack(ENSEMBLE.scores(ENSEMBLE.split(params), items))


@pytest.mark.parametrize('levels', [2, 5, 10_000])
def test_ranks_equal_a_loop_over_the_candidates(levels):
    holdout = make_holdout()
    # Few levels mean many ties. Class 0 has the highest score and must never compete.
    scores = np.random.default_rng(1).integers(levels, size=(60, NUM_ITEMS + 1))
    scores[:, 0] = levels
    for kind in (np.float32, np.int32):
        ranks = ranks_in_batches(holdout, scores.astype(kind))
        np.testing.assert_array_equal(ranks, expected_ranks(scores, holdout))


def test_constant_scores_give_the_worst_rank():
    holdout = make_holdout()
    ranks = ranks_in_batches(holdout, np.ones((60, NUM_ITEMS + 1), np.float32))
    for i, rule in enumerate(RULES):
        for u in range(60):
            worst = len(candidates(holdout.histories[u], holdout.targets[u], rule))
            assert ranks[i, u] == worst


def test_each_rule_leaves_out_its_items():
    # The history has 20 before the window and 21 in it. It also has the target 22, which competes.
    history = np.array([20, *[1] * 4, 21, 22, 2])
    assert len(history) > MAX_LEN - 1
    holdout = Holdout(Ragged.from_rows([history]), np.array([22], np.int32), np.arange(1))
    scores = np.zeros((1, NUM_ITEMS + 1), np.float32)
    scores[0, [20, 21, 22, 23]] = 3, 3, 2, 3
    ranks = ranks_in_batches(holdout, scores)[:, 0]
    assert dict(zip(RULES, ranks.tolist(), strict=True)) == {'window': 3, 'history': 2, 'none': 4}


def test_every_row_is_in_one_batch_and_equal_on_any_number_of_devices():
    holdout = make_holdout()
    batched = []
    for num_devices in (1, 2, 4):
        rows = {}
        for places, batch in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, num_devices, 8):
            assert places.shape == (num_devices, 8)
            for place, *row in zip(
                *(
                    x.reshape(num_devices * 8, *x.shape[2:])
                    for x in (places, batch.items, *batch.ranked)
                ),
                strict=True,
            ):
                if place >= 0:
                    assert place not in rows
                    rows[int(place)] = row
        assert sorted(rows) == list(range(60))
        batched.append(rows)
    for u, (items, target, others, visible) in batched[0].items():
        history = holdout.histories[u].tolist()
        real = [*history[-(MAX_LEN - 1) :], NUM_ITEMS + 1]
        assert items.tolist() == [0] * (len(items) - len(real)) + real
        assert target == holdout.targets[u]
        distinct = set(history) - {target}
        assert sorted(others[others > 0]) == sorted(distinct)
        assert set(others[:visible]) == set(history[-(MAX_LEN - 1) :]) - {target}
        for other in batched[1:]:
            assert other[u][0].tolist() == items.tolist()


def test_short_histories_are_in_narrow_batches():
    histories = Ragged.from_rows([np.arange(1, n + 1) for n in [20, 4, 2] * 8])
    holdout = Holdout(histories, np.full(24, 30, np.int32), np.arange(24))
    slots = [b.items.shape[-1] for _, b in eval_batches(holdout, MAX_LEN, NUM_ITEMS + 1, 1, 8)]
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
    """Neither the next parameters nor the test set after the validation set compile again."""
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


@pytest.mark.parametrize(
    'use',
    [
        lambda ensemble: Evaluator(CONFIG.eval, ensemble, make_holdout(4), jax.devices()[:1]),
        lambda ensemble: Recommender(ensemble, [], np.arange(NUM_ITEMS + 1) > 0, 3, True, 8),
    ],
    ids=['Evaluator', 'Recommender'],
)
def test_compiled_functions_of_many_ensembles_are_not_all_kept(use):
    """The caches that spare a run from compiling twice are bounded."""
    ensembles = []
    for width in range(16, 160, 8):
        ensemble = make_ensemble(tiny_config(model__hidden_dim=width), NUM_ITEMS, NUM_ATTRIBUTES)
        use(ensemble)
        ensembles.append(weakref.ref(ensemble))
    del ensemble
    gc.collect()
    assert sum(ref() is not None for ref in ensembles) <= 8
