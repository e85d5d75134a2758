"""`--mode=evaluate`: the test of a workdir's best checkpoint."""

from typing import Any

import jax
import ml_collections
from etils import epath
from jaxtyping import PyTree

from emkd_jax.errors import UserError
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.results import announce, default_workdir, print_tests, test
from emkd_jax.runs.workdir import check_data, holds_run, open_workdir
from emkd_jax.training.placement import replicate
from emkd_jax.training.sweep import members


def evaluate(config: ml_collections.ConfigDict, workdir: str = '') -> dict[str, Any]:
    """Tests the best checkpoint of `workdir`, prints the tables and returns what they show.

    Raises:
      UserError: the workdir holds no run of this configuration, or none that was validated yet.
    """
    experiment = make_experiment(config)
    folder = workdir or default_workdir(experiment)
    params, _ = best_params(experiment, folder)
    announce(experiment, epath.Path(folder))
    results = test(experiment, replicate(params, jax.devices()))
    print_tests(results)
    return results


def best_params(experiment: Experiment, workdir: str) -> tuple[PyTree, dict[str, Any]]:
    """Parameters (host arrays) of the best checkpoint in `workdir`, and that checkpoint's record.

    Raises:
      UserError: the workdir holds no run of this configuration and data, or none that was
        validated yet.
    """
    if not holds_run(workdir):
        raise UserError(f'{workdir} holds no run; train one with --mode=train, or mend --workdir.')
    if several := members(experiment.config):
        raise UserError(
            f'The runs in {workdir} trained together; ask one of them, with --workdir='
            f'{workdir}/{several[0].name} and its seed and settings.'
        )
    folder = open_workdir(workdir, experiment.config)
    checkpoints = Checkpoints(folder, read_only=True)
    latest = checkpoints.latest
    record = None if latest is None else checkpoints.record(latest)
    if not record or not record['best']:
        raise UserError(
            f'The run in {workdir} has no validated checkpoint yet; let --mode=train go on.'
        )
    check_data(folder, record['data'], experiment.data.fingerprint)
    state, record = checkpoints.restore(record['best']['step'], experiment.state_shapes())
    return state.params, record
