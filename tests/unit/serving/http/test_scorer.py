"""What the server computes is what the Python API recommends, whatever is computed together."""

import dataclasses

import jax
import numpy as np
import pytest

from emkd_jax.errors import RunError
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.model.counts import CountModel, CountSettings
from emkd_jax.serving.http import scorer
from emkd_jax.serving.http.scorer import Query, Scorer
from emkd_jax.serving.model import Model
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_experiment

HISTORIES = [[5], [], [1, 2, 3], list(range(1, 21)), [30, 1] * 10]


def queries(**options):
    return [Query(np.array(history, np.int32), k=4, **options) for history in HISTORIES]


@pytest.fixture(params=[False, True], ids=['networks', 'networks and counts'])
def model(request, make_run):
    run = make_run()
    split = run.experiment.split
    if request.param:
        member = CountMember(CountModel(split.train, NUM_ITEMS, CountSettings()), 2.0)
        run.__dict__['counts'] = member
    return Model.from_run(run)


@pytest.mark.parametrize('exclude_seen', [True, False])
def test_answers_are_those_of_the_python_api(model, exclude_seen):
    found = Scorer(model)(queries(exclude_seen=exclude_seen))
    table = model.recommend(HISTORIES, k=4, exclude_seen=exclude_seen)
    for row, [best] in enumerate(found):
        expected = table[table['row'] == row]
        assert model.item_ids[best.items - 1].tolist() == expected['item'].tolist()
        np.testing.assert_allclose(best.scores, expected['score'], rtol=1e-5)


def test_each_network_recommends_as_it_does_alone(model):
    for found, history in zip(Scorer(model)(queries(each_network=True)), HISTORIES, strict=True):
        assert len(found) == 1 + 3
        for n, best in enumerate(found[1:]):
            table = model.recommend([history], k=4, network=n)
            assert model.item_ids[best.items - 1].tolist() == table['item'].tolist()


def test_what_is_computed_together_changes_nothing(model):
    compute = Scorer(model)
    mixed = [
        query._replace(k=1 + place, each_network=place == 2, exclude_seen=place != 3)
        for place, query in enumerate(queries())
    ]
    for together, query in zip(compute(mixed), mixed, strict=True):
        [alone] = compute([query])
        assert len(together) == len(alone) == (4 if query.each_network else 1)
        for one, other in zip(together, alone, strict=True):
            assert len(one.items) == query.k
            np.testing.assert_array_equal(one.items, other.items)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


def test_attributes_that_are_added_once_give_the_same_scores():
    made = tiny_experiment(
        tiny_config(
            model__encoder='sasrec_plus',
            model__tied=True,
            model__attribute_inputs=True,
            objective__task='next_item',
        )
    )
    params = jax.device_get(jax.jit(made.ensemble.init)(jax.random.key(0)))
    model = Model(made, params, {})
    table = model.recommend(HISTORIES, k=4)
    for row, [best] in enumerate(Scorer(model)(queries())):
        assert (
            model.item_ids[best.items - 1].tolist() == table['item'][table['row'] == row].tolist()
        )


def test_all_items_of_a_very_long_history_are_left_out(model, monkeypatch):
    monkeypatch.setattr(scorer, 'MOST_HISTORY', 4)
    history = np.arange(1, 29, dtype=np.int32)
    [[best]] = Scorer(model)([Query(history, k=10)])
    assert set(best.items.tolist()) == {29, 30}


def test_no_more_items_than_are_left(model):
    history = np.arange(1, NUM_ITEMS, dtype=np.int32)
    [[best]] = Scorer(model)([Query(history, k=10)])
    assert best.items.tolist() == [NUM_ITEMS]


def test_damaged_parameters_are_an_error(make_run):
    run = make_run()
    params = dict(run.params)
    params['item_head_bias'] = np.full_like(params['item_head_bias'], np.nan)
    model = Model(dataclasses.replace(run.experiment), params, {})
    with pytest.raises(RunError, match='not finite'):
        Scorer(model)(queries()[:1])
