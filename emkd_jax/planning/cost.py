"""What XLA counts in a compiled train step: FLOPs, bytes moved and memory."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from emkd_jax.data.packing import Packing
from emkd_jax.data.windows import Windows
from emkd_jax.model import sharded_tables
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.catalogue_loss import BLOCK, catalogue_loss
from emkd_jax.objective.hyper_parameters import hyper_parameters
from emkd_jax.objective.item_loss import distils
from emkd_jax.objective.kept_cross_entropy import keeps_exponentials
from emkd_jax.planning.collectives import bytes_between_devices
from emkd_jax.training.placement import rows_per_device
from emkd_jax.training.step import (
    TrainingData,
    TrainState,
    compile_train_steps,
    init_state,
    make_capacity,
    make_optimizer,
)
from emkd_jax.training.sweep import stack_hyper_parameters


class Cost(NamedTuple):
    """The cost of one step on one device, without the order of the epoch, which is drawn once.

    Attributes:
      flops: floating-point operations.
      bytes_accessed: bytes moved. Of the lookups in split item tables, whose positions are looked
        up in parts, one part counts.
      memory: bytes that must fit into the memory of the device.
      temporary: bytes of it that are neither state nor data.
      between: bytes that the device sends to others; see `bytes_between_devices`.
      compile_seconds: time that the compilation took.
    """

    flops: float
    bytes_accessed: float
    memory: int
    temporary: int
    between: int
    compile_seconds: float


def step_cost(
    configs: Sequence[ml_collections.ConfigDict],
    ensemble: Ensemble,
    rows: Windows | Packing,
    most_attributes: int,
    devices: Sequence[jax.Device],
) -> Cost | None:
    """Compiles a train step and reads what XLA counted. Nothing runs.

    Args:
      configs: the options of each run that takes this step.
      ensemble: the networks, with the activation type of the devices.
      rows: training windows or packed rows.
      most_attributes: the largest number of attributes of an item.
      devices: the devices to compile for; they need not exist here.

    Returns:
      The cost; None if the compiler finds that the step needs more memory than there is.
    """
    config, num_items = configs[0], ensemble.network.num_items
    optimizer = make_optimizer(config.optimizer.learning_rate)
    shape = jax.ShapeDtypeStruct
    averaged = bool(config.optimizer.average_decay)
    state = jax.eval_shape(lambda: init_state(ensemble, optimizer, 0, averaged))
    runs = (len(configs),) if len(configs) > 1 else ()  # as the trainer holds them
    states = _split(
        jax.tree.map(lambda leaf: shape((*runs, *leaf.shape), leaf.dtype), state), ensemble.shards
    )
    varying = stack_hyper_parameters(configs)
    data = TrainingData(
        jax.tree.map(lambda array: shape(array.shape, array.dtype), rows),
        shape((num_items + 1, most_attributes), jnp.int32),
        varying,
    )
    lengths = None if isinstance(rows, Packing) else rows.lengths
    steps: Any = compile_train_steps(config, ensemble, lengths, devices)
    scalar, requests = shape((), jnp.int32), shape((len(devices),), jnp.int32)
    began = time.monotonic()
    try:
        step = steps.lower(states, data, scalar, requests).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' in str(error) or 'Ran out of memory' in str(error):
            return None
        raise
    seconds = time.monotonic() - began
    flops, moved = _counts([step])
    # XLA counts the body of a loop once: the other blocks of the catalogue are added.
    classes = sharded_tables.rows_per_device(num_items + 1, ensemble.shards)
    repeats = len(configs) * (classes // BLOCK - 1)
    distilled = distils(ensemble, varying.over(hyper_parameters(config)))
    per_device = rows_per_device(config.train.batch_size, len(devices))
    if lengths is None:
        positions = per_device * config.train.row_width
        if keeps_exponentials(ensemble, positions, distilled):
            repeats = 0
    else:
        positions = make_capacity(config.objective, lengths, per_device).all_views
    if repeats > 0:
        # A device with a share of the classes visits them for the positions of all devices.
        positions *= ensemble.shards
        passes = _compile_block(ensemble, positions, devices[0], 1.0 if distilled else None)
        block_flops, block_moved = _counts(passes)
        flops, moved = flops + repeats * block_flops, moved + repeats * block_moved
    sizes = step.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporary = sizes.temp_size_in_bytes
    between = bytes_between_devices(step.as_text(), len(devices)) if len(devices) > 1 else 0
    return Cost(flops, moved, kept + temporary, temporary, between, seconds)


def _split(states: TrainState, shards: int) -> TrainState:
    """The shapes of states whose item tables are split over devices."""
    if shards == 1:
        return states

    def of_leaf(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not sharded_tables.is_table(path):
            return leaf
        sizes, axis = list(leaf.shape), sharded_tables.row_axis(path)
        sizes[axis] = sharded_tables.rows_per_device(sizes[axis], shards)
        return jax.ShapeDtypeStruct((shards, *sizes), leaf.dtype)

    found: TrainState = jax.tree_util.tree_map_with_path(of_leaf, states)
    return found


def compile_loss(
    ensemble: Ensemble, positions: int, num_classes: int, device: jax.Device
) -> jax.stages.Compiled:
    """Compiles the loss over a catalogue of `num_classes` and its gradient, without the rest."""

    def total(*arrays: jax.Array) -> jax.Array:
        cross_entropy, distillation = catalogue_loss(*arrays, 1.0, BLOCK)
        return cross_entropy + distillation

    shapes = _loss_shapes(ensemble, positions, num_classes)
    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*_on(device, shapes)).compile()


def _compile_block(
    ensemble: Ensemble, positions: int, device: jax.Device, temperature: float | None
) -> Iterator[jax.stages.Compiled]:
    """The forward and the backward pass of the loss over one block of the catalogue.

    They are compiled apart: together they would share the logits, which a step computes twice.
    """

    def forward(*arrays: jax.Array) -> tuple[Any, Any]:
        def losses(*differentiated: jax.Array) -> tuple[jax.Array, jax.Array]:
            return catalogue_loss(*differentiated, *arrays[3:], temperature, BLOCK)

        return jax.vjp(losses, *arrays[:3])

    shapes = _loss_shapes(ensemble, positions, BLOCK)
    losses, backward = jax.eval_shape(forward, *shapes)
    yield jax.jit(lambda *arrays: forward(*arrays)[0]).lower(*_on(device, shapes)).compile()
    yield jax.jit(lambda f, grads: f(grads)).lower(*_on(device, (backward, losses))).compile()


def _loss_shapes(
    ensemble: Ensemble, positions: int, num_classes: int
) -> tuple[jax.ShapeDtypeStruct, ...]:
    networks, encoder = ensemble.num_networks, ensemble.network.encoder
    return (
        jax.ShapeDtypeStruct((networks, positions, encoder.dim), encoder.dtype),
        jax.ShapeDtypeStruct((networks, num_classes, encoder.dim), jnp.float32),
        jax.ShapeDtypeStruct((networks, num_classes), jnp.float32),
        jax.ShapeDtypeStruct((positions,), jnp.int32),
        jax.ShapeDtypeStruct((positions,), jnp.float32),
    )


def _on(device: jax.Device, shapes: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def _counts(programs: Iterable[jax.stages.Compiled]) -> list[float]:
    """FLOPs and bytes of several programs together."""
    counts = [program.cost_analysis() or {} for program in programs]
    return [sum(c.get(name, 0.0) for c in counts) for name in ('flops', 'bytes accessed')]
