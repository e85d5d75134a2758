"""The train step: objective, gradient and optimizer, compiled once and pmapped over the devices.

A step depends on nothing but the state. Its rows, masks and dropout are hashes of the seed and the
number of the step. A run is therefore the same on any number of devices and after any resume, and
many steps can be dispatched without the host.

The states of several runs are stacked: every leaf has a leading axis of runs. The compiled function
also takes the state of a single run without that axis, since an axis of length 1 changes the layout
of the arrays on TPUs and costs a copy of the state (Toys on v5e:2x2: 0.5 GB of 2.6).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.sharded_tables import is_table
from emkd_jax.objective import next_item
from emkd_jax.objective.distillation import student_loss
from emkd_jax.objective.emkd import PARTS, Batch, Capacity, emkd_loss
from emkd_jax.objective.hyper_parameters import HyperParameters, hyper_parameters
from emkd_jax.objective.masking import buffer_capacity
from emkd_jax.objective.next_item import PackedBatch
from emkd_jax.training.batches import (
    DROPOUT,
    Order,
    draw_packed,
    draw_windows,
    epoch_order,
    steps_per_epoch,
)
from emkd_jax.training.finite import all_finite
from emkd_jax.training.placement import AXIS, Flattened, rows_per_device


def parts_of(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of the parts of the loss, of which the first is the main one."""
    return next_item.PARTS if ensemble.network.encoder.task == 'next_item' else PARTS


