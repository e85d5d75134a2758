"""What XLA counts of a compiled train step: FLOPs, bytes moved, memory."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.catalogue_loss import catalogue_loss
from emkd_jax.objective.emkd import BLOCK, distils
from emkd_jax.training.placement import rows_per_device
from emkd_jax.training.step import TrainingData, init_state, make_capacity, make_train_steps
from emkd_jax.training.sweep import Together


class Cost(NamedTuple):
    """Of one step on one device (and of the epoch's order, which a dispatch draws once).

    `memory` in bytes is what must fit; `temporary` of it is neither state nor data.
    """

    flops: float
    bytes_accessed: float
    memory: int
    temporary: int
    compile_seconds: float


def step_cost(
    config: ml_collections.ConfigDict,
    ensemble: Ensemble,
    optimizer: optax.GradientTransformation,
    lengths: np.ndarray,
    most_attributes: int,
    devices: Sequence[jax.Device],
    several: Together | None = None,
) -> Cost | None:
    """Compiles the train step of `config` and reads its counts. Nothing runs.

    Args:
      config: the run's.
      ensemble, optimizer: static descriptions; the ensemble's dtype is that of the devices.
      lengths: real positions of each training window.
      most_attributes: of an item.
      devices: those to compile for, of a topology that is not there maybe.
      several: the runs, where several take this step together.

    Returns:
      The cost, or None if the compiler says that the step needs more memory than there is.
    """
    num_items = ensemble.network.num_items
    of = jax.ShapeDtypeStruct
    state = jax.eval_shape(lambda: init_state(ensemble, optimizer, 0))
    runs, settings = 1, None
    if several:
        runs, settings = len(several.names), several.settings
        state = jax.tree.map(lambda leaf: of((runs, *leaf.shape), leaf.dtype), state)
    data = TrainingData(
        of((len(lengths), config.model.max_len), jnp.int32),
        of((num_items + 1, most_attributes), jnp.int32),
        settings,
    )
    steps = make_train_steps(config, ensemble, optimizer, lengths, devices)
    began = time.monotonic()
    try:
        step = steps.lower(state, data, of((), jnp.int32), of((len(devices),), jnp.int32)).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' in str(error) or 'Ran out of memory' in str(error):
            return None
        raise
    seconds = time.monotonic() - began
    repeats = runs * ((num_items + 1) // BLOCK - 1)  # XLA counts the body of a loop once
    rows = rows_per_device(config.train.batch_size, len(devices))
    positions = make_capacity(config.objective, lengths, rows).all_views
    flops, moved = _counts(step)
    if repeats > 0:
        differs = 'objective.kd_weight' in (settings or ())
        temperature = 1.0 if differs or distils(ensemble, config.objective) else None
        of_a_block = _counts(*_passes_of_a_block(ensemble, positions, devices[0], temperature))
        flops, moved = flops + repeats * of_a_block[0], moved + repeats * of_a_block[1]
    sizes = step.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporary = sizes.temp_size_in_bytes
    return Cost(flops, moved, kept + temporary, temporary, seconds)


def compile_loss(
    ensemble: Ensemble, positions: int, num_classes: int, device: jax.Device
) -> jax.stages.Compiled:
    """The streamed loss with its gradient, alone, over so many classes of the catalogue."""

    def total(hidden, kernel, bias, labels, weights):
        return sum(catalogue_loss(hidden, kernel, bias, labels, weights, 1.0, BLOCK))

    shapes = _loss_shapes(ensemble, positions, num_classes)
    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*_on(device, shapes)).compile()


def _passes_of_a_block(ensemble, positions, device, temperature):
    """The loss's forward and backward pass over one block: apart, lest they share the logits."""

    def losses_and_gradient(hidden, kernel, bias, labels, weights):
        def losses(*args):
            return catalogue_loss(*args, labels, weights, temperature, BLOCK)

        return jax.vjp(losses, hidden, kernel, bias)

    shapes = _loss_shapes(ensemble, positions, BLOCK)
    losses, gradient = jax.eval_shape(losses_and_gradient, *shapes)
    for function, of in (
        (lambda *args: losses_and_gradient(*args)[0], shapes),
        (lambda gradient, losses: gradient(losses), (gradient, losses)),
    ):
        yield jax.jit(function).lower(*_on(device, of)).compile()


def _loss_shapes(ensemble, positions, num_classes):
    networks, dim = ensemble.num_networks, ensemble.network.encoder.dim
    return tuple(
        jax.ShapeDtypeStruct(*of)
        for of in (
            ((networks, positions, dim), ensemble.network.encoder.dtype),
            ((networks, num_classes, dim), jnp.float32),
            ((networks, num_classes), jnp.float32),
            ((positions,), jnp.int32),
            ((positions,), jnp.float32),
        )
    )


def _on(device, shapes):
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda of: jax.ShapeDtypeStruct(of.shape, of.dtype, sharding=sharding), shapes
    )


def _counts(*compiled):
    """FLOPs and bytes of all."""
    of_each = [one.cost_analysis() for one in compiled]
    return [sum(of.get(name, 0.0) for of in of_each) for name in ('flops', 'bytes accessed')]
