"""The summary of runs that trained together."""

import pytest

from emkd_jax.runs.summary import summarise_sweep, timing
from emkd_jax.training.sweep import expand_sweep
from tests.support.tiny import tiny_config


def test_the_summary_has_mean_and_deviation_and_the_best_on_validation_first():
    config = tiny_config(train__num_seeds=2, sweep__kd_weight=(0.0, 0.1))
    results = [
        {
            'config': run.config.to_dict(),
            'best_validation': value,
            'seconds': 5.0 + value,
            'test': {'window': {'HR@10': 2 * value}},
            'sequences_per_second': 10.0,
            'data': {},
            'floors': {},
            'steps': 3,
            'device': 'one',
            'versions': {},
        }
        for run, value in zip(expand_sweep(config), [0.1, 0.2, 0.3, 0.5], strict=True)
    ]
    found = summarise_sweep(config, results)
    assert [one['settings'] for one in found['tried']] == [
        {'objective.kd_weight': 0.1},
        {'objective.kd_weight': 0.0},
    ]
    best = found['tried'][0]
    assert best['seeds'] == [0, 1]
    assert best['validation'] == pytest.approx({'mean': 0.4, 'deviation': 0.02**0.5})
    assert best['test']['window']['HR@10'] == pytest.approx({'mean': 0.8, 'deviation': 0.08**0.5})
    assert (found['sequences_per_second'], found['seconds']) == (40.0, 5.5)
    assert timing(results, 3) == {'seconds': 10.8, 'sequences_per_second': 20.0}
