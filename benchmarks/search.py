"""Searches options of a recipe on the validation set, with Optuna:

    python benchmarks/search.py FOLDER --config=beauty:best --trials=8 \\
        --search model.dropout=0.4:0.7 optimizer.learning_rate=5e-4:2e-3:log \\
                 model.hidden_dim=96,128,192 \\
        [--config.OPTION=VALUE ...]

Each trial trains one network of `model.encoder`, without transition counts, with all other options
of the command. Its value is the best validation NDCG@10 under the rule `eval.rule`; the test with
which a training ends is not read. LEAST:MOST is a range, which is searched on a logarithmic scale
where `:log` follows; values with commas between them are alternatives. The first trial has the
values of the recipe.

The trials are kept in FOLDER/search.db and their workdirs in FOLDER, so that the same command goes
on where it was stopped, and one with more trials goes on from there. The record is
FOLDER/search.json. It needs the extra `dev`.
"""

import argparse
import ast
import json
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import optuna

from benchmarks.peers import validations
from emkd_jax.config import get_config
from emkd_jax.config.options import flatten
from emkd_jax.config.stored import to_json
from emkd_jax.runs.results import device_name, versions
from emkd_jax.runs.trained import stored_config

LAUNCH = pathlib.Path(__file__).absolute().parents[1] / 'launch.py'
ONE_NETWORK = (
    '--config.ensemble.members=',
    '--config.ensemble.num_networks=1',
    '--config.ensemble.counts=False',
)
STARTED = 4  # trials at random before Optuna's model of the trials proposes


def parse_space(words):
    """{option: distribution} of words such as `model.dropout=0.4:0.7`."""
    space = {}
    for word in words:
        name, _, values = word.partition('=')
        if ':' in values:
            least, most, *scale = values.split(':')
            space[name] = optuna.distributions.FloatDistribution(
                float(least), float(most), log=scale == ['log']
            )
        else:
            choices = [ast.literal_eval(value) for value in values.split(',')]
            space[name] = optuna.distributions.CategoricalDistribution(choices)
    return space


def rounded(value):
    """A number with three digits, so that a command that shows it can be repeated."""
    return float(f'{value:.3g}') if isinstance(value, float) else value


def train(folder, options, given):
    """Trains a network with these options, or goes on with it. Returns its workdir."""
    name = ','.join(f'{name.rpartition(".")[2]}={value}' for name, value in options.items())
    workdir = folder / name
    command = [sys.executable, LAUNCH, f'--config={given.config}', *ONE_NETWORK, *given.more]
    command += [f'--config.{name}={value}' for name, value in options.items()]
    with (folder / f'{name}.log').open('a') as log:
        subprocess.run([*command, f'--workdir={workdir}'], stdout=log, stderr=log, check=True)
    return workdir


def main():
    """Runs the trials that are missing, and writes the record after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--config', required=True)
    parser.add_argument('--trials', type=int, default=8, help='in all, with those of earlier calls')
    parser.add_argument('--search', nargs='+', required=True, metavar='OPTION=VALUES')
    given, given.more = parser.parse_known_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folder, space = given.folder.absolute(), parse_space(given.search)
    recipe = flatten(to_json(get_config(given.config)))
    study = optuna.create_study(
        storage=f'sqlite:///{folder}/search.db',
        study_name=given.config,
        load_if_exists=True,
        direction='maximize',
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTED, seed=0),
    )
    for stopped in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.enqueue_trial(stopped.params)
        study.tell(stopped.number, state=optuna.trial.TrialState.FAIL)
    if not study.trials:
        study.enqueue_trial({name: recipe[name] for name in space})
    done = [optuna.trial.TrialState.COMPLETE]
    while len(study.get_trials(states=done)) < given.trials:
        trial = study.ask(space)
        options = {name: rounded(value) for name, value in trial.params.items()}
        workdir = train(folder, options, given)
        rule = stored_config(workdir).eval.rule
        found = validations(workdir, rule)
        best = max(found, key=lambda point: point['NDCG@10'])
        trial.set_user_attr('options', options)
        trial.set_user_attr('curve', found)
        study.tell(trial, best['NDCG@10'])
        print(f'{best["NDCG@10"]:.4f} after {best["epoch"]} epochs: {options}', flush=True)
        trials = [
            {**trial.user_attrs, 'best': trial.value} for trial in study.get_trials(states=done)
        ]
        record = {
            'what': f'Validation NDCG@10 (rule {rule}) of one network of {given.config} by epoch, '
            'for options that Optuna proposed.',
            'searched': given.search,
            'other options': [word for word in given.more if '.data.source=' not in word],
            'trials': sorted(trials, key=lambda trial: -trial['best']),
            'date': time.strftime('%Y-%m-%d'),
            'device': device_name(),
            'versions': versions(),
        }
        (folder / 'search.json').write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
