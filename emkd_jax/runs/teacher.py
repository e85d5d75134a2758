"""A trained ensemble that teaches a student."""

from typing import NamedTuple

import jax
from jaxtyping import PyTree

from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.trained import load_run


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
    name = config.distill.teacher
    if not name:
        return None
    for option in ('temperature', 'kd_weight', 'contrast_weight'):
        if config.sweep[option]:
            raise UserError(
                f'sweep.{option} has no meaning for a student; leave it or distill.teacher out.'
            )
    try:
        run = load_run(name, dataset=experiment.data)
    except UserError as error:
        raise UserError(f'distill.teacher={name} cannot teach: {error}') from error
    task, taught = (e.ensemble.network.encoder.task for e in (experiment, run.experiment))
    if task != taught:
        raise UserError(
            f'distill.teacher={name} was trained with objective.task={taught}, and its student '
            f'would be trained with {task}; set --config.objective.task={taught}, or another '
            'model.encoder.'
        )
    if run.config.model.max_len < config.model.max_len:
        raise UserError(
            f'distill.teacher={name} sees {run.config.model.max_len} items, fewer than '
            f'model.max_len={config.model.max_len} of its student; set '
            f'--config.model.max_len={run.config.model.max_len}.'
        )
    return Teacher(run.experiment.ensemble, jax.device_get(run.params))
