"""The train step: objective, gradient and optimizer, jitted once and pmapped over devices.

A step is a function of the state alone: which rows it sees, how they are masked and what is dropped
follow from the seed and the step's number by counted randomness. So a run is the same on any number
of devices and after any resume, and a dispatch of many steps needs nothing from the host.
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
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.distillation import student_loss
from emkd_jax.objective.emkd import PARTS, Batch, Capacity, objective
from emkd_jax.objective.masking import buffer_capacity, draw_views
from emkd_jax.training.placement import AXIS, rows_per_device

_ORDER, _MASKS, _DROPOUT = range(3)  # streams of the seed's randomness
SUMS = ('total', *PARTS, 'masked', 'overflow')
CHECKED = (*PARTS, 'gradients')  # what is watched for infinities and NaN
# Options, besides the seed, in which runs that train together may differ.
SETTINGS = (
    'optimizer.learning_rate',
    'objective.temperature',
    'objective.kd_weight',
    'objective.contrast_weight',
    'objective.icl_weight',
    'objective.ccl_weight',
    'objective.attribute_weight',
    'model.dropout',
)


@flax.struct.dataclass
class TrainState:
    """All that a run is; the same on every device. Leaves: arrays, host arrays or shapes."""

    step: PyTree  # () int32: optimizer steps done
    params: PyTree  # (networks, ...)
    opt_state: PyTree  # (networks, ...)
    seed: PyTree  # () uint32
    sums: dict[str, PyTree]  # () of each of SUMS, over the steps of this epoch so far


class Progress(NamedTuple):
    """What a dispatch tells the host."""

    step: PyTree  # () int32
    sums: dict[str, PyTree]  # as the state's
    broken: PyTree  # (checked,) bool: which of CHECKED was not finite, in the step after `step`
    request: PyTree  # () int32: the highest request any device was given


class TrainingData(NamedTuple):
    """What the devices hold beside the state."""

    windows: PyTree  # (windows, slots) int32
    item_attributes: PyTree  # (items, most) int32, padded with -1
    # Of runs that train together: (runs,) values of SETTINGS, in place of the configuration's.
    settings: dict[str, PyTree] | None = None
    teacher: PyTree | None = None  # parameters of the ensemble that teaches


def make_optimizer(options: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam, as `config.optimizer` sets it."""
    return optax.adam(options.learning_rate)


