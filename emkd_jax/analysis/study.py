"""`--mode=study`: trains the systems of a comparison and reports what the differences are worth."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from emkd_jax.analysis.plots import check_libraries
from emkd_jax.analysis.speed import measure_cost
from emkd_jax.analysis.statistics import paired_bootstrap
from emkd_jax.analysis.study_designs import DESIGNS, Comparison, System, parts_in_use
from emkd_jax.analysis.study_report import markdown, write_report
from emkd_jax.cli.console import say
from emkd_jax.config.stored import to_json
from emkd_jax.errors import UserError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.metrics import user_metrics
from emkd_jax.objective.hyper_parameters import OPTION_NAMES
from emkd_jax.runs.cluster import check_same
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.loop import train_runs
from emkd_jax.runs.results import announce, finished_results
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.summary import mean_and_std, timing
from emkd_jax.runs.trained import default_workdir, load_run
from emkd_jax.runs.workdir import keep_data, open_workdir, sole_writer
from emkd_jax.training.sweep import SweepRun, expand_sweep

METRICS = ('HR@10', 'NDCG@10')


def study(
    config: ml_collections.ConfigDict,
    workdir: str = '',
    design: str = '',
    signals: StopSignals | None = None,
) -> dict[str, Any]:
    """Trains the systems of a study with `train.num_seeds` seeds each, and writes the report.

    Runs that differ only in seeds and weights train together. Each run has an ordinary workdir
    inside that of the study. A study that was stopped continues where it was.

    Args:
      config: the options of the reference system.
      workdir: folder of the study; empty for `runs/<config.name>_<design>`.
      design: a name in `study_designs.DESIGNS`.
      signals: may stop the study; None leaves signals alone.

    Returns:
      The content of study.json.

    Raises:
      UserError: an option, the data or the workdir is wrong.
    """
    _check(config, design)
    signals = signals or StopSignals()
    experiment = make_experiment(config)
    folder = open_workdir(workdir or f'{default_workdir(config)}_{design}', experiment.config)
    announce(experiment, folder)
    check_same('configuration, data or workdir', f'{config} {experiment.data.fingerprint} {design}')
    found = finished_results(folder, experiment, 'study.json')
    if found is None:
        with sole_writer(folder):
            found = _carry_out(experiment, design, folder, signals)
            if jax.process_index() == 0:
                write_report(folder, found)
    elif found['study'] != design:
        raise UserError(
            f'{folder} holds the study {found["study"]}; choose another --workdir for {design}.'
        )
    say(f'\n{markdown(found)}')
    return found


def _check(config: ml_collections.ConfigDict, design: str) -> None:
    if design not in DESIGNS:
        raise UserError(f"--study is '{design}'; it must be one of {', '.join(DESIGNS)}.")
    if any(config.sweep.values()) or config.distill.teacher:
        raise UserError(
            'A study chooses the options that it varies and has no teacher; leave sweep.* and '
            'distill.teacher out.'
        )
    if design != 'ensemble_size' and config.ensemble.num_networks < 2:
        raise UserError(
            f'--study={design} compares ensembles, and ensemble.num_networks is '
            f'{config.ensemble.num_networks}; set it to 2 at least.'
        )
    if design in ('ablation', 'generality') and not parts_in_use(config.objective):
        raise UserError(
            f'--study={design} compares EMKD with a plain ensemble, and {config.name} is one: set '
            'objective.kd_weight, objective.contrast_weight or objective.attribute_weight, or use '
            '--study=parts, which adds each of them.'
        )
    if design in ('ensemble_size', 'generality') and config.ensemble.members:
        raise UserError(
            f'--study={design} chooses the networks, and ensemble.members='
            f'{config.ensemble.members} names them; set --config.ensemble.members= to leave them '
            'out.'
        )
    check_libraries()


def _carry_out(
    experiment: Experiment, design: str, folder: epath.Path, signals: StopSignals
) -> dict[str, Any]:
    config = experiment.config
    comparison = DESIGNS[design](config)
    runs = {system.name: _runs(config, system) for system in comparison.systems}
    keep_data(experiment.data, folder)
    results: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for group in _groups(run for system_runs in runs.values() for run in system_runs):
        done = train_runs(experiment.with_config(group[0].config), group, folder, signals)
        results |= {run.name: result for run, result in zip(group, done, strict=True)}
        seconds += timing(done, config.train.max_together)['seconds']
    signals.at_once = True  # what follows takes little time
    ranks_of = functools.cache(functools.partial(_test_ranks, experiment, folder))
    scores = {
        system.name: _user_scores(
            system, [ranks_of(run.name, system.first) for run in runs[system.name]]
        )
        for system in comparison.systems
    }
    first = next(iter(results.values()))
    return {
        'study': design,
        'question': comparison.question,
        'config': to_json(config),
        'data': first['data'],
        'seeds': list(range(config.seed, config.seed + config.train.num_seeds)),
        'systems': [
            system._asdict() | {'test': _summary(scores[system.name]), 'cost': cost}
            for system, cost in zip(
                comparison.systems, _costs(experiment, comparison.systems), strict=True
            )
        ],
        'comparisons': _compare(comparison, scores),
        'steps': {name: result['steps'] for name, result in results.items()},
        'seconds': seconds,
        'device': first['device'],
        'versions': first['versions'],
    }


def _runs(config: ml_collections.ConfigDict, system: System) -> list[SweepRun]:
    """A run for each seed. Systems that train in the same way share their runs."""
    parts = (f'{option.partition(".")[2]}_{value}' for option, value in system.changes.items())
    name = re.sub(r'[^\w.-]', '_', '_'.join(parts)) or 'as_configured'
    return [
        SweepRun(f'{name}/seed_{run.config.seed}', run.config)
        for run in expand_sweep(_changed(config, system.changes))
    ]


def _changed(
    config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed


def _groups(runs: Iterable[SweepRun]) -> list[list[SweepRun]]:
    """Groups of runs that can train together, without repetitions."""
    groups: dict[str, dict[str, SweepRun]] = {}
    for run in runs:
        same = _changed(run.config, dict.fromkeys(map(str, OPTION_NAMES), 0.0) | {'seed': 0})
        groups.setdefault(same.to_json_best_effort(), {})[run.name] = run
    return [list(group.values()) for group in groups.values()]


def _test_ranks(
    experiment: Experiment, folder: epath.Path, name: str, first: int | None
) -> Int[np.ndarray, 'scorers users']:
    """Ranks of the test items under the configured rule.

    The ranks are those by the `first` networks of a run together, and then by each of them.
    """
    run = load_run(folder / name, dataset=experiment.data)
    trained, params = run.experiment, run.params
    if first is not None:
        trained = trained.with_config(_changed(run.config, {'ensemble.num_networks': first}))
        params = jax.tree.map(lambda x: x[:first], params)
    evaluate = Evaluator(run.config.eval, trained.placed_ensemble, trained.split.test)
    ranks = evaluate(trained.place(params)).ranks
    return ranks[:, RULES.index(run.config.eval.rule)]


def _user_scores(
    system: System, ranks: Sequence[Int[np.ndarray, 'scorers users']]
) -> dict[str, Float[np.ndarray, 'seeds users']]:
    """Each user's metrics in every seed's run of a system."""
    scorers = slice(1, None) if system.alone else slice(0, 1)
    runs = [user_metrics(run[scorers], 10) for run in ranks]
    return {metric: np.stack([run[metric].mean(0) for run in runs]) for metric in METRICS}


def _summary(scores: dict[str, Float[np.ndarray, 'seeds users']]) -> dict[str, Any]:
    seeds = {metric: values.mean(-1).tolist() for metric, values in scores.items()}
    return {metric: mean_and_std(values) | {'seeds': values} for metric, values in seeds.items()}


def _compare(
    comparison: Comparison, scores: dict[str, dict[str, Float[np.ndarray, 'seeds users']]]
) -> list[dict[str, Any]]:
    found = []
    for better, than in comparison.pairs:
        differences = {m: (scores[better][m] - scores[than][m]).mean(0) for m in METRICS}
        found.append(
            {
                'better': better,
                'than': than,
                'differences': {m: paired_bootstrap(d)._asdict() for m, d in differences.items()},
            }
        )
    return found


def _costs(experiment: Experiment, systems: Sequence[System]) -> Iterator[dict[str, int | float]]:
    """The cost of each system; systems that compute the same are measured once."""
    costs: dict[tuple[Any, ...], dict[str, int | float]] = {}
    for system in systems:
        config = _changed(experiment.config, system.changes)
        if system.alone:
            config.ensemble.num_networks = 1
        elif system.first is not None:
            config.ensemble.num_networks = system.first
        weights = ('contrast_weight', 'attribute_weight', 'kd_weight')
        work = (
            config.model.encoder,
            config.ensemble.num_networks,
            *(config.objective[weight] > 0 for weight in weights),
        )
        if work not in costs:
            costs[work] = measure_cost(experiment.with_config(config))
        yield costs[work]
