"""Measures what each further seed costs when several seeds train in one compiled step:

    python benchmarks/seeds.py --config=toys:quick --output=FILE [--config.data.source=FOLDER]

For every number of seeds from 1 to --most, the record has the FLOPs and bytes of a compiled train
step as XLA counts them, and the seconds of a step. These are medians over rounds in which the
numbers of seeds take turns.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from emkd_jax.cli.compiler import set_xla_flags

set_xla_flags()  # before jax is imported, as the command line does

import jax  # noqa: E402
import numpy as np  # noqa: E402

from emkd_jax.config import get_config  # noqa: E402
from emkd_jax.runs.experiment import make_experiment  # noqa: E402
from emkd_jax.runs.results import device_name, versions  # noqa: E402
from emkd_jax.training.dispatch import compile_train_steps  # noqa: E402
from emkd_jax.training.state import stack_states  # noqa: E402
from emkd_jax.training.step import TrainingData  # noqa: E402
from emkd_jax.training.sweep import expand_sweep, stack_hyper_parameters  # noqa: E402
from emkd_jax.training.trainer import Request, Trainer  # noqa: E402


def first_states(experiment, runs):
    """Returns the stacked states before the first step."""
    return stack_states([experiment.with_config(run.config).initial_state() for run in runs])


def xla_counts(experiment, states):
    """Returns the FLOPs and bytes of a step on one device."""
    if len(states.step) == 1:  # a single run trains without an axis of runs
        states = jax.tree.map(lambda leaf: leaf[0], states)
    lengths = experiment.rows.lengths
    step = compile_train_steps(experiment.config, experiment.ensemble, lengths, jax.devices()[:1])
    data = TrainingData(experiment.rows, experiment.data.item_attributes)
    cost = step.lower(states, data, np.int32(1), np.zeros(1, np.int32)).compile().cost_analysis()
    return {'flops': cost['flops'], 'bytes': cost['bytes accessed']}


def advance(trainer, steps):
    """Takes `steps` train steps."""
    trainer.advance_to(trainer.step + steps, lambda: Request.NONE, lambda: None)


def main():
    """Measures, and writes and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--config', required=True)
    parser.add_argument('--output', default='seeds.json')
    parser.add_argument('--most', type=int, default=3)
    parser.add_argument('--rounds', type=int, default=7)
    given, options = parser.parse_known_args()
    changes = dict(option.removeprefix('--config.').split('=', 1) for option in options)
    config = get_config(given.config, **changes)
    experiment = make_experiment(config)
    steps = 16 if jax.default_backend() != 'cpu' else 2
    found, trainers = {}, {}
    for seeds in range(1, given.most + 1):
        config.train.num_seeds = seeds
        runs = expand_sweep(config)
        states = first_states(experiment, runs)
        found[seeds] = xla_counts(experiment, states)
        trainers[seeds] = Trainer(
            config,
            experiment.ensemble,
            experiment.rows,
            experiment.data.item_attributes,
            states,
            stack_hyper_parameters([run.config for run in runs]),
            [run.name for run in runs],
            {'steps': 0, 'seconds': 0.0},
        )
        advance(trainers[seeds], 1)  # compiles
    seconds = {seeds: [] for seeds in trainers}
    for _ in range(given.rounds):
        for seeds, trainer in trainers.items():
            before = trainer.timed['seconds']
            advance(trainer, steps)
            seconds[seeds].append((trainer.timed['seconds'] - before) / steps)
    for seeds, counts in found.items():
        counts['seconds'] = statistics.median(seconds[seeds])
    record = {
        'command': f'python benchmarks/seeds.py --config={given.config} --output=FILE '
        f'--rounds={given.rounds}',
        'date': time.strftime('%Y-%m-%d'),
        'device': device_name(),
        'versions': versions(),
        'data': experiment.data.name,
        'batch_size': config.train.batch_size,
        'rounds': given.rounds,
        'step_by_number_of_seeds': found,
        'second_seed_relative_to_first': {
            what: found[2][what] / found[1][what] - 1 for what in found[1]
        },
    }
    pathlib.Path(given.output).write_text(json.dumps(record, indent=2) + '\n')
    print(json.dumps(record, indent=2))


if __name__ == '__main__':
    main()