def sums_of(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of what is summed over the steps of an epoch."""
    return ('total', *parts_of(ensemble), 'masked', 'overflow')


def finite_checked(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of what must be finite; otherwise the step does not count."""
    return (*parts_of(ensemble), 'gradients')


@flax.struct.dataclass
class TrainState:
    """Complete training state, replicated on every device but for item tables that are split.

    Leaves may be device arrays, NumPy arrays or ShapeDtypeStructs. Shapes are those of one run.

    Attributes:
      step: () int32, the number of optimizer steps done.
      params: the parameters, with a leading axis of networks.
      opt_state: the state of the optimizer, with a leading axis of networks.
      seed: () uint32, the seed of the run.
      average: a running average of the parameters, or an empty dictionary where none is kept.
      sums: () float32 for each of `sums_of`, summed over the steps of this epoch so far.
    """

    step: PyTree
    params: PyTree
    opt_state: PyTree
    seed: PyTree
    sums: dict[str, PyTree]
    average: PyTree = flax.struct.field(default_factory=dict)

    @property
    def kept(self) -> PyTree:
        """The parameters that are validated and recommend: the average, if there is one."""
        return self.average or self.params


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


class TrainingData(NamedTuple):
    """The arrays that the devices hold beside the state.

    Attributes:
      rows: `Windows`, or a `Packing`.
      item_attributes: (items, most) int32, padded with -1.
      varying: (runs,) for each hyper-parameter in which the runs differ, and None for the others.
      teacher: the parameters of the ensemble that teaches, or None.
    """

    rows: PyTree
    item_attributes: PyTree
    varying: HyperParameters = HyperParameters(*[None] * len(HyperParameters._fields))
    teacher: PyTree | None = None


def make_optimizer(learning_rate: float | Float[Array, '']) -> optax.GradientTransformation:
    """Returns Adam with a constant learning rate."""
    return optax.adam(learning_rate)


def init_state(
    ensemble: Ensemble,
    optimizer: optax.GradientTransformation,
    seed: int,
    with_average: bool = False,
) -> TrainState:
    """Returns the state of one run before the first step, with or without a running average."""
    params = ensemble.init(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # An optimizer may reduce over the tree, which must not couple the networks.
        opt_state=ensemble.over_stacks(lambda _, p: jax.vmap(optimizer.init)(p), params),
        seed=hash_rng.fold(jnp.uint32(seed)),
        sums={name: jnp.zeros(()) for name in sums_of(ensemble)},
        average=params if with_average else {},
    )


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Stacks the states of single runs into host arrays with a leading axis of runs."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(list(states)))


def unstack_states(stack: TrainState) -> list[TrainState]:
    """Returns the states of the single runs, as host arrays."""
    host = jax.device_get(stack)
    return [jax.tree.map(lambda x: x[r], host) for r in range(len(host.step))]  # noqa: B023


def gradients(
    state: TrainState,
    batch: Batch | PackedBatch,
    loss: Callable[..., tuple[Float[Array, ''], dict[str, Array]]],
    axis_name: str | None = None,
    shards_tables: bool = False,
) -> tuple[dict[str, Float[Array, '']], PyTree]:
    """Returns each of `sums_of` for this step, and the gradients, both of the global batch.

    Args:
      state: the parameters, and the seed of the dropout.
      batch: this device's rows.
      loss: a function of (params, batch, key) that returns this device's share, like `emkd_loss`.
      axis_name: the pmapped axis over which the global batch is spread.
      shards_tables: whether the rows of item tables are split over this axis.
    """
    key = hash_rng.fold(state.seed, DROPOUT, state.step)
    (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, batch=batch, key=key
    )
    values = {'total': total} | parts
    values = {name: values[name].astype(jnp.float32) for name in state.sums}
    if axis_name is None:
        return values, grads
    if not shards_tables:
        return jax.lax.psum((values, grads), axis_name)
    leaves, structure = jax.tree_util.tree_flatten_with_path(grads)
    # The gradient of a split table is complete, and differs between the devices.
    values, copied = jax.lax.psum(
        (values, [leaf for path, leaf in leaves if not is_table(path)]), axis_name
    )
    summed = iter(copied)
    return values, structure.unflatten(
        [leaf if is_table(path) else next(summed) for path, leaf in leaves]
    )


def make_capacity(options: ml_collections.ConfigDict, lengths: np.ndarray, rows: int) -> Capacity:
    """Returns the buffer sizes of a device with `rows` rows, from the lengths of all windows."""
    return Capacity(
        buffer_capacity(lengths, rows, options.num_views, options.mask_prob),
        buffer_capacity(lengths, rows, 1, options.mask_prob),
    )


def one_step(
    state: TrainState,
    order: Order,
    hyper: HyperParameters,
    data: TrainingData,
    row_ids: Int[Array, ' rows'],
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    capacity: Capacity | None,
    teacher: Ensemble | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Bool[Array, ' checked']]:
    """Takes one optimizer step of one run.

    Args:
      state: the state before the step.
      order: the order of this epoch's rows.
      hyper: the hyper-parameters of this run.
      data: the training rows, the attributes, and the parameters of the teacher.
      row_ids: the rows of the global batch that this device computes.
      config: all other options.
      ensemble: the networks.
      capacity: sizes of the buffers for masked positions; None for packed rows.
      teacher: the ensemble that teaches. None means that the networks learn by the EMKD objective.
      axis_name: the pmapped axis over which the global batch is spread.

    Returns:
      The state after the step, or the state before it if something was not finite; and True for
      each of `finite_checked` that was not finite.
    """
    batch_size = config.train.batch_size
    ensemble = ensemble.with_dropout(hyper.dropout)
    shared: dict[str, Any] = {'ensemble': ensemble, 'axis_name': axis_name}
    batch: Batch | PackedBatch
    if ensemble.network.encoder.task == 'next_item':
        batch = draw_packed(state.step, order, data.rows, batch_size, row_ids)
        objective = next_item.next_item_loss
    else:
        batch = draw_windows(
            state.seed,
            state.step,
            order,
            data.rows,
            config.objective,
            ensemble.network.num_items,
            batch_size,
            row_ids,
        )
        objective = functools.partial(emkd_loss, capacity=capacity)
    if teacher is None:
        loss = functools.partial(
            objective,
            options=config.objective,
            hyper=hyper,
            item_attributes=data.item_attributes,
            **shared,
        )
    else:
        loss = functools.partial(
            student_loss,
            options=config.distill,
            capacity=capacity,
            teacher=teacher,
            teacher_params=data.teacher,
            **shared,
        )
    split = ensemble.shards > 1
    values, grads = gradients(state, batch, loss, axis_name, split)
    finite = [jnp.isfinite(values[part]) for part in parts_of(ensemble)]
    finite.append(all_finite(grads, axis_name if split else None))
    broken = ~jnp.stack(finite)
    optimizer = make_optimizer(hyper.learning_rate)
    with jax.numpy_dtype_promotion('standard'):  # optax raises floats to integer powers
        updates, opt_state = _updates(ensemble, optimizer, grads, state)
    at_start = state.step % steps_per_epoch(len(order.rows), batch_size) == 0
    params = optax.apply_updates(state.params, updates)
    decay = config.optimizer.average_decay
    after = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        seed=state.seed,
        sums={name: jnp.where(at_start, 0, state.sums[name]) + values[name] for name in values},
        average=_averaged(state.average, params, state.step, decay) if decay else {},
    )
    kept = jax.tree.map(lambda new, old: jnp.where(broken.any(), old, new), after, state)
    return kept, broken


def _averaged(average, params, step, decay):
    """The running average of the parameters, which soon forgets those of the first steps."""
    step = step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda mean, new: mean + share.astype(mean.dtype) * (new - mean), average, params
    )


def _updates(ensemble, optimizer, grads, state):
    """The optimizer's updates and state; each network is updated apart from the others."""
    update = jax.vmap(optimizer.update)
    if len(ensemble.stacks) == 1:
        return update(grads, state.opt_state, state.params)
    both = ensemble.over_stacks(
        lambda _, *trees: update(*trees), grads, state.opt_state, state.params
    )
    return tuple({name: pair[place] for name, pair in both.items()} for place in (0, 1))


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
