"""Compares ways to join networks and transition counts, on the validation set of a trained run:

    python benchmarks/fusion.py WORKDIR --output=FILE

The networks are joined by the sum of their logits or by the mean of their probabilities, and the
counts are added to the sum of the logits or to the logarithm of the mean of the probabilities. (A
sum of log-softmaxes ranks as a sum of logits does: they differ by one number for each history.)
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from emkd_jax.evaluation.batches import history_batches
from emkd_jax.evaluation.counts import WEIGHTS
from emkd_jax.evaluation.metrics import RULES, host_ranks, user_metrics
from emkd_jax.runs.results import device_name, versions
from emkd_jax.runs.trained import load_run

_ROWS = 256


def main():
    """Prints NDCG@10 of every way and weight, and writes them to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('workdir')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    run = load_run(arguments.workdir)
    experiment = run.experiment
    ensemble, holdout = experiment.ensemble, experiment.split.validation
    max_len, rule = run.config.model.max_len, RULES.index(run.config.eval.rule)
    networks, counts = ensemble.split(run.params), experiment.count_model

    @jax.jit
    def join(networks, items):
        logits = jnp.stack(ensemble.scores(networks, items))
        mean = jnp.log(jax.nn.softmax(logits).mean(0))
        return logits.mean(0), mean

    ranks = {
        (way, weight): np.zeros(len(holdout.targets), np.int32)
        for way in ('logits', 'probabilities')
        for weight in WEIGHTS
    }
    batches = history_batches(holdout.histories, max_len, ensemble.network.mask_token, 1, _ROWS)
    for index, items in batches:
        rows = index[0]
        real = rows >= 0
        counted = counts.scores(holdout.histories, rows[real])
        for way, scores in zip(('logits', 'probabilities'), join(networks, items[0]), strict=True):
            scores = np.asarray(scores)[real]
            for weight in WEIGHTS:
                found = host_ranks(scores + weight * counted, holdout, rows[real], max_len)
                ranks[way, weight][rows[real]] = found[rule]
    found = {
        way: {
            f'{weight:g}': float(user_metrics(ranks[way, weight], 10)['NDCG@10'].mean())
            for weight in WEIGHTS
        }
        for way in ('logits', 'probabilities')
    }
    for way, values in found.items():
        print(way, {weight: round(value, 4) for weight, value in values.items()})
    record = {
        'config': run.config.name,
        'validation NDCG@10 by weight of the counts': found,
        'rule': run.config.eval.rule,
        'device': device_name(),
        'versions': versions(),
    }
    arguments.output.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
