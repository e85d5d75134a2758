"""Compares finished runs of the same seeds on the test, user by user, with a paired bootstrap:

    python benchmarks/paired.py RECORD.json 'plain=runs/0,runs/1' 'taught=runs/0/student,...'

Each system is compared with the first one, as an ensemble with and without transition counts and as
the mean of its networks alone, under the rule of its configuration. The metric of a user is the
mean over the runs of a system, so the p-values speak of other users, and not of other seeds.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from emkd_jax.analysis.statistics import paired_bootstrap
from emkd_jax.cli.console import print_table
from emkd_jax.evaluation.evaluator import Evaluator
from emkd_jax.evaluation.metrics import RULES, user_metrics
from emkd_jax.runs.results import device_name, versions
from emkd_jax.runs.trained import load_run

METRICS = ('HR@10', 'NDCG@10')


def user_scores(workdir):
    """Returns the metrics of each user, by scorer, of one run; and its rule."""
    run = load_run(workdir)
    experiment, options = run.experiment, run.config.eval
    params = experiment.place(run.params)

    def metrics(counts):
        evaluate = Evaluator(
            options, experiment.placed_ensemble, experiment.split.test, counts=counts
        )
        return user_metrics(evaluate(params).ranks[:, RULES.index(options.rule)], 10)

    alone = metrics(None)
    found = {
        'ensemble': {m: alone[m][0] for m in METRICS},
        'a network alone': {m: alone[m][1:].mean(0) for m in METRICS},
    }
    if run.counts is not None:
        with_counts = metrics(run.counts)
        found['ensemble and counts'] = {m: with_counts[m][0] for m in METRICS}
    return found, options.rule


def system_scores(workdirs):
    """Returns the metrics of each user, by scorer, as the mean over runs; and their rule."""
    runs, rules = zip(*map(user_scores, workdirs), strict=True)
    mean = {
        scorer: {m: np.mean([run[scorer][m] for run in runs], axis=0) for m in METRICS}
        for scorer in runs[0]
    }
    return mean, rules[0]


def main():
    """Writes the record and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('record', type=pathlib.Path)
    parser.add_argument('systems', nargs='+', metavar='NAME=WORKDIR,...')
    parser.add_argument('--note', default='', help='what a reader must know of these runs')
    arguments = parser.parse_args()
    systems = dict(system.split('=', 1) for system in arguments.systems)
    scores = {name: system_scores(workdirs.split(',')) for name, workdirs in systems.items()}
    (first, (of_first, rule)), *others = scores.items()
    record = {
        'command': "python benchmarks/paired.py RECORD.json 'NAME=WORKDIR,...' ...",
        'note': arguments.note,
        'rule': rule,
        'than': first,
        'runs': {name: len(workdirs.split(',')) for name, workdirs in systems.items()},
        'differences': {},
        'versions': versions(),
        'device': device_name(),
    }
    rows = []
    for name, (found, _) in others:
        of_system = record['differences'][name] = {}
        for scorer in filter(of_first.__contains__, found):
            differences = {m: found[scorer][m] - of_first[scorer][m] for m in METRICS}
            of_system[scorer] = {m: paired_bootstrap(d)._asdict() for m, d in differences.items()}
            for metric, d in of_system[scorer].items():
                interval = f'{d["low"]:+.4f} to {d["high"]:+.4f}'
                rows.append([name, scorer, metric, f'{d["value"]:+.4f}', interval, f'{d["p"]:.4f}'])
    arguments.record.write_text(json.dumps(record, indent=2) + '\n')
    print_table(f'Against {first}', ['', 'scores of', 'metric', 'difference', '95%', 'p'], rows)


if __name__ == '__main__':
    main()
