"""Vendor specifications of accelerators, and what the counts of a step mean on them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from emkd_jax.training import memory


class Chip(NamedTuple):
    """Dense bfloat16 FLOP/s, memory bandwidth in bytes/s, and memory in bytes.

    `interconnect` is how many bytes/s a chip of a TPU slice sends to others in the slice; 0 where
    it is not known.
    """

    flops: float
    bandwidth: float
    memory: float
    interconnect: float = 0.0


CHIPS = {  # by jax's device_kind
    'TPU v4': Chip(275e12, 1228e9, 32 * 2**30),
    'TPU v5 lite': Chip(197e12, 819e9, 16 * 2**30, 200e9),
    'TPU v5': Chip(459e12, 2765e9, 95 * 2**30, 600e9),
    'TPU v5p': Chip(459e12, 2765e9, 95 * 2**30, 600e9),
    'TPU v6 lite': Chip(918e12, 1640e9, 32 * 2**30),
    'NVIDIA A100-SXM4-40GB': Chip(312e12, 1555e9, 40 * 2**30),
    'NVIDIA A100-SXM4-80GB': Chip(312e12, 2039e9, 80 * 2**30),
    'NVIDIA H100 80GB HBM3': Chip(989e12, 3350e9, 80 * 2**30),
    'NVIDIA H200': Chip(989e12, 4800e9, 141e9),
}


def device_chip(devices: Sequence[jax.Device]) -> Chip | None:
    """The share of a chip that each device has; a TPU chip may be two devices.

    None for a kind of device that is not in `CHIPS`.
    """
    chip = CHIPS.get(devices[0].device_kind)
    if chip is None or not hasattr(devices[0], 'coords'):
        return chip
    chips = len({tuple(device.coords) for device in devices})
    return Chip(*(value * chips / len(devices) for value in chip))


def device_memory(devices: Sequence[jax.Device]) -> float:
    """The memory of each device in bytes, here or not; infinite if it is not known."""
    chip = device_chip(devices)
    here = memory.device_memory(devices) if devices[0] in jax.devices() else math.inf
    # The memory of the machine says nothing about a device that has its own.
    if chip and (math.isinf(here) or devices[0].platform == 'cpu'):
        return chip.memory
    return here


def roofline(
    chip: Chip | None, flops: float, bytes_accessed: float, batch_size: int
) -> dict[str, Any]:
    """The shortest time of a step, what limits it, and the sequences/s of all devices together.

    Args:
      chip: of each device; None gives an empty result.
      flops: floating-point operations of a step on each device.
      bytes_accessed: bytes that a step moves on each device.
      batch_size: sequences of a step on all devices together.
    """
    if chip is None:
        return {}
    compute, memory = flops / chip.flops, bytes_accessed / chip.bandwidth
    seconds = max(compute, memory)
    return {
        'roofline_ms': round(1e3 * seconds, 2),
        'binds': 'compute' if compute > memory else 'memory',
        'sequences_per_second': round(batch_size / seconds),
    }
