"""What the second seed costs, where several train in one compiled step:

    python benchmarks/seeds.py --config=configs/toys.py:quick --output=FILE [options of launch.py]

For 1, 2, ... --most seeds: FLOPs and bytes of a compiled train step as XLA counts them, and the
seconds of a step, the median of rounds that take turns.
"""

import importlib.metadata
import json
import pathlib
import platform
import statistics
import sys
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from emkd_jax.runs.experiment import make_experiment
from emkd_jax.training.step import TrainingData, make_train_steps
from emkd_jax.training.sweep import Member, together
from emkd_jax.training.trainer import NOTHING, Trainer
from emkd_jax.xla_flags import set_xla_flags

config_flags.DEFINE_config_file('config', None, 'Configuration.', lock_config=True)
flags.DEFINE_string('output', 'seeds.json', 'JSON file to write.')
flags.DEFINE_integer('most', 3, 'The most seeds.', lower_bound=2)
flags.DEFINE_integer('rounds', 7, 'Timed rounds.', lower_bound=1)


def members_of(config, seeds):
    """As many runs; one alone is no member of anything."""
    runs = []
    for seed in range(seeds):
        alone = config.copy_and_resolve_references()
        alone.seed = seed
        runs.append(Member(f'seed_{seed}', alone))
    return runs if seeds > 1 else []


def stacked(experiment, runs):
    """The first state of `runs`, or of the experiment alone."""
    if not runs:
        return jax.device_get(experiment.initial_state())
    states = [jax.device_get(experiment.with_config(run.config).initial_state()) for run in runs]
    return jax.tree.map(lambda *of_runs: np.stack(of_runs), *states)


def counted_by_xla(experiment, state, runs):
    """FLOPs and bytes of a step on one device."""
    step = make_train_steps(
        experiment.config,
        experiment.ensemble,
        experiment.optimizer,
        (experiment.windows > 0).sum(1),
        jax.devices()[:1],
    )
    data = TrainingData(
        experiment.windows,
        experiment.data.item_attributes,
        together(runs).settings if runs else None,
    )
    cost = step.lower(state, data, np.int32(1), np.zeros(1, np.int32)).compile().cost_analysis()
    return {'flops': cost['flops'], 'bytes': cost['bytes accessed']}


def main(_):
    set_xla_flags()  # as launch.py does
    config = flags.FLAGS.config
    experiment = make_experiment(config)
    steps = config.train.steps_per_dispatch if jax.default_backend() != 'cpu' else 2
    found, trainers = {}, {}
    for seeds in range(1, flags.FLAGS.most + 1):
        runs = members_of(config, seeds)
        state = stacked(experiment, runs)
        found[seeds] = counted_by_xla(experiment, state, runs)
        trainers[seeds] = Trainer(
            experiment, state, {'steps': 0, 'seconds': 0.0}, together(runs) if runs else None
        )
        trainers[seeds].advance_to(1, lambda: NOTHING, lambda: None)  # compiles
    seconds = {seeds: [] for seeds in trainers}
    for _ in range(flags.FLAGS.rounds):
        for seeds, trainer in trainers.items():
            before = trainer.timed['seconds']
            trainer.advance_to(trainer.step + steps, lambda: NOTHING, lambda: None)
            seconds[seeds].append((trainer.timed['seconds'] - before) / steps)
    for seeds, of_step in found.items():
        of_step['seconds'] = statistics.median(seconds[seeds])
    file = config_flags.get_config_filename(flags.FLAGS['config'])
    record = {
        'command': f'python benchmarks/seeds.py --config={file} --output=FILE '
        f'--rounds={flags.FLAGS.rounds}',
        'date': time.strftime('%Y-%m-%d'),
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'optax')}
        | {'python': platform.python_version()},
        'data': experiment.data.name,
        'batch_size': config.train.batch_size,
        'rounds': flags.FLAGS.rounds,
        'step_of_so_many_seeds': found,
        'second_seed_of_first': {what: found[2][what] / found[1][what] - 1 for what in found[1]},
    }
    pathlib.Path(flags.FLAGS.output).write_text(json.dumps(record, indent=2) + '\n')
    print(json.dumps(record, indent=2))


if __name__ == '__main__':
    app.run(main)
