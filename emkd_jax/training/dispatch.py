"""Many train steps in one dispatch: compiled once, and pmapped over the devices.

The states of several runs are stacked: every leaf has a leading axis of runs. The compiled function
also takes the state of a single run without that axis, since an axis of length 1 changes the layout
of the arrays on TPUs and costs a copy of the state (Toys on v5e:2x2: 0.5 GB of 2.6).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Int, PyTree

from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.emkd import Capacity
from emkd_jax.objective.hyper_parameters import hyper_parameters
from emkd_jax.objective.masking import buffer_capacity
from emkd_jax.training.batches import Order, epoch_order, steps_per_epoch
from emkd_jax.training.placement import AXIS, Flattened, rows_per_device
from emkd_jax.training.state import TrainState, init_state, make_optimizer
from emkd_jax.training.step import TrainingData, finite_checked, one_step


class Progress(NamedTuple):
    """The report of a dispatch to the host. A single run has no axis of runs.

    Attributes:
      step: (runs,) int32, the number of optimizer steps done.
      sums: (runs,) for each of `sums_of`, as in the state.
      broken: (runs, checked) bool, True for each of `finite_checked` that is not finite in the step
        after the last one that counted.
      request: () int32, the highest request that any device was given.
    """

    step: PyTree
    sums: dict[str, PyTree]
    broken: PyTree
    request: PyTree


def make_capacity(options: ml_collections.ConfigDict, lengths: np.ndarray, rows: int) -> Capacity:
    """Returns the buffer sizes of a device with `rows` rows, from the lengths of all windows."""
    return Capacity(
        buffer_capacity(lengths, rows, options.num_views, options.mask_prob),
        buffer_capacity(lengths, rows, 1, options.mask_prob),
    )


def compile_train_steps(
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    lengths: np.ndarray | None,
    devices: Sequence[jax.Device],
    teacher: Ensemble | None = None,
) -> 'TrainSteps':
    """Compiles the function `(states, data, num_steps, requests) -> (states, progress)`.

    The function takes `num_steps` optimizer steps of one epoch for every run of the stack, and
    stops before a step whose loss or gradients are not finite. A host asks all hosts for something
    through `requests`, one number per device; `progress.request` is their maximum. The states are
    donated. `placement.place` (for the states; their item tables are split where the ensemble has
    shards), `placement.replicate` and `placement.fill` put the arguments on the devices. The state
    of a single run may come without the axis of runs, and is then returned without it.

    Args:
      config: the options of the first run. The others differ in `data.varying` and their seeds.
      ensemble: the networks.
      lengths: the number of items in each training window; None for packed rows.
      devices: all devices of the run. They may belong to a topology that is not present.
      teacher: the ensemble that teaches, whose parameters are `data.teacher`.

    Raises:
      UserError: the devices cannot share the batch evenly.
    """
    batch_size = config.train.batch_size
    rows = rows_per_device(batch_size, len(devices))
    capacity = None if lengths is None else make_capacity(config.objective, lengths, rows)
    shared_hyper = hyper_parameters(config)

    def many_steps(states, data, num_steps, order, request):
        alone = states.step.ndim == 0
        row_ids = jax.lax.axis_index(AXIS) * rows + jnp.arange(rows)

        def step(state, order, varying):
            return one_step(
                state,
                order,
                varying.over(shared_hyper),
                data,
                row_ids,
                config,
                ensemble,
                capacity,
                teacher,
                # A sum over one device would still cost a CPU a copy of the gradients.
                AXIS if len(devices) > 1 else None,
            )

        if not alone:
            step = jax.vmap(step)

        def unfinished(carry):
            done, _, broken = carry
            return (done < num_steps) & ~broken.any()

        def body(carry):
            done, states, _ = carry
            return done + 1, *step(states, order, data.varying)

        # The loop depends on this maximum, so that its own all-reduces come later. If two of them
        # were independent, CPU devices might enter different ones, and XLA would abort.
        request = jax.lax.pmax(request, AXIS)
        broken = jnp.zeros((*states.step.shape, len(finite_checked(ensemble))), bool)
        start = jnp.minimum(request, 0), states, broken
        _, states, broken = jax.lax.while_loop(unfinished, body, start)
        return states, Progress(states.step, states.sums, broken, request)

    averaged = bool(config.optimizer.average_decay)
    optimizer = make_optimizer(config.optimizer.learning_rate)
    state = jax.eval_shape(lambda: init_state(ensemble, optimizer, 0, averaged))
    steps = Flattened(
        many_steps,
        state,
        ensemble.shards,
        in_axes=(None, None, None, 0),
        donate_argnums=0,
        devices=devices,
    )

    def orders(seeds, step, rows, _):
        def order_of(seed, step):
            return epoch_order(seed, step // steps_per_epoch(len(rows), batch_size), rows)

        return (jax.vmap(order_of) if step.ndim else order_of)(seeds, step)

    order = jax.pmap(orders, AXIS, in_axes=(None, None, None, 0), out_axes=None, devices=devices)
    return TrainSteps(steps, order)


class TrainSteps:
    """The compiled steps; see `compile_train_steps`."""

    def __init__(self, steps: Flattened, order: Callable[..., Order]):
        """Joins the steps and the function that draws the order of an epoch."""
        self._steps, self._order = steps, order

    def __call__(
        self,
        states: TrainState,
        data: TrainingData,
        num_steps: Int[Any, ''],
        requests: Int[Any, ' devices'],
        order: Order | None = None,
    ) -> tuple[TrainState, Progress]:
        """Takes steps of one epoch, whose `order` is drawn where it is not given."""
        order = self.order(states, data, requests) if order is None else order
        return self._steps(states, data, num_steps, order, requests)

    def order(
        self, states: TrainState, data: TrainingData, requests: Int[Any, ' devices']
    ) -> Order:
        """Draws the order of the epoch of the next step, which takes as long as a sort."""
        return self._order(states.seed, states.step, data.rows, requests)

    def lower(
        self,
        states: TrainState,
        data: TrainingData,
        num_steps: Int[Any, ''],
        requests: Int[Any, ' devices'],
    ) -> jax.stages.Lowered:
        """Lowers the steps, without the order of the epoch."""
        order = jax.eval_shape(self._order, states.seed, states.step, data.rows, requests)
        return self._steps.lower(states, data, num_steps, order, requests)
