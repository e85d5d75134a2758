"""The results of runs that trained together, as a table over their settings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from emkd_jax.cli.console import print_table, say
from emkd_jax.config.options import flatten
from emkd_jax.config.stored import to_json
from emkd_jax.training.sweep import SWEPT


def summarise_sweep(
    config: ml_collections.ConfigDict, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """results.json of several runs, from the results of each.

    Returns:
      'tried' has, for every combination of values, its 'settings' by option name, its 'seeds', and
      mean and deviation over the seeds of 'validation' and of each metric of 'test'; the best on
      validation comes first.
    """
    swept = [SWEPT[option] for option, values in config.sweep.items() if values]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        options = flatten(result['config'])
        groups.setdefault(tuple((name, options[name]) for name in swept), []).append(result)
    tried: list[dict[str, Any]] = [
        {
            'settings': dict(settings),
            'seeds': [result['config']['seed'] for result in group],
            'validation': mean_and_std([result['best_validation'] for result in group]),
            'test': {
                rule: {
                    metric: mean_and_std([result['test'][rule][metric] for result in group])
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
            'config': to_json(config),
            'tried': sorted(tried, key=lambda one: -one['validation']['mean']),
        }
        | timing(results, config.train.max_together)
    )


def timing(results: Sequence[dict[str, Any]], together: int) -> dict[str, float]:
    """'seconds' of all runs, and mean 'sequences_per_second' of `together` runs at a time."""
    groups = [results[first : first + together] for first in range(0, len(results), together)]
    return {
        'seconds': sum(max(result['seconds'] for result in group) for group in groups),
        'sequences_per_second': statistics.fmean(
            sum(result['sequences_per_second'] for result in group) for group in groups
        ),
    }


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """'mean' and sample standard 'deviation' (None for a single value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {'mean': statistics.fmean(values), 'deviation': deviation}


def format_mean_std(value: Mapping[str, float | None]) -> str:
    """'mean ± deviation', for people."""
    deviation = '' if value['deviation'] is None else f' ± {value["deviation"]:.4f}'
    return f'{value["mean"]:.4f}{deviation}'


def print_summary(results: dict[str, Any]) -> None:
    """Prints a line for every combination of values, the best on validation first."""
    rule = results['config']['eval']['rule']
    stand_in = ' (STAND-IN DATA)' if results['data']['stand_in'] else ''
    rows = []
    for one in results['tried']:
        settings = ', '.join(f'{name.split(".")[1]} {v:g}' for name, v in one['settings'].items())
        shown = [one['test'][rule]['HR@10'], one['test'][rule]['NDCG@10'], one['validation']]
        rows.append(
            [settings or 'as configured', str(len(one['seeds'])), *map(format_mean_std, shown)]
        )
    print_table(
        f"Test on {results['data']['name']}{stand_in}, rule '{rule}', best on validation first",
        ['', 'seeds', 'HR@10', 'NDCG@10', 'validation NDCG@10'],
        rows,
    )
    say(
        f'\n{results["seconds"]:.0f} s, {results["sequences_per_second"]:.0f} sequences/s in all '
        f'on {results["device"]}'
    )
