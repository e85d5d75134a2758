"""The train step: objective, gradient and optimizer, jitted once and pmapped over devices.

A step depends on the state alone: which rows it sees, how they are masked and what is dropped
follow from the seed and the number of the step by hashing. So a run is the same on any number of
devices and after any resume, and a dispatch of many steps needs nothing from the host.

The states of several runs are stacked: every leaf has a leading axis of runs. The compiled function
also takes the state of a single run without that axis, since an axis of length 1 changes the layout
of the arrays on TPUs and costs a copy of the state (Toys on v5e:2x2: 0.5 GB of 2.6).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.distillation import student_loss
from emkd_jax.objective.emkd import PARTS, Batch, Capacity, emkd_loss
from emkd_jax.objective.hyper_parameters import HyperParameters, hyper_parameters
from emkd_jax.objective.masking import buffer_capacity, draw_views
from emkd_jax.training.placement import AXIS, rows_per_device

_ORDER, _MASKS, _DROPOUT = range(3)  # streams of the seed's randomness
SUMS = ('total', *PARTS, 'masked', 'overflow')
FINITE_CHECKED = (*PARTS, 'gradients')  # what must be finite for a step to count


@flax.struct.dataclass
class TrainState:
    """Complete training state, replicated on every device.

    Leaves may be device arrays, NumPy arrays or ShapeDtypeStructs. Shapes are those of one run.

    Attributes:
      step: () int32, optimizer steps done.
      params: parameters with a leading axis of networks.
      opt_state: state of the optimizer with a leading axis of networks.
      seed: () uint32.
      sums: () float32 for each of `SUMS`, over the steps of this epoch so far.
    """

    step: PyTree
    params: PyTree
    opt_state: PyTree
    seed: PyTree
    sums: dict[str, PyTree]


class Progress(NamedTuple):
    """What a dispatch reports to the host.

    Attributes:
      step: (runs,) int32, optimizer steps done.
      sums: (runs,) for each of `SUMS`, as in the state.
      broken: (runs, checked) bool, which of `FINITE_CHECKED` was not finite in the next step.
      request: () int32, the highest request that any device was given.
    """

    step: PyTree
    sums: dict[str, PyTree]
    broken: PyTree
    request: PyTree


class TrainingData(NamedTuple):
    """What the devices hold beside the state.

    Attributes:
      windows: (windows, slots) int32 items, padded on the left with 0.
      item_attributes: (items, most) int32, padded with -1.
      varying: hyper-parameters in which the runs differ, each (runs,); None for the others.
      teacher: parameters of the ensemble that teaches, or None.
    """

    windows: PyTree
    item_attributes: PyTree
    varying: HyperParameters = HyperParameters(*[None] * len(HyperParameters._fields))
    teacher: PyTree | None = None


def make_optimizer(learning_rate: float | Float[Array, '']) -> optax.GradientTransformation:
    """Adam with a constant learning rate."""
    return optax.adam(learning_rate)


def init_state(
    ensemble: Ensemble, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state of one run before the first step."""
    params = ensemble.init(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # One network at a time: an optimizer that reduces over the tree must not couple networks.
        opt_state=jax.vmap(optimizer.init)(params),
        seed=hash_rng.fold(jnp.uint32(seed)),
        sums={name: jnp.zeros(()) for name in SUMS},
    )


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Host arrays with a leading axis of runs, from the states of single runs."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(list(states)))


def unstack_states(stack: TrainState) -> list[TrainState]:
    """The states of single runs, as host arrays."""
    host = jax.device_get(stack)
    return [jax.tree.map(lambda x: x[r], host) for r in range(len(host.step))]  # noqa: B023


