"""The test of a trained ensemble, and results.json."""

import importlib.metadata
import json
import platform
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree

from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation import baselines as floors
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.reporting import banner, say, table
from emkd_jax.runs.workdir import check_data, write_json

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def default_workdir(experiment: Experiment) -> str:
    """runs/<config.name>, and from its name one sees a stand-in."""
    stand_in = '_stand_in' if experiment.data.stand_in else ''
    return f'runs/{experiment.config.name.removesuffix(stand_in)}{stand_in}'


def announce(experiment: Experiment, folder: epath.Path) -> None:
    """Says what is about to run, on what data and devices, and where it is kept."""
    counts = ', '.join(f'{count:,} {name}' for name, count in experiment.counts.items())
    say(f'{experiment.data.name}: {counts}')
    if experiment.data.stand_in:
        say(
            banner(
                f'STAND-IN DATA: {experiment.data.name} is made up. Its figures say nothing of the '
                'real data set.'
            )
        )
    say(
        f'process {jax.process_index() + 1}/{jax.process_count()}, {jax.local_device_count()} of '
        f'{jax.device_count()} devices ({jax.devices()[0].device_kind}); workdir {folder}'
    )


def test(experiment: Experiment, params: PyTree) -> dict[str, Any]:
    """The part of results.json that a test of `params` fills."""
    config, split = experiment.config, experiment.split
    result = Evaluator(config.eval, experiment.ensemble, split.test)(params)
    return {
        'config': json.loads(config.to_json_best_effort()),
        'data': experiment.counts
        | {
            'name': experiment.data.name,
            'stand_in': experiment.data.stand_in,
            'fingerprint': experiment.data.fingerprint,
        },
        'test': result.ensemble,
        'networks': result.networks,
        'floors': floors(
            split.train, split.test, experiment.data.num_items, config.model.max_len, config.eval.ks
        ),
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'versions': {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {'python': platform.python_version()},
    }


def write_results(folder: epath.Path, results: dict[str, Any]) -> None:
    """Writes results.json; the run counts as finished from then on."""
    if jax.process_index() == 0:
        write_json(folder / 'results.json', results)


def read_results(folder: epath.Path, name: str = 'results.json') -> dict[str, Any] | None:
    """What the last file that a mode writes holds; None where it is not finished.

    Raises:
      UserError: the file is damaged.
    """
    file = folder / name
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise UserError(f'{file} is damaged; delete it, and the same command makes it again.')


def finished(
    folder: epath.Path, experiment: Experiment, name: str = 'results.json'
) -> dict[str, Any] | None:
    """`read_results` of a run on the experiment's data.

    Raises:
      UserError: the file is damaged, or of other data.
    """
    found, ours = read_results(folder, name), experiment.data.fingerprint
    if found is not None:
        check_data(folder, found.get('data', {}).get('fingerprint', ours), ours)
    return found


def print_results(results: dict[str, Any]) -> None:
    """The tables of a finished run, and what it took."""
    print_tests(results)
    say(
        f'\nbest epoch {results["best_epoch"]}, {results["steps"]} steps, '
        f'{results["seconds"]:.0f} s, {results["sequences_per_second"]:.0f} sequences/s on '
        f'{results["device"]}'
    )


def print_tests(results: dict[str, Any]) -> None:
    """A table for each rule: the ensemble, each network alone, and the floors."""
    data, rules = results['data'], results['test']
    for rule, ensemble in rules.items():
        rows = {'ensemble': ensemble}
        rows |= {f'network {n}': network[rule] for n, network in enumerate(results['networks'])}
        rows |= {f'floor: {name}': floor[rule] for name, floor in results['floors'].items()}
        stand_in = ' (STAND-IN DATA)' if data['stand_in'] else ''
        say(f"\nTest on {data['name']}{stand_in}, rule '{rule}'\n{table(rows)}")
