"""How much a system costs: its parameters, and its speed on the devices of this process."""

import time

import jax
import numpy as np

from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.experiment import Experiment
from emkd_jax.training.state import stack_states
from emkd_jax.training.sweep import stack_hyper_parameters
from emkd_jax.training.trainer import Request, Trainer

_SECONDS = 3.0  # of training that are timed


def make_trainer(experiment: Experiment) -> Trainer:
    """Returns a trainer that is about to start a single run."""
    return Trainer(
        experiment.config,
        experiment.placed_ensemble,
        experiment.rows,
        experiment.data.item_attributes,
        stack_states([experiment.initial_state()]),
        stack_hyper_parameters([experiment.config]),
        [''],
        {'steps': 0, 'seconds': 0.0},
    )


def train_for(trainer: Trainer, seconds: float, min_steps: int = 1) -> tuple[int, float]:
    """Trains until the time is up and `min_steps` steps are done, beyond the last epoch if needed.

    Returns:
      The steps that were taken, and the seconds that they took.
    """
    began, first = time.perf_counter(), trainer.step

    def request() -> Request:
        late = time.perf_counter() - began >= seconds
        return Request.STOP if late and trainer.step >= first + min_steps else Request.NONE

    answer = Request.NONE
    while answer != Request.STOP:
        answer = trainer.advance_to(trainer.epoch * trainer.per_epoch, request, lambda: None)
    return trainer.step - first, time.perf_counter() - began


def measure_cost(experiment: Experiment) -> dict[str, int | float]:
    """Returns 'parameters' of all networks, training 'sequences/s', and validation 'users/s'."""
    trainer = make_trainer(experiment)
    train_for(trainer, 0.0)  # compiles
    steps, seconds = train_for(trainer, _SECONDS)
    [params] = trainer.params()
    validation = experiment.split.validation
    evaluate = Evaluator(experiment.config.eval, experiment.placed_ensemble, validation)
    evaluate(params)  # compiles
    began = time.perf_counter()
    evaluate(params)
    return {
        'parameters': sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params)),
        'sequences/s': trainer.sequences_per_step * steps / seconds,
        'users/s': len(validation.targets) / (time.perf_counter() - began),
    }
