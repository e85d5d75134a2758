"""Places arrays on the devices of a run: copied to each, or with the rows of item tables split."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Int, PyTree

from emkd_jax.errors import UserError
from emkd_jax.model.sharded_tables import AXIS, is_table, join_rows, row_axis, split_rows

_GATHERED_AT_A_TIME = 1 << 24  # numbers


def rows_per_device(batch_size: int, num_devices: int) -> int:
    """Returns the number of rows of the global batch that each device holds.

    Raises:
      UserError: the devices cannot share the batch evenly.
    """
    if batch_size < 1 or batch_size % num_devices:
        raise UserError(
            f'train.batch_size={batch_size} cannot be spread evenly over {num_devices} device(s); '
            f'it is the global batch size: choose a multiple of {num_devices}.'
        )
    return batch_size // num_devices


def fill(value: int, devices: Sequence[jax.Device]) -> Int[Array, ' local_devices']:
    """Returns `value` on each device of this process, as a mapped argument of a pmap."""
    local = [device for device in devices if device.process_index == jax.process_index()]
    return _spread(tuple(devices))(np.full(len(local), value, np.int32))


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Copies host arrays to every device, without a leading axis of devices.

    Every process must call this function with the same values.
    """
    return place(tree, devices, 1)


def place(tree: PyTree, devices: Sequence[jax.Device], shards: int) -> PyTree:
    """As `replicate`; where `shards` is the number of devices, the rows of item tables are split.

    A table then has a leading axis of devices; see `sharded_tables`.
    """
    leaves, structure = jax.tree.flatten(split_tables(tree, devices, shards))
    copied = _copy(tuple(devices), _leaf_axes(tree, shards))(tuple(leaves), fill(0, devices))
    return jax.tree.unflatten(structure, copied)


def take(tree: PyTree, index: int, devices: Sequence[jax.Device], shards: int = 1) -> PyTree:
    """Returns entry `index` along the leading axis of every array, on every device.

    That axis comes after the axis of devices where a table has one.
    """
    leaves, structure = jax.tree.flatten(tree)
    taken = _take(tuple(devices), _leaf_axes(tree, shards))(tuple(leaves), fill(index, devices))
    return jax.tree.unflatten(structure, taken)


def axes(tree: PyTree, shards: int) -> PyTree:
    """Returns what a pmap over the devices needs to know of a tree: 0 for a table that is split."""
    if shards == 1:
        return None
    return jax.tree_util.tree_map_with_path(lambda path, _: 0 if is_table(path) else None, tree)


def own_places(devices: Sequence[jax.Device], process: int | None = None) -> list[int]:
    """Returns the places of a process's devices (None: this one's) among those of a run."""
    process = jax.process_index() if process is None else process
    return [place for place, device in enumerate(devices) if device.process_index == process]


def split_tables(tree: PyTree, devices: Sequence[jax.Device], shards: int) -> PyTree:
    """Splits the rows of the item tables of a tree of host arrays over the devices.

    A table becomes that of the rows of this process's devices.
    """
    if shards == 1:
        return tree
    own = own_places(devices)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            split_rows(np.asarray(leaf), row_axis(path), shards)[own] if is_table(path) else leaf
        ),
        tree,
    )


def joined(tree: PyTree, shapes: PyTree, devices: Sequence[jax.Device], shards: int) -> PyTree:
    """Returns host arrays with whole tables, of the `shapes` that they had before `place`.

    Every process must call this function.
    """
    if shards == 1:
        return jax.device_get(tree)

    def whole(path: tuple[Any, ...], leaf: jax.Array, like: Any) -> np.ndarray:
        if not is_table(path):
            host: np.ndarray = jax.device_get(leaf)
            return host
        axis = row_axis(path)
        return join_rows(of_all_devices(jax.device_get(leaf), devices), axis, like.shape[axis])

    return jax.tree_util.tree_map_with_path(whole, tree, shapes)


def of_all_devices(part: np.ndarray, devices: Sequence[jax.Device]) -> np.ndarray:
    """Gathers arrays whose leading axis has the devices of a process, some megabytes at a time.

    What a pmap returns has only these entries, also where it runs on several hosts.
    """
    if jax.process_count() == 1:
        return part
    flat = part.reshape(len(part), -1)
    width = max(1, _GATHERED_AT_A_TIME // len(part))
    found = np.empty((len(devices), flat.shape[1]), flat.dtype)
    for first in range(0, flat.shape[1], width):
        pieces = multihost_utils.process_allgather(flat[:, first : first + width])
        for process, piece in enumerate(pieces):
            found[own_places(devices, process), first : first + width] = piece
    return found.reshape(len(devices), *part.shape[1:])


class Flattened:
    """A pmapped function whose first result is a tree with tables that are split.

    With several processes, JAX hashes `out_axes`, which a tree with dictionaries does not allow.
    The leaves are therefore returned one after another, and become a tree again outside.
    """

    def __init__(self, function: Callable[..., Any], tree: PyTree, shards: int, **options: Any):
        """Compiles a function.

        Args:
          function: returns a tree and something that is the same on every device.
          tree: shapes of the tree, which is also the first argument of `function`.
          shards: over how many devices its tables are split.
          **options: of `jax.pmap`; `in_axes` are those of the other arguments.
        """
        self._structure = jax.tree.structure(tree)
        in_axes = (axes(tree, shards), *options.pop('in_axes'))

        def flattened(*args: Any) -> tuple[tuple[Any, ...], Any]:
            found, rest = function(*args)
            return tuple(jax.tree.leaves(found)), rest

        self.pmapped = jax.pmap(
            flattened,
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=(_leaf_axes(tree, shards), None),
            **options,
        )

    def __call__(self, *args: Any) -> tuple[PyTree, Any]:
        """Calls the function."""
        leaves, rest = self.pmapped(*args)
        return jax.tree.unflatten(self._structure, leaves), rest

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Lowers the function for these arguments."""
        lowered: jax.stages.Lowered = self.pmapped.lower(*args)
        return lowered


@functools.lru_cache(8)
def _spread(devices):
    return jax.pmap(lambda x: x, devices=devices, axis_name=AXIS)


@functools.lru_cache(8)
def _copy(devices, leaf_axes):
    return jax.pmap(
        lambda leaves, _: leaves,
        axis_name=AXIS,
        in_axes=(leaf_axes, 0),
        out_axes=leaf_axes,
        devices=devices,
    )


@functools.lru_cache(8)
def _take(devices, leaf_axes):
    return jax.pmap(
        lambda leaves, index: tuple(leaf[index] for leaf in leaves),
        axis_name=AXIS,
        in_axes=(leaf_axes, 0),
        out_axes=leaf_axes,
        devices=devices,
    )


def _leaf_axes(tree, shards):
    """`axes` of one leaf after another, which JAX can hash where it needs to."""
    if shards == 1:
        return None
    return tuple(jax.tree.leaves(axes(tree, shards), is_leaf=lambda x: x is None))