def init_state(
    ensemble: Ensemble, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first step."""
    params = ensemble.init(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A network at a time: what an optimizer reduces over must not couple the networks.
        opt_state=jax.vmap(optimizer.init)(params),
        seed=hash_rng.fold(jnp.uint32(seed)),
        sums={name: jnp.zeros(()) for name in SUMS},
    )


def steps_per_epoch(num_windows: int, batch_size: int) -> int:
    """Steps that see every window once; the last one's batch may be short."""
    return -(-num_windows // batch_size)


def epoch_order(
    seed: UInt32[Array, ''], epoch: Int[Array, ''], num_windows: int
) -> Int[Array, ' windows']:
    """The order in which an epoch visits the windows."""
    keys = hash_rng.fold(jnp.broadcast_to(seed, num_windows), _ORDER, epoch, jnp.arange(num_windows))
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
    """The global batch's loss (of SUMS) and gradients, from this device's rows.

    Args:
      state: its parameters, and the key of its dropout.
      batch: this device's rows.
      loss: of (params, batch, key): this device's share, as `objective` returns it.
      axis_name: the pmapped axis over which the global batch is spread.
    """
    key = hash_rng.fold(state.seed, _DROPOUT, state.step)
    (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, batch=batch, key=key
    )
    values = {'total': total} | parts
    values = {name: values[name].astype(jnp.float32) for name in SUMS}
    return (values, grads) if axis_name is None else jax.lax.psum((values, grads), axis_name)


def make_capacity(options: ml_collections.ConfigDict, lengths: np.ndarray, rows: int) -> Capacity:
    """Sizes of a device's buffers: of `rows` windows at a time, given all windows' lengths."""
    return Capacity(
        buffer_capacity(lengths, rows, options.num_views, options.mask_prob),
        buffer_capacity(lengths, rows, 1, options.mask_prob),
    )


def make_train_steps(
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    optimizer: optax.GradientTransformation,
    lengths: np.ndarray,
    devices: Sequence[jax.Device],
    teacher: Ensemble | None = None,
):
    """The pmapped function `(state, data, num_steps, requests) -> (state, progress)`.

    It takes `num_steps` optimizer steps, all of one epoch, and gives up before a step whose loss or
    gradients are not finite: the state is then that before the step, and `progress.broken` says
    what was not finite. `requests`, a number from 0 per device, is how one host asks something of
    all: its maximum comes back to each in `progress.request`. The state is donated. Arguments lie
    on the devices as `devices.replicate` and `devices.fill` put them.

    Where `data.settings` is not None, every run of a stack takes these steps: the state's and the
    progress's leaves (but `request`) have a leading axis of runs. All stop when one is broken.

    Args:
      config: the run's.
      ensemble, optimizer: static descriptions.
      lengths: real positions of each training window.
      devices: all devices of the run; may be those of a topology that is not there.
      teacher: what a student learns from, with the parameters `data.teacher`; None: the ensemble
        learns by EMKD's objective.

    Raises:
      UserError: the batch cannot be spread over the devices.
    """
    options, batch_size = config.objective, config.train.batch_size
    rows = rows_per_device(batch_size, len(devices))
    capacity = make_capacity(options, lengths, rows)

    def with_settings(settings):
        """The ensemble, optimizer and objective's options of a run."""
        if not settings:
            return ensemble, optimizer, options
        changed = config.copy_and_resolve_references()
        with changed.ignore_type():
            changed.update_from_flattened_dict(settings)
        return (
            ensemble.with_dropout(changed.model.dropout),
            make_optimizer(changed.optimizer),
            changed.objective,
        )

    def one_step(state, order, settings, data, row_ids):
        ensemble, optimizer, options = with_settings(settings)
        batch = draw_batch(
            state, order, data.windows, options, ensemble.network.num_items, batch_size, row_ids
        )
        shared = {'ensemble': ensemble, 'capacity': capacity, 'axis_name': AXIS}
        if teacher is None:
            loss = functools.partial(
                objective, options=options, item_attributes=data.item_attributes, **shared
            )
        else:
            loss = functools.partial(
                imitation,
                options=config.distill,
                teacher=teacher,
                teacher_params=data.teacher,
                **shared,
            )
        values, grads = gradients(state, batch, loss, AXIS)
        norm = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))
        broken = ~jnp.isfinite(jnp.stack([*(values[part] for part in PARTS), norm]))
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

    def steps(state, data, num_steps, request):
        row_ids = jax.lax.axis_index(AXIS) * rows + jnp.arange(rows)
        num_windows = data.windows.shape[0]

        def order_of(state):
            epoch = state.step // steps_per_epoch(num_windows, batch_size)
            return epoch_order(state.seed, epoch, num_windows)

        step = functools.partial(one_step, data=data, row_ids=row_ids)
        if data.settings is not None:
            order_of, step = jax.vmap(order_of), jax.vmap(step)
        order = order_of(state)

        def unfinished(carry):
            done, _, broken = carry
            return (done < num_steps) & ~broken.any()

        def body(carry):
            done, state, _ = carry
            return done + 1, *step(state, order, data.settings)

        # The loop starts from this maximum so that it waits for it: of two all-reduces that do not
        # depend on each other, CPU devices may each be in another one, and then XLA aborts.
        request = jax.lax.pmax(request, AXIS)
        broken = jnp.zeros((*state.step.shape, len(CHECKED)), bool)
        start = jnp.minimum(request, 0), state, broken
        _, state, broken = jax.lax.while_loop(unfinished, body, start)
        return state, Progress(state.step, state.sums, broken, request)

    return jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(None, None, None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )
