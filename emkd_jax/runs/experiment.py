"""What every mode starts from: a configuration, its data and the model it describes."""

import dataclasses
import functools

import jax
import ml_collections
import optax
from jaxtyping import PyTree

from emkd_jax import data
from emkd_jax.config.checks import check_config
from emkd_jax.data.dataset import Dataset, Ragged, Split, check_dataset
from emkd_jax.data.packing import Packing, pack
from emkd_jax.data.splits import split_of
from emkd_jax.data.windows import Windows, windows
from emkd_jax.errors import UserError
from emkd_jax.evaluation.counts import choose_settings
from emkd_jax.model.counts import CountModel
from emkd_jax.model.ensemble import Ensemble, make_ensemble, member_encoders
from emkd_jax.training.placement import place
from emkd_jax.training.state import TrainState, init_state, make_optimizer

_FEWEST_TARGETS = 256  # of a step whose size is left to the data
MOST_COUNTED = 5_000_000  # events; the pairs within 20 places of more of them take gigabytes
_STEPS = 1000  # of an epoch, where the data is large enough


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration, its data and its model."""

    config: ml_collections.ConfigDict
    data: Dataset
    split: Split
    ensemble: Ensemble
    optimizer: optax.GradientTransformation

    def __repr__(self) -> str:
        return f'<Experiment {self.config.name} on {self.data!r}>'

    @functools.cached_property
    def rows(self) -> Windows | Packing:
        """What is trained on: windows, or packed rows."""
        train, max_len = self.split.train, self.config.model.max_len
        if self.ensemble.network.encoder.task == 'next_item':
            return pack(train, max_len, self.config.train.row_width)
        return windows(train, max_len, self.config.data.window_step)

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of users, items, interactions, attributes, and of windows or packed rows."""
        rows = self.rows
        of_rows = rows.counts if isinstance(rows, Packing) else {'windows': len(rows)}
        return self.data.counts() | of_rows

    @functools.cached_property
    def count_model(self) -> CountModel:
        """The transition counts of the training histories, which are a baseline of every run."""
        options, num_items = self.config, self.data.num_items
        split = self.split._replace(train=self.counted)
        settings = choose_settings(
            self.data.name, split, num_items, options.model.max_len, options.eval.search_counts
        )
        return CountModel(self.counted, num_items, settings)

    @functools.cached_property
    def counted(self) -> Ragged:
        """The training histories that baselines count: all of them, or a sample of large logs."""
        return self.split.train.sample(MOST_COUNTED)

    @functools.cached_property
    def placed_ensemble(self) -> Ensemble:
        """The ensemble as it lies on all devices: `ensemble.shard_items` splits item tables."""
        shards = jax.device_count() if self.config.ensemble.shard_items else 1
        return self.ensemble.sharded(shards)

    def place(self, params: PyTree) -> PyTree:
        """Puts parameters, which are host arrays, on all devices, for `placed_ensemble`."""
        return place(params, jax.devices(), self.placed_ensemble.shards)

    def with_config(self, config: ml_collections.ConfigDict) -> 'Experiment':
        """The same data with another model or objective."""
        if config is self.config:
            return self
        other = dataclasses.replace(
            self,
            config=config,
            optimizer=make_optimizer(config.optimizer.learning_rate),
            ensemble=_ensemble(config, self.data),
        )
        if _shape_of_rows(other) == _shape_of_rows(self):
            other.__dict__['rows'] = self.rows  # large logs are not cut and held twice
        return other

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        averaged = bool(self.config.optimizer.average_decay)
        if self.placed_ensemble.shards == 1:
            return init_state(self.ensemble, self.optimizer, self.config.seed, averaged)
        with jax.default_device(_host_device()):  # no other device has room for whole tables
            return init_state(self.ensemble, self.optimizer, self.config.seed, averaged)

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of a state."""
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> TrainState:
        return jax.eval_shape(self.initial_state)  # which traces all networks


def make_experiment(
    config: ml_collections.ConfigDict, dataset: Dataset | None = None
) -> Experiment:
    """Checks the options, loads the data unless it is given, and describes the model.

    Raises:
      UserError: an option is not allowed, or the data cannot be had.
    """
    check_config(config)
    if dataset is None:
        dataset = data.load(config.data)
    check_dataset(dataset)
    if not dataset.num_attributes:  # there is nothing to predict
        config = config.copy_and_resolve_references()
        config.objective.attribute_weight = 0.0
    if config.ensemble.members:
        config = config.copy_and_resolve_references()
        config.ensemble.num_networks = len(member_encoders(config))
    split = split_of(dataset, config.eval.max_users)
    if not len(split.test.targets):
        raise UserError(
            f'No user of {dataset.name} has three events, and training, validation and test take '
            'one each; name a longer log with --config.data.source.'
        )
    experiment = Experiment(
        config,
        dataset,
        split,
        _ensemble(config, dataset),
        make_optimizer(config.optimizer.learning_rate),
    )
    if config.train.batch_size:
        return experiment
    config = config.copy_and_resolve_references()
    if not isinstance(experiment.rows, Packing):
        raise UserError(
            'train.batch_size=0 needs packed rows; set a number, or objective.task=next_item.'
        )
    config.train.batch_size = batch_size_for(experiment.rows)
    return experiment.with_config(config)


def batch_size_for(rows: Packing) -> int:
    """The rows of a step where the options leave them to the data.

    Small steps learn more from the same data on small data sets: 256 targets were best on Toys with
    109,361 targets. The number of rows is a multiple of 4, so that 4 devices can share it.
    """
    targets = max(_FEWEST_TARGETS, rows.counts['targets'] / _STEPS)
    return 4 * max(1, round(targets / rows.width / 4))


def _ensemble(config: ml_collections.ConfigDict, data: Dataset) -> Ensemble:
    return make_ensemble(
        config, data.num_items, data.num_attributes, item_attributes=data.item_attributes
    )


def _host_device() -> jax.Device | None:
    """The CPU as a device; None, the default device, where JAX was told to leave it out."""
    try:
        return jax.devices('cpu')[0]
    except RuntimeError:
        return None


def _shape_of_rows(experiment: Experiment) -> tuple[str, int, int, int]:
    config = experiment.config
    task = experiment.ensemble.network.encoder.task
    return task, config.model.max_len, config.data.window_step, config.train.row_width
