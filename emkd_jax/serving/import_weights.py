"""`--mode=import`: weights that were trained elsewhere become the best checkpoint of a run."""

import ml_collections

from emkd_jax.cli.console import say
from emkd_jax.errors import UserError
from emkd_jax.runs.beginning import begin
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.trained import default_workdir
from emkd_jax.runs.training_run import BEST_METRIC
from emkd_jax.serving.weights import check_weights, load_weights
from emkd_jax.training.sweep import check_single


def import_weights(config: ml_collections.ConfigDict, workdir: str = '', path: str = '') -> None:
    """Starts a run at step 0 with the weights of a file.

    The run can then be evaluated, recommended from and exported, and training can go on from there.

    Args:
      config: the options with which the weights were trained.
      workdir: of the new run; '' for `runs/<config.name>`.
      path: the file of weights.

    Raises:
      UserError: the file holds no weights of this model, or the workdir already has a run.
    """
    if not path:
        raise UserError('--weights is empty; name a file of weights.')
    check_single(config, '--weights')
    params, experiment = load_weights(path), make_experiment(config)
    check_weights(params, experiment.state_shapes().params, path)
    folder, value = begin(experiment, params, workdir or default_workdir(config))
    say(f'{path} is now the best checkpoint of {folder} (validation {BEST_METRIC} {value:.4f}).')
