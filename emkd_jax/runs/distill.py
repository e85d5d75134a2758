"""`--mode=distill`: a single network, taught by a trained ensemble, that costs 1/N to serve."""

from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from emkd_jax.errors import UserError
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.reporting import say, table
from emkd_jax.runs.results import default_workdir, read_results
from emkd_jax.runs.workdir import write_json, writing
from emkd_jax.training.sweep import members


def distill(config: ml_collections.ConfigDict, workdir: str = '') -> dict[str, Any]:
    """Trains a student of the ensemble in `workdir`, in workdir/student, and compares them.

    The student is an ordinary run of `config` with one network and with `distill.teacher`: other
    modes take it with these two options set. It may have another size or encoder than its teacher.

    Returns:
      What student/distillation.json holds: 'test' of the teacher, of its networks alone (mean) and
      of the student, and 'kept': the student's share of the gain from a network to the ensemble
      (None where there is no gain).

    Raises:
      UserError: the workdir holds no finished run, or several.
    """
    folder = workdir or default_workdir(make_experiment(config))
    taught = read_results(epath.Path(folder))
    if taught is None:
        raise UserError(f'{folder} holds no finished run; train the teacher with --mode=train.')
    if members(config) or 'networks' not in taught:
        raise UserError(
            'A student has one teacher, and no seeds or values beside its own; leave '
            f'train.num_seeds and sweep.* out, and name one run: --workdir={folder}/seed_0, say.'
        )
    student = config.copy_and_resolve_references()
    student.ensemble.num_networks, student.distill.teacher = 1, folder
    place = epath.Path(folder) / 'student'
    results = train(student, str(place))
    found = compare(taught, results, config.eval.rule)
    if jax.process_index() == 0:
        with writing(place / 'distillation.json'):
            write_json(place / 'distillation.json', found)
    say(f"\nTest, rule '{config.eval.rule}'\n{table(found['test'])}\n")
    say(in_words(found['kept']['NDCG@10']))
    say(
        f'Serve it with --workdir={place} --config.ensemble.num_networks=1 '
        f'--config.distill.teacher={folder}.'
    )
    return found


def compare(taught: dict[str, Any], student: dict[str, Any], rule: str) -> dict[str, Any]:
    """Teacher, its networks and student side by side, from their results; see `distill`."""
    of_student = student['test'][rule]
    ensemble = {
        metric: value for metric, value in taught['test'][rule].items() if metric in of_student
    }
    network = {
        metric: float(np.mean([of[rule][metric] for of in taught['networks']]))
        for metric in ensemble
    }
    gains = {metric: ensemble[metric] - network[metric] for metric in ensemble}
    return {
        'test': {'teacher': ensemble, 'a network of it': network, 'student': of_student},
        'kept': {
            metric: (of_student[metric] - network[metric]) / gain if gain > 0 else None
            for metric, gain in gains.items()
        },
    }


def in_words(kept: float | None) -> str:
    """What the share of the gain in NDCG@10 says."""
    if kept is None:
        return 'The ensemble is no better than its networks: there is no gain to keep.'
    if kept < 0:
        return 'The student is behind the networks of the ensemble in NDCG@10.'
    return f"The student keeps {kept:.0%} of the ensemble's gain in NDCG@10 over its networks."