def steps_per_epoch(num_windows: int, batch_size: int) -> int:
    """Steps that see every window once; the batch of the last one may be short."""
    return -(-num_windows // batch_size)


def epoch_order(
    seed: UInt32[Array, ''], epoch: Int[Array, ''], num_windows: int
) -> Int[Array, ' windows']:
    """The order in which an epoch visits the windows."""
    keys = hash_rng.fold(
        jnp.broadcast_to(seed, num_windows), _ORDER, epoch, jnp.arange(num_windows)
    )
    return jnp.argsort(keys).astype(jnp.int32)


def draw_batch(
    state: TrainState,
    order: Int[Array, ' windows'],
    windows: Int[Array, 'windows slots'],
    options: ml_collections.ConfigDict,
    num_items: int,
    batch_size: int,
    row_ids: Int[Array, ' rows'],
) -> Batch:
    """The rows `row_ids` of the global batch of step `state.step`, with their masked views."""
    num_windows = windows.shape[0]
    first = state.step % steps_per_epoch(num_windows, batch_size) * batch_size
    places = first + row_ids
    valid = places < num_windows
    chosen = windows[order[jnp.minimum(places, num_windows - 1)]].astype(jnp.int32)
    sequences = jnp.where(valid[:, None], chosen, 0)
    key = hash_rng.fold(state.seed, _MASKS, state.step)
    views = draw_views(key, sequences, row_ids, options.num_views, num_items, options.mask_prob)
    return Batch(sequences, views, valid, row_ids)


def gradients(
    state: TrainState,
    batch: Batch,
    loss: Callable[..., tuple[Float[Array, ''], dict[str, Array]]],
    axis_name: str | None = None,
) -> tuple[dict[str, Float[Array, '']], PyTree]:
    """Loss (each of `SUMS`) and gradients of the global batch, from this device's rows.

    Args:
      state: its parameters, and the seed of its dropout.
      batch: this device's rows.
      loss: function of (params, batch, key) that returns this device's share, as `emkd_loss` does.
      axis_name: the pmapped axis over which the global batch is spread.
    """
    key = hash_rng.fold(state.seed, _DROPOUT, state.step)
    (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, batch=batch, key=key
    )
    values = {'total': total} | parts
    values = {name: values[name].astype(jnp.float32) for name in SUMS}
    return (values, grads) if axis_name is None else jax.lax.psum((values, grads), axis_name)


def all_finite(tree: PyTree) -> Bool[Array, '']:
    """Whether every number of a tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def make_capacity(options: ml_collections.ConfigDict, lengths: np.ndarray, rows: int) -> Capacity:
    """Sizes of a device's buffers for `rows` windows, given the lengths of all windows."""
    return Capacity(
        buffer_capacity(lengths, rows, options.num_views, options.mask_prob),
        buffer_capacity(lengths, rows, 1, options.mask_prob),
    )


def one_step(
    state: TrainState,
    order: Int[Array, ' windows'],
    hyper: HyperParameters,
    data: TrainingData,
    row_ids: Int[Array, ' rows'],
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    capacity: Capacity,
    teacher: Ensemble | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Bool[Array, ' checked']]:
    """One optimizer step of one run.

    Args:
      state: the state before it.
      order: the order of this epoch's windows.
      hyper: learning rate, weights, temperature and dropout.
      data: windows, attributes and the teacher's parameters.
      row_ids: the rows of the global batch that this device computes.
      config: the rest of the options.
      ensemble: the networks.
      capacity: sizes of the buffers for masked positions.
      teacher: an ensemble that teaches; None: the networks learn by EMKD's objective.
      axis_name: the pmapped axis over which the global batch is spread.

    Returns:
      The state after the step, or the one before it if anything was not finite; and which of
      `FINITE_CHECKED` was not finite.
    """
    batch_size = config.train.batch_size
    ensemble = ensemble.with_dropout(hyper.dropout)
    batch = draw_batch(
        state,
        order,
        data.windows,
        config.objective,
        ensemble.network.num_items,
        batch_size,
        row_ids,
    )
    shared = {'ensemble': ensemble, 'capacity': capacity, 'axis_name': axis_name}
    if teacher is None:
        loss = functools.partial(
            emkd_loss,
            options=config.objective,
            hyper=hyper,
            item_attributes=data.item_attributes,
            **shared,
        )
    else:
        loss = functools.partial(
            student_loss,
            options=config.distill,
            teacher=teacher,
            teacher_params=data.teacher,
            **shared,
        )
    values, grads = gradients(state, batch, loss, axis_name)
    finite = [jnp.isfinite(values[part]) for part in PARTS]
    finite.append(all_finite(grads))
    broken = ~jnp.stack(finite)
    optimizer = make_optimizer(hyper.learning_rate)
    with jax.numpy_dtype_promotion('standard'):  # optax raises floats to integer powers
        updates, opt_state = jax.vmap(optimizer.update)(grads, state.opt_state, state.params)
    at_start = state.step % steps_per_epoch(data.windows.shape[0], batch_size) == 0
    after = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        seed=state.seed,
        sums={name: jnp.where(at_start, 0, state.sums[name]) + values[name] for name in SUMS},
    )
    kept = jax.tree.map(lambda new, old: jnp.where(broken.any(), old, new), after, state)
    return kept, broken


def compile_train_steps(
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    lengths: np.ndarray,
    devices: Sequence[jax.Device],
    teacher: Ensemble | None = None,
) -> Callable[..., tuple[TrainState, Progress]]:
    """The pmapped function `(states, data, num_steps, requests) -> (states, progress)`.

    It takes `num_steps` optimizer steps of one epoch for every run of the stack, and stops before a
    step whose loss or gradients are not finite. `requests`, one number per device, is how a host
    asks all others for something: the maximum comes back in `progress.request`. The states are
    donated. Arguments lie on the devices as `placement.replicate` and `placement.fill` put them.
    The state of a single run may come without the axis of runs, and is returned without it.

    Args:
      config: the options of the first run; the others differ in `data.varying` and their seeds.
      ensemble: the networks.
      lengths: number of items in each training window.
      devices: all devices of the run; they may belong to a topology that is not present.
      teacher: an ensemble that teaches, with the parameters `data.teacher`.

    Raises:
      UserError: the batch cannot be spread over the devices.
    """
    batch_size = config.train.batch_size
    rows = rows_per_device(batch_size, len(devices))
    capacity = make_capacity(config.objective, lengths, rows)
    shared_hyper = hyper_parameters(config)

    def many_steps(states, data, num_steps, request):
        alone, num_windows = states.step.ndim == 0, data.windows.shape[0]
        row_ids = jax.lax.axis_index(AXIS) * rows + jnp.arange(rows)

        def order_of(state):
            epoch = state.step // steps_per_epoch(num_windows, batch_size)
            return epoch_order(state.seed, epoch, num_windows)

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
                AXIS,
            )

        if not alone:
            order_of, step = jax.vmap(order_of), jax.vmap(step)
        order = order_of(states)

        def unfinished(carry):
            done, _, broken = carry
            return (done < num_steps) & ~broken.any()

        def body(carry):
            done, states, _ = carry
            return done + 1, *step(states, order, data.varying)

        # The loop starts from this maximum so that it waits for it: of two all-reduces that do not
        # depend on each other, CPU devices may each enter another one, and then XLA aborts.
        request = jax.lax.pmax(request, AXIS)
        broken = jnp.zeros((*states.step.shape, len(FINITE_CHECKED)), bool)
        start = jnp.minimum(request, 0), states, broken
        _, states, broken = jax.lax.while_loop(unfinished, body, start)
        return states, Progress(states.step, states.sums, broken, request)

    return jax.pmap(
        many_steps,
        axis_name=AXIS,
        in_axes=(None, None, None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )
