"""The train step: objective, gradient and optimizer.

A step depends on nothing but the state. Its rows, masks and dropout are hashes of the seed and the
number of the step. A run is therefore the same on any number of devices and after any resume, and
many steps can be dispatched without the host.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.sharded_tables import is_table
from emkd_jax.objective import next_item
from emkd_jax.objective.distillation import student_loss
from emkd_jax.objective.emkd import Batch, Capacity, emkd_loss
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.objective.next_item import PackedBatch
from emkd_jax.training.batches import DROPOUT, Order, draw_packed, draw_windows, steps_per_epoch
from emkd_jax.training.finite import all_finite
from emkd_jax.training.state import TrainState, make_optimizer, parts_of


def finite_checked(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of what must be finite; otherwise the step does not count."""
    return (*parts_of(ensemble), 'gradients')


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
    ensemble = ensemble.with_dropout(hyper.dropout)
    batch_size, split = config.train.batch_size, ensemble.shards > 1
    batch: Batch | PackedBatch
    if ensemble.network.encoder.task == 'next_item':
        batch = draw_packed(state.step, order, data.rows, batch_size, row_ids)
    else:
        num_items, objective = ensemble.network.num_items, config.objective
        batch = draw_windows(
            state.seed, state.step, order, data.rows, objective, num_items, batch_size, row_ids
        )
    loss = functools.partial(
        _loss_function(config, ensemble, hyper, data, capacity, teacher),
        ensemble=ensemble,
        axis_name=axis_name,
    )
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
    any_broken = broken.any()
    return jax.tree.map(lambda new, old: jnp.where(any_broken, old, new), after, state), broken


def _loss_function(config, ensemble, hyper, data, capacity, teacher):
    """The objective that the options ask for, or what a teacher gives to learn."""
    if teacher is not None:
        return functools.partial(
            student_loss,
            options=config.distill,
            capacity=capacity,
            teacher=teacher,
            teacher_params=data.teacher,
        )
    if ensemble.network.encoder.task == 'next_item':
        objective = next_item.next_item_loss
    else:
        objective = functools.partial(emkd_loss, capacity=capacity)
    return functools.partial(
        objective, options=config.objective, hyper=hyper, item_attributes=data.item_attributes
    )


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
