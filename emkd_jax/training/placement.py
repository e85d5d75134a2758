"""Places arrays on the devices of a run: copied to each, or with the rows of item tables split."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from emkd_jax.errors import UserError
from emkd_jax.model.sharded_tables import AXIS, is_table, join_rows, row_axis, split_rows


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
    return _copy(tuple(devices), _Hashable(axes(tree, shards)))(
        split_tables(tree, shards), fill(0, devices)
    )


def take(tree: PyTree, index: int, devices: Sequence[jax.Device], shards: int = 1) -> PyTree:
    """Returns entry `index` along the leading axis of every array, on every device.

    That axis comes after the axis of devices where a table has one.
    """
    return _take(tuple(devices), _Hashable(axes(tree, shards)))(tree, fill(index, devices))


def axes(tree: PyTree, shards: int) -> PyTree:
    """Returns what a pmap over the devices needs to know of a tree: 0 for a table that is split."""
    if shards == 1:
        return None
    return jax.tree_util.tree_map_with_path(lambda path, _: 0 if is_table(path) else None, tree)


def split_tables(tree: PyTree, shards: int) -> PyTree:
    """Splits the rows of the item tables of a tree of host arrays over the devices."""
    if shards == 1:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            split_rows(np.asarray(leaf), row_axis(path), shards) if is_table(path) else leaf
        ),
        tree,
    )


def joined(tree: PyTree, shapes: PyTree, shards: int) -> PyTree:
    """Returns host arrays with whole tables, of the `shapes` that they had before `place`."""
    host = jax.device_get(tree)
    if shards == 1:
        return host
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, like: (
            join_rows(leaf, row_axis(path), like.shape[row_axis(path)]) if is_table(path) else leaf
        ),
        host,
        shapes,
    )


class _Hashable:
    """Axes of a tree as a key of a cache."""

    def __init__(self, tree: PyTree):
        leaves, self.structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        self.leaves = tuple(leaves)

    def tree(self) -> PyTree:
        return jax.tree.unflatten(self.structure, self.leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and (
            (self.leaves, self.structure) == (other.leaves, other.structure)
        )

    def __hash__(self) -> int:
        return hash((self.leaves, self.structure))


@functools.lru_cache(8)
def _spread(devices):
    return jax.pmap(lambda x: x, devices=devices, axis_name=AXIS)


@functools.lru_cache(8)
def _copy(devices, tree_axes):
    found = tree_axes.tree()
    return jax.pmap(
        lambda tree, _: tree, in_axes=(found, 0), out_axes=found, devices=devices, axis_name=AXIS
    )


@functools.lru_cache(8)
def _take(devices, tree_axes):
    found = tree_axes.tree()
    return jax.pmap(
        lambda tree, index: jax.tree.map(lambda x: x[index], tree),
        in_axes=(found, 0),
        out_axes=found,
        devices=devices,
        axis_name=AXIS,
    )
