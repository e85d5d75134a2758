"""Transition counts as a member: the ranks, the settings and the weight."""

import dataclasses

import jax
import numpy as np
import pytest

from emkd_jax.data.splits import leave_one_out
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.counts import WEIGHTS, CountMember, choose_settings, count_ranks
from emkd_jax.evaluation.metrics import metrics_by_rule
from emkd_jax.model.counts import SETTINGS, CountModel
from emkd_jax.training import placement
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_data, tiny_experiment

MAX_LEN = tiny_config().model.max_len


@pytest.fixture(scope='module')
def split():
    return leave_one_out(tiny_data())


@pytest.fixture(scope='module')
def model(split):
    return CountModel(split.train, NUM_ITEMS, SETTINGS['toys'])


def test_ranks_follow_the_rules_and_ties_follow_ids(split, model):
    ranks = count_ranks(model, split.test, MAX_LEN)
    scores = model.scores(split.test.histories, np.arange(len(split.test.targets)))
    for user, target in enumerate(split.test.targets):
        history = split.test.histories[user]
        for rule, left_out in zip(
            RULES,
            (
                history[len(history) - MAX_LEN + 1 :] if len(history) >= MAX_LEN else history,
                history,
                [],
            ),
            strict=True,
        ):
            better = [
                item
                for item in range(1, NUM_ITEMS + 1)
                if item != target
                and item not in left_out
                and (scores[user, item], -item) > (scores[user, target], -target)
            ]
            assert ranks[RULES.index(rule), user] == 1 + len(better), (user, rule)


def test_the_evaluator_adds_weighted_counts_to_the_networks(split, model):
    """With a weight that drowns the networks, the ranks are those of the counts but for ties."""
    made = tiny_experiment()
    params = placement.replicate(jax.jit(made.ensemble.init)(jax.random.key(0)), jax.devices()[:1])
    alone = Evaluator(made.config.eval, made.ensemble, split.test, jax.devices()[:1])(params)
    evaluator = Evaluator(
        made.config.eval, made.ensemble, split.test, jax.devices()[:1], CountMember(model, 0.0)
    )
    nothing = evaluator(params)
    assert nothing.ensemble == alone.ensemble == nothing.without_counts
    assert nothing.networks == alone.networks
    assert alone.without_counts is None
    heavy = Evaluator(
        made.config.eval, made.ensemble, split.test, jax.devices()[:1], CountMember(model, 1e5)
    )(params)
    assert heavy.without_counts == alone.ensemble
    counted = metrics_by_rule(count_ranks(model, split.test, MAX_LEN), made.config.eval.ks)
    for metric in ('HR@10', 'NDCG@10'):
        assert heavy.ensemble['none'][metric] == pytest.approx(counted['none'][metric], abs=0.08)


def test_the_weight_is_that_of_the_best_validation(split, model):
    made = tiny_experiment()
    on = jax.devices()[:1]
    params = placement.replicate(jax.jit(made.ensemble.init)(jax.random.key(0)), on)
    tried = Evaluator(made.config.eval, made.ensemble, split.validation, on).find_weight(
        params, model
    )
    assert sorted(tried) == [3 * weight for weight in WEIGHTS]  # there are three networks
    for weight in (0.0, 6.0, 96.0):
        member = CountMember(model, weight)
        found = Evaluator(made.config.eval, made.ensemble, split.validation, on, member)(params)
        assert tried[weight] == pytest.approx(found.ensemble['window']['NDCG@10'], abs=1e-6)


def test_settings_come_from_the_data_set_or_from_validation(split):
    assert choose_settings('beauty', split, NUM_ITEMS, MAX_LEN) == SETTINGS['beauty']
    chosen = choose_settings('shop', split, NUM_ITEMS, MAX_LEN)
    assert chosen in SETTINGS.values()

    def quality(settings):
        ranks = count_ranks(CountModel(split.train, NUM_ITEMS, settings), split.validation, MAX_LEN)
        return metrics_by_rule(ranks, (10,))['history']['NDCG@10']

    assert quality(chosen) == max(map(quality, SETTINGS.values()))
    searched = choose_settings('beauty', split, NUM_ITEMS, MAX_LEN, search=True)
    assert quality(searched) >= quality(chosen)


def test_a_member_is_the_same_after_it_was_stored(split, model):
    member = CountMember(model, 4.0)
    again = CountMember.from_json(member.to_json(), split.train, NUM_ITEMS)
    assert again.weight == 4
    assert again.model.settings == model.settings
    rows = np.arange(3)
    np.testing.assert_array_equal(
        again.scores(split.test.histories, rows), member.scores(split.test.histories, rows)
    )
    assert dataclasses.asdict(model.settings) == member.to_json()['settings']
