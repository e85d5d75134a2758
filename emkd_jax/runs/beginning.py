"""A run that begins with given parameters: its checkpoint of step 0."""

import dataclasses
from typing import Any

from etils import epath
from jaxtyping import PyTree

from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.results import announce
from emkd_jax.runs.training_run import BEST_METRIC, new_record
from emkd_jax.runs.workdir import holds_run, keep_data, open_workdir, sole_writer


def begin(
    experiment: Experiment, params: PyTree, workdir: str, **record: Any
) -> tuple[epath.Path, float]:
    """Starts a run at step 0, with parameters that are its best checkpoint until better ones come.

    Args:
      experiment: the options, data and model of the new run.
      params: the parameters, as host arrays.
      workdir: of the new run.
      **record: more entries of the record beside the checkpoint.

    Returns:
      The workdir, and the validation NDCG@10 of the parameters.

    Raises:
      UserError: the workdir already has a run.
    """
    if holds_run(workdir):
        raise UserError(f'{workdir} already holds a run; choose another --workdir.')
    config = experiment.config
    validate = Evaluator(config.eval, experiment.placed_ensemble, experiment.split.validation)
    value = validate(experiment.place(params)).ensemble[config.eval.rule][BEST_METRIC]
    best = {'step': 0, 'epoch': 0, 'value': value}
    folder = open_workdir(workdir, config)
    announce(experiment, folder)
    with sole_writer(folder):
        keep_data(experiment.data, folder)
        checkpoints = Checkpoints(folder)
        state = experiment.initial_state()
        state = dataclasses.replace(state, params=params, average=params if state.average else {})
        checkpoints.save(state, new_record(experiment.data.fingerprint) | {'best': best} | record)
        checkpoints.close()
    return folder, value
