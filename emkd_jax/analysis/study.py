"""`--mode=study`: one of the paper's questions, from training to a report.

questions.py    what is compared with what
significance.py paired bootstrap over users
cost.py         what a system costs to train and to serve
report.py       report.md with its plots, and study.json
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from emkd_jax.analysis.plots import check_matplotlib
from emkd_jax.analysis.statistics import paired_bootstrap
from emkd_jax.analysis.study_cost import cost_of
from emkd_jax.analysis.study_designs import QUESTIONS, System
from emkd_jax.analysis.study_report import markdown, write_report
from emkd_jax.errors import UserError
from emkd_jax.evaluation import RULES, Evaluator
from emkd_jax.evaluation.metrics import user_metrics
from emkd_jax.runs.cluster import check_same
from emkd_jax.runs.evaluate import best_params
from emkd_jax.runs.experiment import Experiment, check_config, make_experiment
from emkd_jax.runs.loop import train_together
from emkd_jax.runs.reporting import say
from emkd_jax.runs.results import announce, default_workdir, finished
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.workdir import open_workdir, sole_writer
from emkd_jax.training.placement import replicate
from emkd_jax.training.step import SETTINGS
from emkd_jax.training.sweep import Member, spread, took

METRICS = ('HR@10', 'NDCG@10')


def study(
    config: ml_collections.ConfigDict, workdir: str = '', question: str = ''
) -> dict[str, Any]:
    """Trains what `question` compares, `train.num_seeds` times each, and writes the report.

    Runs that differ in seeds and weights alone train together; each has an ordinary workdir of its
    own inside, and a study that was stopped goes on.

    Args:
      config: of the reference; the systems differ from it as the question says.
      workdir: folder of the study; '' for `runs/<config.name>_<question>`.
      question: of `questions.QUESTIONS`.

    Returns:
      What study.json holds.

    Raises:
      UserError: an option, the data or the workdir is wrong.
    """
    if question not in QUESTIONS:
        raise UserError(f"--study is '{question}'; use {', '.join(QUESTIONS)}.")
    if any(config.sweep.values()) or config.distill.teacher:
        raise UserError(
            'A study has values of its own to try, of ensembles without a teacher; leave sweep.* '
            'and distill.teacher out.'
        )
    if question != 'ensemble_size' and config.ensemble.num_networks < 2:
        raise UserError(
            f'--study={question} is of ensembles, and ensemble.num_networks is '
            f'{config.ensemble.num_networks}; take 2 at least.'
        )
    check_matplotlib()
    with StopSignals() as signals:
        experiment = make_experiment(config)
        folder = open_workdir(
            workdir or f'{default_workdir(experiment)}_{question}', experiment.config
        )
        announce(experiment, folder)
        check_same(
            'configuration, data or workdir', f'{config} {experiment.data.fingerprint} {question}'
        )
        found = finished(folder, experiment, 'study.json')
        if found is not None and found['study'] != question:
            raise UserError(
                f'{folder} holds the study {found["study"]}; choose another --workdir for '
                f'{question}.'
            )
        if found is None:
            with sole_writer(folder):
                found = _answer(experiment, question, folder, signals)
                if jax.process_index() == 0:
                    write_report(folder, found)
    say(f'\n{markdown(found)}\n{folder / "report.md"} has it with plots.')
    return found


def _answer(experiment, question, folder, signals):
    config = experiment.config
    systems, pairs = QUESTIONS[question](config)
    seeds = range(config.seed, config.seed + config.train.num_seeds)
    trained = {
        _slug(system): [_member(config, system, seed) for seed in seeds] for system in systems
    }
    results, ranks, seconds = {}, {}, 0.0
    for group in _groups([member for of_system in trained.values() for member in of_system]):
        of_group = experiment.with_config(group[0].config)
        done = train_together(of_group, group, folder, signals)
        results |= {run.name: result for run, result in zip(group, done, strict=True)}
        seconds += took(done, config.train.max_together)['seconds']
        ranks |= {run.name: _ranks(of_group, run, folder) for run in group}
    signals.at_once = True  # nothing that follows takes long
    scores = {system.name: _scores(system, trained, ranks) for system in systems}
    first = next(iter(results.values()))
    return {
        'study': question,
        'config': json.loads(config.to_json_best_effort()),
        'data': first['data'],
        'seeds': list(seeds),
        'systems': [
            system._asdict()
            | {
                'test': {
                    metric: spread(values.mean(-1).tolist()) | {'seeds': values.mean(-1).tolist()}
                    for metric, values in scores[system.name].items()
                },
                'cost': cost,
            }
            for system, cost in zip(systems, _costs(experiment, systems), strict=True)
        ],
        'comparisons': [
            {
                'better': better,
                'than': than,
                'differences': {
                    metric: paired_bootstrap(
                        (scores[better][metric] - scores[than][metric]).mean(0)
                    )._asdict()
                    for metric in METRICS
                },
            }
            for better, than in pairs
        ],
        'steps': {name: result['steps'] for name, result in results.items()},
        'seconds': seconds,
        'device': first['device'],
        'versions': first['versions'],
    }


def _member(config: ml_collections.ConfigDict, system: System, seed: int) -> Member:
    alone = _changed(config, system.changes)
    alone.seed, alone.train.num_seeds = seed, 1
    return Member(f'{_slug(system)}/seed_{seed}', alone)


def _changed(config, changes):
    alone = config.copy_and_resolve_references()
    alone.update_from_flattened_dict(changes)
    check_config(alone)
    return alone


def _slug(system: System) -> str:
    """What its runs' folder is called: systems that train alike share one."""
    changes = (f'{option.split(".")[1]}_{value}' for option, value in system.changes.items())
    return re.sub(r'[^\w.-]', '_', '_'.join(changes)) or 'as_configured'


