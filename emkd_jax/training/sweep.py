"""Several runs of one configuration that train together: its seeds, and values of some options."""

import itertools
import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Float32

from emkd_jax.errors import UserError
from emkd_jax.runs.experiment import check_config
from emkd_jax.runs.reporting import say
from emkd_jax.training.step import SETTINGS

_OPTIONS = {name.split('.')[1]: name for name in SETTINGS}


class Member(NamedTuple):
    """A run among others; `name` is its folder's, `config` what it would be trained with alone."""

    name: str
    config: ml_collections.ConfigDict


class Together(NamedTuple):
    """What tells the runs of one compiled step apart; `settings` are those in which they differ."""

    names: tuple[str, ...]
    settings: dict[str, Float32[np.ndarray, ' runs']]


def members(config: ml_collections.ConfigDict) -> list[Member]:
    """The runs that `train.num_seeds` and `sweep` ask for; none where there is but one.

    Raises:
      UserError: a value to try makes no sense.
    """
    tried = {option: _numbers(option, values) for option, values in config.sweep.items() if values}
    if not tried and config.train.num_seeds == 1:
        return []
    found = []
    for values in itertools.product(*tried.values()):
        for seed in range(config.seed, config.seed + config.train.num_seeds):
            alone = config.copy_and_resolve_references()
            alone.seed, alone.train.num_seeds = seed, 1
            for option, value in zip(tried, values, strict=True):
                alone.sweep[option] = ()
                alone.update_from_flattened_dict({_OPTIONS[option]: value})
            check_config(alone)
            parts = [f'{option}_{value}' for option, value in zip(tried, values, strict=True)]
            found.append(Member('_'.join([*parts, f'seed_{seed}']), alone))
    return found


def together(runs: Sequence[Member]) -> Together:
    """How `runs`, whose configurations differ in seeds and SETTINGS alone, train together."""
    values = {
        name: np.array([_value(run.config, name) for run in runs], np.float32) for name in SETTINGS
    }
    return Together(
        tuple(run.name for run in runs),
        {name: of_runs for name, of_runs in values.items() if np.ptp(of_runs)},
    )


def summary(config: ml_collections.ConfigDict, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """results.json of several runs, from those of each.

    Returns:
      'tried': for every combination of values its 'settings', 'seeds', and mean and deviation over
      the seeds of 'validation' and of each metric of 'test'; the best on validation comes first.
    """
    swept = [option for option, values in config.sweep.items() if values]
    groups = {}
    for result in results:
        settings = {option: _value(result['config'], _OPTIONS[option]) for option in swept}
        groups.setdefault(tuple(settings.items()), []).append(result)
    tried = [
        {
            'settings': dict(settings),
            'seeds': [result['config']['seed'] for result in group],
            'validation': spread([result['best_validation'] for result in group]),
            'test': {
                rule: {
                    metric: spread([result['test'][rule][metric] for result in group])
                    for metric in metrics
                }
                for rule, metrics in group[0]['test'].items()
            },
        }
        for settings, group in groups.items()
    ]
    shared = ('data', 'floors', 'steps', 'device', 'versions')
    return (
        {name: results[0][name] for name in shared}
        | {
            'config': json.loads(config.to_json_best_effort()),
            'tried': sorted(tried, key=lambda one: -one['validation']['mean']),
        }
        | took(results, config.train.max_together)
    )


def took(results: Sequence[dict[str, Any]], together: int) -> dict[str, float]:
    """'seconds' of all, and 'sequences_per_second' of so many runs `together`, on average."""
    groups = [results[first : first + together] for first in range(0, len(results), together)]
    return {
        'seconds': sum(max(result['seconds'] for result in group) for group in groups),
        'sequences_per_second': statistics.fmean(
            sum(result['sequences_per_second'] for result in group) for group in groups
        ),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1; None of one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {'mean': statistics.fmean(values), 'deviation': deviation}


def print_summary(results: dict[str, Any]) -> None:
    """A line for every combination of values, the best on validation first."""
    rule = results['config']['eval']['rule']
    stand_in = ' (STAND-IN DATA)' if results['data']['stand_in'] else ''
    say(f"\nTest on {results['data']['name']}{stand_in}, rule '{rule}', best on validation first")
    for one in results['tried']:
        settings = ', '.join(f'{option} {value:g}' for option, value in one['settings'].items())
        metrics = ', '.join(
            f'{metric} {shown(one["test"][rule][metric])}' for metric in ('HR@10', 'NDCG@10')
        )
        say(
            f'{settings or "as configured"}, {len(one["seeds"])} seed(s): {metrics} '
            f'(validation NDCG@10 {shown(one["validation"])})'
        )
    say(
        f'\n{results["seconds"]:.0f} s, {results["sequences_per_second"]:.0f} sequences/s in all '
        f'on {results["device"]}'
    )


def shown(of: dict[str, float | None]) -> str:
    """Mean ± deviation, for people."""
    deviation = '' if of['deviation'] is None else f' ± {of["deviation"]:.4f}'
    return f'{of["mean"]:.4f}{deviation}'


def _numbers(option, values):
    try:
        return list(dict.fromkeys(float(value) for value in values))
    except (TypeError, ValueError) as error:
        raise UserError(f'sweep.{option} is {values}; give it numbers: (1e-3,3e-3).') from error


def _value(config, name):
    room, option = name.split('.')
    return config[room][option]
