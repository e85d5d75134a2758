"""A trained ensemble that a student learns from."""

import json
from typing import NamedTuple

import ml_collections
from etils import epath
from jaxtyping import PyTree

from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.runs.evaluate import best_params
from emkd_jax.runs.experiment import Experiment


class Teacher(NamedTuple):
    """An ensemble and its parameters (host arrays)."""

    ensemble: Ensemble
    params: PyTree


def load_teacher(experiment: Experiment) -> Teacher | None:
    """The best checkpoint of the run in `distill.teacher`; None where there is no teacher.

    Raises:
      UserError: there is no such run, or it cannot teach this student.
    """
    config = experiment.config
    if not config.distill.teacher:
        return None
    if config.ensemble.num_networks != 1:
        raise UserError(
            'distill.teacher is set, and a student is one network; set '
            '--config.ensemble.num_networks=1.'
        )
    for option in ('temperature', 'kd_weight', 'contrast_weight'):
        if config.sweep[option]:
            raise UserError(
                f'sweep.{option} is of an ensemble without a teacher; leave it or '
                'distill.teacher out.'
            )
    file = epath.Path(config.distill.teacher, 'config.json')
    try:
        theirs = json.loads(file.read_text())
        taught = config.copy_and_resolve_references()
        taught.update(_as_config(theirs, taught))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f'distill.teacher={config.distill.teacher} is not the workdir of a run; train one '
            'first, or mend the path.'
        ) from error
    if taught.model.max_len < config.model.max_len:
        raise UserError(
            f'distill.teacher={config.distill.teacher} sees {taught.model.max_len} slots, which '
            f'are fewer than model.max_len={config.model.max_len} of its student; set '
            f'--config.model.max_len={taught.model.max_len}.'
        )
    teacher = experiment.with_config(taught)
    params, _ = best_params(teacher, config.distill.teacher)
    return Teacher(teacher.ensemble, params)


def _as_config(tree: dict, like: ml_collections.ConfigDict) -> dict:
    """JSON has no tuples."""
    return {
        name: _as_config(value, like[name])
        if isinstance(value, dict)
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in tree.items()
    }
