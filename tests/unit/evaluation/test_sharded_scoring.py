"""Evaluation with item tables that are split over the devices gives the same ranks."""

import jax
import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError
from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.evaluation.diversity import Diversity
from emkd_jax.evaluation.scoring import Scorer
from emkd_jax.model.counts import CountModel, CountSettings
from emkd_jax.model.sharded_tables import rows_per_device
from emkd_jax.serving.recommender import Recommender
from emkd_jax.training import placement
from tests.support.tiny import tiny_config, tiny_experiment

DEVICES = jax.local_devices()


@pytest.mark.parametrize(
    'changes',
    [{}, {'model__encoder': 'sasrec_plus', 'model__tied': True, 'model__attribute_inputs': True}],
    ids=['cloze, a head of its own', 'next items, tied, attributes'],
)
@pytest.mark.parametrize('counted', [False, True])
def test_ranks_and_lists_do_not_depend_on_where_the_rows_are(changes, counted):
    task = 'next_item' if changes else 'cloze'
    made = tiny_experiment(tiny_config(objective__task=task, **changes))
    params = jax.device_get(made.initial_state().params)
    # Larger weights than at the start, so that no two items have nearly the same score.
    params = jax.tree.map(lambda x: 4 * x if x.ndim == 3 else x, params)
    model = CountModel(made.split.train, made.ensemble.network.num_items, CountSettings())
    counts = CountMember(model, 2.0) if counted else None
    found = []
    for shards in (1, len(DEVICES)):
        ensemble = made.ensemble.sharded(shards)
        placed = placement.place(params, DEVICES, shards)
        evaluate = Evaluator(made.config.eval, ensemble, made.split.test, counts=counts)
        result = evaluate(placed, list_length=5)
        weights = evaluate.find_weight(placed, model)
        found.append((result, weights, Diversity(ensemble, made.split.test)(placed)))
    (whole, weights, differ), (split, weights_split, differ_split) = found
    np.testing.assert_array_equal(split.ranks, whole.ranks)
    np.testing.assert_array_equal(split.lists, whole.lists)
    assert split.ensemble == whole.ensemble
    assert split.without_counts == whole.without_counts
    assert weights_split == weights
    assert len(set(weights.values())) > 1
    assert differ_split == pytest.approx(differ, rel=1e-4)


@pytest.mark.parametrize('device', range(len(DEVICES)))
def test_a_score_that_is_not_finite_is_seen_on_whichever_device_it_is(device):
    made = tiny_experiment(tiny_config())
    params = jax.device_get(made.initial_state().params)
    params['item_head_bias'] = params['item_head_bias'].copy()
    num_items, shards = made.ensemble.network.num_items, len(DEVICES)
    params['item_head_bias'][-1, rows_per_device(num_items + 1, shards) * device] = np.nan
    evaluate = Evaluator(made.config.eval, made.ensemble.sharded(shards), made.split.test)
    with pytest.raises(RunError, match='not finite'):
        evaluate(placement.place(params, DEVICES, shards))


@pytest.mark.parametrize('k', [3, 40])
@pytest.mark.parametrize('counted', [False, True])
def test_the_best_of_every_shard_are_the_best_of_all(k, counted):
    """Among ties, of which there are many here, the lower id wins, on whichever device it is."""
    made = tiny_experiment(tiny_config())
    params = jax.device_get(made.initial_state().params)
    params = jax.tree.map(lambda x: np.round(20 * x) if x.ndim == 3 else x, params)
    num_items = made.ensemble.network.num_items
    random = np.random.default_rng(0)
    histories = Ragged.from_rows([random.integers(1, num_items + 1, n) for n in (0, 1, 5, 9, 30)])
    allowed = np.arange(num_items + 1) % 7 > 0
    model = CountModel(made.split.train, num_items, CountSettings())
    counts = CountMember(model, 2.0) if counted else None
    found = []
    for shards in (1, len(DEVICES)):
        ensemble = made.ensemble.sharded(shards)
        networks = Scorer(ensemble, DEVICES).networks(placement.place(params, DEVICES, shards))
        found.append(Recommender(ensemble, networks, allowed, k, True, 4, counts)(histories))
    (items, scores), (split_items, split_scores) = found
    for whole, split in zip(items, split_items, strict=True):
        np.testing.assert_array_equal(split, whole)
    for whole, split in zip(scores, split_scores, strict=True):
        np.testing.assert_allclose(split, whole, rtol=1e-5)
