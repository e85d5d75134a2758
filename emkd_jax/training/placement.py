"""Placing arrays on the devices of a run."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from emkd_jax.errors import UserError

AXIS = 'devices'  # the pmapped axis over which the global batch is spread


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
    return _copy(tuple(devices))(tree, fill(0, devices))


def take(tree: PyTree, index: int, devices: Sequence[jax.Device]) -> PyTree:
    """Returns entry `index` along the leading axis of every array, on every device."""
    return _take(tuple(devices))(tree, fill(index, devices))


@functools.lru_cache(8)
def _spread(devices):
    return jax.pmap(lambda x: x, devices=devices, axis_name=AXIS)


@functools.lru_cache(8)
def _copy(devices):
    return jax.pmap(
        lambda tree, _: tree, in_axes=(None, 0), out_axes=None, devices=devices, axis_name=AXIS
    )


@functools.lru_cache(8)
def _take(devices):
    return jax.pmap(
        lambda tree, index: jax.tree.map(lambda x: x[index], tree),
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        axis_name=AXIS,
    )
