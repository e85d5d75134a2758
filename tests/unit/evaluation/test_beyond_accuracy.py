"""Coverage, popularity and diversity of lists, against figures computed by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.baselines import evaluate_baselines
from emkd_jax.evaluation.beyond_accuracy import ListMetrics
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.evaluation.metrics import best_items
from emkd_jax.model.counts import CountModel, CountSettings
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_experiment

# Item 1 has the attributes 1 and 2, item 2 the attribute 2, item 3 both and 3, and item 4 none.
ATTRIBUTES = np.array([[0, -1, -1], [1, 2, -1], [2, 2, -1], [1, 2, 3], [-1, -1, -1]], np.int32)
EVENTS = np.array([1, 1, 1, 2, 3, 3], np.int32)


def test_figures_counted_by_hand():
    found = ListMetrics(EVENTS, 4, ATTRIBUTES, 3)(np.array([[1, 2], [1, 3]], np.int32))
    assert found['coverage@2'] == 3 / 4
    assert found['popularity@2'] == (3 + 1 + 3 + 2) / 4
    # 1 and 2 share one of two attributes, 1 and 3 two of three.
    assert found['diversity@2'] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_places_without_an_item_and_items_without_attributes_do_not_count():
    measure = ListMetrics(EVENTS, 4, ATTRIBUTES, 3)
    found = measure(np.array([[1, 2, 0], [4, 0, 0]], np.int32))
    assert found['coverage@3'] == 3 / 4
    assert found['popularity@3'] == (3 + 1 + 0) / 3
    assert found['diversity@3'] == pytest.approx(1 / 2)
    assert measure(np.array([[4, 1]], np.int32))['diversity@2'] == 1
    assert measure(np.zeros((2, 3), np.int32)) == {
        'coverage@3': 0,
        'popularity@3': 0,
        'diversity@3': 0,
    }


def test_without_attributes_there_is_no_diversity():
    found = ListMetrics(EVENTS, 4, np.zeros((5, 1), np.int32), 0)(np.array([[1, 2]], np.int32))
    assert found.keys() == {'coverage@2', 'popularity@2'}


def test_best_items_leave_out_others_and_order_ties_by_id():
    scores = np.array([[9.0, 1.0, 3.0, 3.0, 2.0], [9.0, 1.0, 1.0, 1.0, 1.0]], np.float32)
    others = np.array([[2, 0], [0, 0]], np.int32)
    found = jax.jit(best_items, static_argnums=2)(scores, others, 4)[1]
    assert found.tolist() == [[3, 4, 1, 0], [1, 2, 3, 4]]


@pytest.mark.parametrize('num_devices', [1, 4])
def test_lists_are_those_of_the_scores(num_devices):
    made = tiny_experiment(tiny_config(model__num_blocks=1))
    ensemble, split = made.ensemble, made.split
    params = jax.jit(ensemble.init)(jax.random.key(0))
    counts = CountMember(CountModel(split.train, NUM_ITEMS, CountSettings()), 2.0)
    on = jax.devices()[:num_devices]
    lists = Evaluator(made.config.eval, ensemble, split.test, on, counts)(params, 5).lists
    assert lists.shape == (3 + 2, len(split.test.targets), 5)
    histories, slots = split.test.histories, made.config.model.max_len
    for row in range(0, len(histories), 7):
        history = histories[row]
        window = [*history, NUM_ITEMS + 1][-slots:]
        items = np.array([[0] * (slots - len(window)) + window], np.int32)
        networks = np.array(ensemble.scores(ensemble.split(params), jnp.asarray(items)))[:, 0]
        together = networks.sum(0)
        counted = counts.scores(histories, np.array([row]))[0]
        seen = set(history.tolist()) - {int(split.test.targets[row])}
        for scorer, scores in enumerate([together + counted, *networks, together]):
            best = [i for i in np.argsort(-scores[1:], kind='stable') + 1 if i not in seen][:5]
            assert lists[scorer, row].tolist() == best


def test_lists_of_the_baselines():
    made = tiny_experiment()
    split = made.split
    model = CountModel(split.train, NUM_ITEMS, CountSettings())
    _, lists = evaluate_baselines(split.train, split.test, NUM_ITEMS, 8, (10,), model)
    popularity = np.bincount(split.train.values, minlength=NUM_ITEMS + 1)
    order = np.argsort(-popularity[1:], kind='stable') + 1
    train = [split.train[row].tolist() for row in range(len(split.train))]
    pairs = [pair for row in train for pair in itertools.pairwise(row)]
    counted = model.scores(split.test.histories, np.arange(len(split.test.targets)))
    for row, history in enumerate(split.test.histories[i] for i in range(len(split.test.targets))):
        seen = set(history.tolist()) - {int(split.test.targets[row])}
        assert lists[0, row].tolist() == [i for i in order if i not in seen][:10]
        best = np.argsort(-counted[row][1:], kind='stable') + 1
        after = np.bincount([b for a, b in pairs if a == history[-1]], minlength=NUM_ITEMS + 1)
        markov = sorted(range(1, NUM_ITEMS + 1), key=lambda i: (-after[i], -popularity[i], i))
        assert lists[1, row].tolist() == [i for i in markov if i not in seen][:10]
        assert lists[2, row].tolist() == [i for i in best if i not in seen][:10]
