"""Makes one record and one curve of finished runs of recipes that differ in their seeds alone:

    python benchmarks/recipes.py FOLDER 'Toys: best=runs/toys_0,runs/toys_1' 'Beauty: best=...'

The record `FOLDER/recipes.json` has, for each recipe, the test of the ensemble with and without
transition counts, of its networks and of the baselines (mean and deviation over the seeds, under
every rule), and the validation NDCG@10 after each validated epoch with the time it took. The plot
`FOLDER/recipes.png` shows these curves. Recipes that are in the record and not named on the command
line are kept; with --add, further seeds of a recipe that is in the record are added to it.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from etils import epath

from emkd_jax.analysis.plots import COLOURS, figure
from emkd_jax.config import get_config
from emkd_jax.config.stored import differences, to_json
from emkd_jax.runs.metrics_log import read_log
from emkd_jax.runs.summary import mean_and_std

METRICS = ('HR@10', 'NDCG@10', 'MRR@10')


def over_seeds(tests):
    """Returns mean and deviation of each of `METRICS` under each rule, over tests of the seeds."""
    return {
        rule: {metric: mean_and_std([test[rule][metric] for test in tests]) for metric in METRICS}
        for rule in tests[0]
    }


def mean_test(tests):
    """Returns the mean of several tests of one run."""
    return {
        rule: {m: statistics.fmean(test[rule][m] for test in tests) for m in METRICS}
        for rule in tests[0]
    }


def curve(folder, rule):
    """Returns the validation NDCG@10 of the ensemble and of its networks, by epoch and seconds."""
    return [
        {
            'epoch': event['epoch'],
            'seconds': round(event['seconds'], 1),
            'ensemble': event['ensemble'][rule]['NDCG@10'],
            'networks': [
                event[name][rule]['NDCG@10'] for name in event if name.startswith('network_')
            ],
        }
        for event in read_log(folder)
        if event['kind'] == 'validation'
    ]


def named(stored):
    """Returns the configuration that a run is named after, such as 'toys:best'."""
    data = stored['data']['name']
    return f'{data}:{stored["name"].removeprefix(data + "_")}'


def command(stored, changed):
    """Returns the command of a run with its `changed_options`."""
    options = ''
    for change in changed:
        name, _, values = change.partition(': ')
        options += f' --config.{name}={values.rpartition(" -> ")[2]}'
    start = f'python launch.py --config={named(stored)} --config.data.source=FOLDER'
    return f'{start} --config.seed=SEED{options}'


def changed_options(stored):
    """Returns the options of a run that its named configuration does not have."""
    config = to_json(get_config(named(stored)))
    return [change for change in differences(config, stored) if not change.startswith('seed:')]


def summarise(folders):
    """Returns the record of one recipe."""
    results = [json.loads((folder / 'results.json').read_text()) for folder in folders]
    for result in results:  # each seed has a teacher of its own
        if result['config']['distill']['teacher']:
            result['config']['distill']['teacher'] = 'TEACHER'
    first = results[0]
    rule = first['config']['eval']['rule']
    for other in results[1:]:
        changes = [c for c in differences(first['config'], other['config']) if 'seed' not in c]
        if changes:
            raise SystemExit(f'{folders[0]} and another run differ: {"; ".join(changes)}')
    with_counts = 'counts' in first
    changed = changed_options(first['config'])
    return {
        'command': command(first['config'], changed),
        'config': first['config'],
        'changed': changed,
        'data': first['data'],
        'seeds': [result['config']['seed'] for result in results],
        'test': {
            'ensemble': over_seeds(
                [r['without_counts' if with_counts else 'test'] for r in results]
            ),
            **(
                {'ensemble and counts': over_seeds([r['test'] for r in results])}
                if with_counts
                else {}
            ),
            'a network alone': over_seeds([mean_test(r['networks']) for r in results]),
        },
        'floors': {
            name: {rule: {m: floor[rule][m] for m in METRICS} for rule in floor}
            for name, floor in first['floors'].items()
        },
        'counts': [result.get('counts') for result in results],
        'best_epoch': [result['best_epoch'] for result in results],
        'validation': [result['best_validation'] for result in results],
        'minutes': [round(result['seconds'] / 60, 1) for result in results],
        'rule': rule,
        'curves': [curve(epath.Path(folder), rule) for folder in folders],
        'device': first['device'],
        'cores': os.cpu_count(),
        'versions': first['versions'],
    }


def pooled(first, first_count, second, second_count):
    """Returns mean and deviation of two groups of values together, each from its own."""
    if 'mean' not in first:
        return {k: pooled(first[k], first_count, second[k], second_count) for k in first}
    count = first_count + second_count
    groups = [(first, first_count), (second, second_count)]
    mean = sum(group['mean'] * n for group, n in groups) / count
    squares = sum(
        (n - 1) * (group['deviation'] or 0.0) ** 2 + n * (group['mean'] - mean) ** 2
        for group, n in groups
    )
    return {'mean': mean, 'deviation': (squares / (count - 1)) ** 0.5}


def added(old, new):
    """Returns the record of a recipe with the seeds of another record of the same recipe."""
    if changes := [c for c in differences(old['config'], new['config']) if 'seed' not in c]:
        raise SystemExit(f'The runs differ from those in the record: {"; ".join(changes)}')
    if set(old['seeds']) & set(new['seeds']):
        raise SystemExit(f'The record has the seeds {old["seeds"]} already.')
    lists = ('seeds', 'counts', 'best_epoch', 'validation', 'minutes', 'curves')
    return old | {
        'test': pooled(old['test'], len(old['seeds']), new['test'], len(new['seeds'])),
        **{name: old[name] + new[name] for name in lists},
    }


def draw(record, file):
    """Draws validation NDCG@10 against minutes: the ensemble, and its networks in thin lines."""
    with figure(file, panels=len(record), width=3.2 * len(record), height=3.0) as axes:
        for axis, (name, recipe) in zip(axes, record.items(), strict=True):
            for number, points in enumerate(recipe['curves']):
                minutes = [point['seconds'] / 60 for point in points]
                label = 'ensemble' if not number else None
                axis.plot(minutes, [p['ensemble'] for p in points], color=COLOURS[0], label=label)
                for n in range(len(points[0]['networks'])):
                    axis.plot(
                        minutes,
                        [p['networks'][n] for p in points],
                        color=COLOURS[1],
                        linewidth=0.7,
                        markersize=0,
                        label='its networks' if not number and not n else None,
                    )
            axis.set_title(name)
            axis.set_xlabel('minutes of training')
            axis.set_ylabel('validation NDCG@10')
            axis.set_xlim(left=0)
            best = max(p['ensemble'] for points in recipe['curves'] for p in points)
            axis.set_ylim(0, 1.15 * best)
            axis.legend(loc='lower right')


def main():
    """Writes record and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('recipes', nargs='+', metavar='NAME=WORKDIR,...')
    parser.add_argument('--note', default='', help='what a reader must know of these runs')
    parser.add_argument('--add', action='store_true', help='add seeds to what is recorded')
    arguments = parser.parse_args()
    file = arguments.folder / 'recipes.json'
    record = json.loads(file.read_text()) if file.exists() else {}
    for recipe in arguments.recipes:
        name, _, workdirs = recipe.partition('=')
        found = summarise([pathlib.Path(workdir) for workdir in workdirs.split(',')])
        found['config']['data']['source'] = 'FOLDER'
        record[name] = added(record[name], found) if arguments.add else found
        if arguments.note:
            record[name]['note'] = arguments.note
    file.write_text(json.dumps(record, indent=2) + '\n')
    draw(record, epath.Path(arguments.folder / 'recipes.png'))
    for name, recipe in record.items():
        print(name)
        for scorer, test in recipe['test'].items():
            found = test[recipe['rule']]
            shown = ', '.join(f'{m} {found[m]["mean"]:.4f}' for m in METRICS)
            print(f'  {scorer}: {shown}')


if __name__ == '__main__':
    main()
