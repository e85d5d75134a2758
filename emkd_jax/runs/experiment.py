"""What every mode starts from: the data of a configuration and the model it describes."""

import dataclasses
import functools

import jax
import ml_collections
import numpy as np
import optax

from emkd_jax import data as data_room
from emkd_jax.data.dataset import SequenceData, Split, leave_one_out, windows
from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble, make_ensemble
from emkd_jax.objective.emkd import check_options
from emkd_jax.training.step import TrainState, init_state, make_optimizer


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration, its data and its model."""

    config: ml_collections.ConfigDict
    data: SequenceData
    split: Split
    ensemble: Ensemble
    optimizer: optax.GradientTransformation

    @functools.cached_property
    def windows(self) -> np.ndarray:
        """Training windows, (windows, slots), left-padded with 0."""
        return windows(self.split.train, self.config.model.max_len, self.config.data.window_step)

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Users, items, interactions, attributes and windows."""
        return self.data.counts() | {'windows': len(self.windows)}

    def with_config(self, config: ml_collections.ConfigDict) -> 'Experiment':
        """The same data with another model or objective."""
        return dataclasses.replace(
            self,
            config=config,
            optimizer=make_optimizer(config.optimizer),
            ensemble=make_ensemble(config, self.data.num_items, self.data.num_attributes),
        )

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        return init_state(self.ensemble, self.optimizer, self.config.seed)

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of a state."""
        return jax.eval_shape(self.initial_state)


def make_experiment(config: ml_collections.ConfigDict) -> Experiment:
    """Loads the data and describes the model.

    Raises:
      UserError: an option makes no sense, or the data is not to be had.
    """
    check_config(config)
    data = data_room.load(config.data)
    if not data.num_attributes:  # nothing to predict
        config = config.copy_and_resolve_references()
        config.objective.attribute_weight = 0.0
    split = data.holdout or leave_one_out(data)
    if not len(split.test.targets):
        raise UserError(
            f'No user of {data.name} has the three events of which training, validation and test '
            'take one each; name a longer log with --config.data.source.'
        )
    return Experiment(
        config,
        data,
        split,
        make_ensemble(config, data.num_items, data.num_attributes),
        make_optimizer(config.optimizer),
    )


_AT_LEAST_ONE = (
    'data.window_step',
    'model.max_len',
    'model.hidden_dim',
    'model.num_blocks',
    'model.num_heads',
    'ensemble.num_networks',
    'train.batch_size',
    'train.num_epochs',
    'train.num_seeds',
    'train.max_together',
    'train.steps_per_dispatch',
    'eval.first_epoch',
    'eval.every_epochs',
    'eval.batch_size',
)
_NOT_NEGATIVE = (
    'seed',
    'train.num_steps',
    'checkpoint.every_steps',
    'checkpoint.every_minutes',
    'optimizer.learning_rate',
    'objective.kd_weight',
    'objective.contrast_weight',
    'objective.icl_weight',
    'objective.ccl_weight',
    'objective.attribute_weight',
    'distill.weight',
)
_MOST = 2**31 - 1  # steps, rows and seeds are 32-bit numbers on the devices


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError where an option makes no sense, whatever the data."""
    check_options(config.objective)
    for names, least in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            value = functools.reduce(getattr, name.split('.'), config)
            if not value >= least:
                raise UserError(f'{name} is {value}; it must be at least {least}.')
            if isinstance(value, int) and value > _MOST:
                raise UserError(f'{name} is {value}; it must be at most {_MOST}.')
    if not 0 <= config.model.dropout < 1:
        raise UserError(f'model.dropout is {config.model.dropout}; it must lie in [0, 1).')
    if not config.distill.temperature > 0:
        raise UserError(
            f'distill.temperature is {config.distill.temperature}; it must be positive.'
        )
    if config.eval.rule not in ('window', 'history', 'none'):
        raise UserError(f"eval.rule is '{config.eval.rule}'; use window, history or none.")
    if 10 not in config.eval.ks or not all(type(k) is int and k >= 1 for k in config.eval.ks):
        raise UserError(
            f'eval.ks is {tuple(config.eval.ks)}; it takes cut-offs of at least 1, 10 among them, '
            'since validation NDCG@10 picks the checkpoint.'
        )
