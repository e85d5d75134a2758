"""The test of a trained ensemble, results.json, and how both are shown."""

import importlib.metadata
import json
import platform
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree

from emkd_jax.cli.console import banner, print_table, say
from emkd_jax.config.stored import to_json
from emkd_jax.data.atomic import write_json
from emkd_jax.data.packing import Packing
from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.baselines import LIST, evaluate_baselines
from emkd_jax.evaluation.beyond_accuracy import ListMetrics
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.runs.experiment import Experiment, batch_size_for
from emkd_jax.runs.workdir import check_data, writing

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {'python': platform.python_version()}


def device_name() -> str:
    """The devices of the run, such as '1 x cpu'."""
    return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


_MANY_USERS, _FEW_USERS = 200_000, 10_000
_LARGE = 4  # times the rows of a step that the data would choose


def announce(experiment: Experiment, folder: epath.Path) -> None:
    """Says what is about to run, on what data and devices, and where it is kept."""
    if experiment.data.notes:
        say(experiment.data.notes)
    counts = ', '.join(f'{count:,} {name}' for name, count in experiment.counts.items())
    rows = experiment.rows
    if isinstance(rows, Packing):
        say(f'{experiment.data.name}: {counts}; {rows.fill:.1%} of the slots are filled')
        _say_if_steps_are_large(rows, experiment.config.train.batch_size)
    else:
        say(f'{experiment.data.name}: {counts}')
    tested, events = len(experiment.split.test.targets), len(experiment.split.train.values)
    if experiment.config.eval.max_users == tested:
        say(f'validation and test: {tested:,} users (eval.max_users)')
    elif tested > _MANY_USERS:
        say(
            f'validation and test: {tested:,} users; --config.eval.max_users={_FEW_USERS} tests '
            'fewer, in less time'
        )
    if (counted := len(experiment.counted.values)) < events:
        say(f'baselines and transition counts: a sample of {counted:,} of {events:,} events')
    if experiment.data.stand_in:
        say(
            banner(
                f'STAND-IN DATA: {experiment.data.name} is made up. Its figures say nothing about '
                'the real data set.'
            )
        )
    say(
        f'process {jax.process_index() + 1}/{jax.process_count()}, {jax.local_device_count()} of '
        f'{jax.device_count()} devices ({jax.devices()[0].device_kind}); workdir {folder}'
    )


