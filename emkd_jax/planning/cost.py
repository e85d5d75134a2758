"""The cost of a compiled train step: FLOPs, bytes moved and memory."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from emkd_jax.data.packing import Packing
from emkd_jax.data.windows import Windows
from emkd_jax.model import sharded_tables
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.objective.catalogue_loss import BLOCK, catalogue_loss
from emkd_jax.objective.targets import Targets
from emkd_jax.planning.collectives import bytes_between_devices
from emkd_jax.planning.flops import product_flops
from emkd_jax.planning.main_memory import bytes_of_main_memory
from emkd_jax.planning.program import read_program
from emkd_jax.training.dispatch import compile_train_steps
from emkd_jax.training.state import TrainState, init_state, make_optimizer
from emkd_jax.training.step import TrainingData
from emkd_jax.training.sweep import stack_hyper_parameters


class Cost(NamedTuple):
    """The cost of one step on one device, without the order of the epoch, which is drawn once.

    Attributes:
      flops: floating-point operations of the matrix products; see `product_flops`.
      bytes_accessed: bytes that move to and from memory, on a TPU to and from its main memory; see
        `bytes_of_main_memory`.
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
    """Compiles a train step and counts what it takes. Nothing runs.

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
    requests = shape((len(devices),), jnp.int32)
    arguments = states, data, shape((), jnp.int32), requests
    began = time.monotonic()
    try:
        step = steps.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' in str(error) or 'Ran out of memory' in str(error):
            return None
        raise
    seconds = time.monotonic() - began
    sizes = step.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporary = sizes.temp_size_in_bytes
    program = read_program(step.as_text())
    return Cost(
        product_flops(steps, *arguments),
        float(bytes_of_main_memory(program)),
        kept + temporary,
        temporary,
        bytes_between_devices(program, len(devices)) if len(devices) > 1 else 0,
        seconds,
    )


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

    def total(hidden: jax.Array, heads: ItemHeads, targets: Targets) -> jax.Array:
        cross_entropy, distillation = catalogue_loss(hidden, heads, targets, 1.0, BLOCK)
        return cross_entropy + distillation

    shapes = _loss_shapes(ensemble, positions, num_classes)
    return jax.jit(jax.grad(total, argnums=(0, 1))).lower(*_on(device, shapes)).compile()


def _loss_shapes(
    ensemble: Ensemble, positions: int, num_classes: int
) -> tuple[jax.ShapeDtypeStruct, Any, Any]:
    networks, encoder = ensemble.num_networks, ensemble.network.encoder
    shape: Any = jax.ShapeDtypeStruct  # in place of arrays
    return (
        shape((networks, positions, encoder.dim), encoder.dtype),
        ItemHeads(
            shape((networks, num_classes, encoder.dim), jnp.float32),
            shape((networks, num_classes), jnp.float32),
        ),
        Targets(shape((positions,), jnp.int32), shape((positions,), jnp.float32)),
    )


def _on(device: jax.Device, shapes: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )
