"""`--mode=import`: weights that were trained elsewhere become a run's best checkpoint."""

import jax
import ml_collections
from etils import epath

from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.reporting import say
from emkd_jax.runs.results import announce, default_workdir
from emkd_jax.runs.run import BEST_METRIC
from emkd_jax.runs.workdir import holds_run, open_workdir, sole_writer
from emkd_jax.serving.weights import check_weights, load_weights
from emkd_jax.training.placement import replicate
from emkd_jax.training.sweep import members


def import_weights(config: ml_collections.ConfigDict, workdir: str = '', path: str = '') -> None:
    """Starts a run in `workdir` at step 0 with the weights in the file at `path`.

    It can then be evaluated, recommended from and exported, and training goes on from there.

    Raises:
      UserError: the file holds no weights of this model, or the workdir already has a run.
    """
    if not path:
        raise UserError('--weights is empty; name a file of weights.')
    if members(config):
        raise UserError('Weights are of one run; leave train.num_seeds and sweep.* out.')
    params = load_weights(path)
    experiment = make_experiment(config)
    check_weights(params, experiment.state_shapes().params, path)
    workdir = workdir or default_workdir(experiment)
    if holds_run(workdir):
        raise UserError(f'{workdir} already holds a run; choose another --workdir.')
    folder = epath.Path(workdir)
    announce(experiment, folder)
    validate = Evaluator(config.eval, experiment.ensemble, experiment.split.validation)
    value = validate(replicate(params, jax.devices())).ensemble[config.eval.rule][BEST_METRIC]
    with sole_writer(open_workdir(workdir, experiment.config)):
        checkpoints = Checkpoints(folder)
        checkpoints.save(
            experiment.initial_state().replace(params=params),
            {
                'data': experiment.data.fingerprint,
                'best': {'step': 0, 'epoch': 0, 'value': value},
                'seconds': 0.0,
                'timed': {'steps': 0, 'seconds': 0.0},
            },
        )
        checkpoints.close()
    say(f'{path} is now the best checkpoint of {folder} (validation {BEST_METRIC} {value:.4f}).')
