"""Evaluation with item tables that are split over the devices gives the same ranks."""

import jax
import numpy as np
import pytest

from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.diversity import Diversity
from emkd_jax.training import placement
from tests.support.tiny import tiny_config, tiny_experiment

DEVICES = jax.local_devices()


@pytest.mark.parametrize(
    'changes',
    [{}, {'model__encoder': 'sasrec_plus', 'model__tied': True, 'model__attribute_inputs': True}],
    ids=['cloze, a head of its own', 'next items, tied, attributes'],
)
def test_ranks_and_lists_do_not_depend_on_where_the_rows_are(changes):
    task = 'next_item' if changes else 'cloze'
    made = tiny_experiment(tiny_config(objective__task=task, **changes))
    params = jax.device_get(made.initial_state().params)
    # Larger weights than at the start, so that no two items have nearly the same score.
    params = jax.tree.map(lambda x: 20 * x if x.ndim == 3 else x, params)
    found = []
    for shards in (1, len(DEVICES)):
        ensemble = made.ensemble.sharded(shards)
        placed = placement.place(params, DEVICES, shards)
        result = Evaluator(made.config.eval, ensemble, made.split.test)(placed, list_length=5)
        found.append((result, Diversity(ensemble, made.split.test)(placed)))
    (whole, differ), (split, differ_split) = found
    np.testing.assert_array_equal(split.ranks, whole.ranks)
    np.testing.assert_array_equal(split.lists, whole.lists)
    assert split.ensemble == whole.ensemble
    assert differ_split == pytest.approx(differ, rel=1e-4)
