"""What every mode starts from: a configuration, its data and the model it describes."""

import dataclasses
import functools

import jax
import ml_collections
import numpy as np
import optax
from jaxtyping import Int32

from emkd_jax import data
from emkd_jax.config import check_config
from emkd_jax.data.dataset import Dataset, Split
from emkd_jax.data.splits import leave_one_out, windows
from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble, make_ensemble
from emkd_jax.training.step import TrainState, init_state, make_optimizer


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration, its data and its model."""

    config: ml_collections.ConfigDict
    data: Dataset
    split: Split
    ensemble: Ensemble
    optimizer: optax.GradientTransformation

    @functools.cached_property
    def windows(self) -> Int32[np.ndarray, 'windows slots']:
        """Training windows, padded on the left with 0."""
        return windows(self.split.train, self.config.model.max_len, self.config.data.window_step)

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of users, items, interactions, attributes and windows."""
        return self.data.counts() | {'windows': len(self.windows)}

    def with_config(self, config: ml_collections.ConfigDict) -> 'Experiment':
        """The same data with another model or objective."""
        other = dataclasses.replace(
            self,
            config=config,
            optimizer=make_optimizer(config.optimizer.learning_rate),
            ensemble=make_ensemble(config, self.data.num_items, self.data.num_attributes),
        )
        if _window_shape(config) == _window_shape(self.config):
            other.__dict__['windows'] = self.windows  # large logs are not cut and held twice
        return other

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        return init_state(self.ensemble, self.optimizer, self.config.seed)

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of a state."""
        return jax.eval_shape(self.initial_state)


def make_experiment(
    config: ml_collections.ConfigDict, dataset: Dataset | None = None
) -> Experiment:
    """Checks the options, loads the data unless it is given, and describes the model.

    Raises:
      UserError: an option is not allowed, or the data cannot be had.
    """
    check_config(config)
    dataset = dataset or data.load(config.data)
    if not dataset.num_attributes:  # there is nothing to predict
        config = config.copy_and_resolve_references()
        config.objective.attribute_weight = 0.0
    split = dataset.split or leave_one_out(dataset)
    if not len(split.test.targets):
        raise UserError(
            f'No user of {dataset.name} has three events, and training, validation and test take '
            'one each; name a longer log with --config.data.source.'
        )
    return Experiment(
        config,
        dataset,
        split,
        make_ensemble(config, dataset.num_items, dataset.num_attributes),
        make_optimizer(config.optimizer.learning_rate),
    )


def _window_shape(config: ml_collections.ConfigDict) -> tuple[int, int]:
    return config.model.max_len, config.data.window_step