def _say_if_steps_are_large(rows: Packing, batch_size: int) -> None:
    """A size that fits sequences of which a part is masked is large for packed rows."""
    found, wanted = rows.counts, batch_size_for(rows)
    if batch_size > _LARGE * wanted:
        steps = -(-found['rows'] // batch_size)
        say(
            f'large steps: {found["targets"] // steps:,} targets each, and {steps} an epoch; '
            f'--config.train.batch_size=0 takes {wanted} rows at a time, which mostly learns more '
            'from the same data'
        )


def evaluate_test(
    experiment: Experiment, params: PyTree, counts: CountMember | None = None
) -> dict[str, Any]:
    """The part of results.json that a test fills.

    Args:
      experiment: the configuration, data and model.
      params: the parameters, as `Experiment.place` puts them on the devices.
      counts: transition counts that are added to the networks' scores.
    """
    config, split, data = experiment.config, experiment.split, experiment.data
    evaluate = Evaluator(config.eval, experiment.placed_ensemble, split.test, counts=counts)
    result = evaluate(params, LIST)
    floors, floor_lists = evaluate_baselines(
        experiment.counted,
        split.test,
        data.num_items,
        config.model.max_len,
        config.eval.ks,
        experiment.count_model,
    )
    measure = ListMetrics(
        split.train.values, data.num_items, data.item_attributes, data.num_attributes
    )
    names = ['ensemble', *(f'network_{n}' for n in range(len(result.networks))), 'without_counts']
    lists = zip(names, result.lists, strict=False)  # where no counts are added, the last is missing
    beyond_accuracy = {name: measure(found) for name, found in lists}
    beyond_accuracy |= {
        name: measure(found) for name, found in zip(floors, floor_lists, strict=True)
    }
    found: dict[str, Any] = {}
    if counts is not None:
        found = {'without_counts': result.without_counts, 'counts': counts.to_json()}
    if len(experiment.counted.values) < len(split.train.values):
        found['counted_events'] = len(experiment.counted.values)
    return found | {
        'config': to_json(config),
        'data': experiment.counts
        | {'name': data.name, 'stand_in': data.stand_in, 'fingerprint': data.fingerprint},
        'test': result.ensemble,
        'networks': result.networks,
        'floors': floors,
        'beyond_accuracy': beyond_accuracy,
        'device': device_name(),
        'versions': versions(),
    }


def write_results(folder: epath.Path, results: dict[str, Any], name: str = 'results.json') -> None:
    """Writes the results file of a mode; the run counts as finished from then on.

    Raises:
      RunError: the file cannot be written.
    """
    if jax.process_index() == 0:
        with writing(folder / name):
            write_json(folder / name, results)


def read_results(folder: epath.Path, name: str = 'results.json') -> dict[str, Any] | None:
    """Reads the results file of a mode; None if the run has not finished.

    Raises:
      UserError: the file is damaged.
    """
    file = folder / name
    if not file.exists():
        return None
    try:
        results = json.loads(file.read_text())
        if isinstance(results, dict):
            return results
    except (OSError, ValueError):
        pass
    raise UserError(f'{file} is damaged; delete it, and the same command makes it again.')


def finished_results(
    folder: epath.Path, experiment: Experiment, name: str = 'results.json'
) -> dict[str, Any] | None:
    """`read_results` for a run of the experiment; None if it had fewer epochs.

    Raises:
      UserError: the file is damaged, or belongs to other data.
    """
    results, present = read_results(folder, name), experiment.data.fingerprint
    if results is not None:
        check_data(folder, results.get('data', {}).get('fingerprint', present), present)
        epochs = experiment.config.train.num_epochs
        if results.get('config', {}).get('train', {}).get('num_epochs', epochs) < epochs:
            return None
    return results


def print_results(results: dict[str, Any]) -> None:
    """Prints the tables of a finished run and what it took."""
    print_tests(results)
    say(
        f'\nbest epoch {results["best_epoch"]}, {results["steps"]} steps, '
        f'{results["seconds"]:.0f} s, {results["sequences_per_second"]:.0f} sequences/s on '
        f'{results["device"]}'
    )


def tested_scorers(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All that was tested in a run: the ensemble, each network alone, and the baselines.

    Returns:
      {label: metrics under the run's rule, and those of `beyond_accuracy`}, for tables.
    """
    rule = results['config']['eval']['rule']
    with_counts = 'counts' in results
    found = {'ensemble and counts' if with_counts else 'ensemble': ('ensemble', results['test'])}
    if with_counts:
        found['ensemble'] = 'without_counts', results['without_counts']
    # Runs of earlier versions do not name their members.
    names = network_names(
        results['config']['ensemble'].get('members', ''), len(results['networks'])
    )
    for n, (name, network) in enumerate(zip(names, results['networks'], strict=True)):
        found[name] = f'network_{n}', network
    for name, floor in results['floors'].items():
        found[f'baseline: {name}'] = name, floor
    lists = results.get('beyond_accuracy', {})  # runs of earlier versions have none
    return {label: tests[rule] | lists.get(name, {}) for label, (name, tests) in found.items()}


def network_names(members: str, count: int) -> list[str]:
    """The networks of an ensemble as tables name them, with their encoders if these differ.

    Args:
      members: `ensemble.members`.
      count: number of networks.
    """
    kinds = [kind.strip().rpartition(':')[2] for kind in members.split(',')]
    if len(set(kinds)) == 1:
        return [f'network {n}' for n in range(count)]
    return [f'network {n} ({kind})' for n, kind in enumerate(kinds)]


def print_tests(results: dict[str, Any]) -> None:
    """Prints a table of `tested_scorers`."""
    data, rule = results['data'], results['config']['eval']['rule']
    stand_in = ' (STAND-IN DATA)' if data['stand_in'] else ''
    columns = ['HR@10', 'NDCG@10', 'MRR@10', f'coverage@{LIST}']
    print_table(
        f"Test on {data['name']}{stand_in}, rule '{rule}'",
        ['', *columns],
        [
            [name, *(f'{row[column]:.4f}' if column in row else '' for column in columns)]
            for name, row in tested_scorers(results).items()
        ],
        mark_highest=True,
    )