def _groups(runs: Sequence[Member]) -> list[list[Member]]:
    """Runs that can train together: they differ in seeds and `step.SETTINGS` alone."""
    groups = {}
    for run in runs:
        shape = run.config.copy_and_resolve_references()
        shape.update_from_flattened_dict(dict.fromkeys(SETTINGS, 0.0) | {'seed': 0})
        groups.setdefault(shape.to_json_best_effort(), []).append(run)
    return list(groups.values())


def _ranks(
    experiment: Experiment, run: Member, folder: epath.Path
) -> Int[np.ndarray, 'scorers users']:
    """The test ranks of a run's best checkpoint under the configured rule."""
    experiment = experiment.with_config(run.config)
    params, _ = best_params(experiment, str(folder / run.name))
    evaluate = Evaluator(run.config.eval, experiment.ensemble, experiment.split.test)
    return evaluate(replicate(params, jax.devices())).ranks[:, RULES.index(run.config.eval.rule)]


def _scores(
    system: System,
    trained: dict[str, list[Member]],
    ranks: dict[str, Int[np.ndarray, 'scorers users']],
) -> dict[str, Float[np.ndarray, 'seeds users']]:
    of_seeds = [ranks[run.name] for run in trained[_slug(system)]]
    if system.alone:
        values = [user_metrics(of_run[1:], 10) for of_run in of_seeds]
        return {name: np.stack([of_run[name].mean(0) for of_run in values]) for name in METRICS}
    values = [user_metrics(of_run[0], 10) for of_run in of_seeds]
    return {name: np.stack([of_run[name] for of_run in values]) for name in METRICS}


def _costs(experiment: Experiment, systems: Sequence[System]) -> Iterator[dict[str, int | float]]:
    """Of each system; those that compute the same are measured once."""
    costs = {}
    for system in systems:
        config = _changed(experiment.config, system.changes)
        if system.alone:
            config.ensemble.num_networks = 1
        options = config.objective
        computes = (
            config.model.encoder,
            config.ensemble.num_networks,
            options.contrast_weight > 0,
            options.attribute_weight > 0,
            options.kd_weight > 0,
        )
        if computes not in costs:
            costs[computes] = cost_of(experiment.with_config(config))
        yield costs[computes]
