"""What a system costs: parameters, and how fast it trains and ranks on this machine, alone."""

import time

import jax
import numpy as np

from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.experiment import Experiment
from emkd_jax.training.trainer import NOTHING, STOP, Trainer

_SECONDS = 3  # of training that are timed, a dispatch at least


def cost_of(experiment: Experiment) -> dict[str, int | float]:
    """'parameters' of all networks, training 'sequences/s', and validation 'users/s'."""
    trainer = Trainer(experiment, experiment.initial_state(), {'steps': 0, 'seconds': 0.0})
    trainer.advance_to(1, lambda: NOTHING, lambda: None)  # compiles
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        epoch_end = (trainer.step // trainer.per_epoch + 1) * trainer.per_epoch
        trainer.advance_to(
            epoch_end, lambda: STOP if time.monotonic() > end else NOTHING, lambda: None
        )
    evaluate = Evaluator(experiment.config.eval, experiment.ensemble, experiment.split.validation)
    evaluate(trainer.state.params)  # compiles
    began = time.monotonic()
    evaluate(trainer.state.params)
    users = len(experiment.split.validation.targets)
    timed = trainer.timed
    return {
        'parameters': sum(int(np.size(leaf)) for leaf in jax.tree.leaves(trainer.state.params)),
        'sequences/s': experiment.config.train.batch_size * timed['steps'] / timed['seconds'],
        'users/s': users / (time.monotonic() - began),
    }
