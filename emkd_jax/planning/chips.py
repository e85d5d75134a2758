"""What the makers say of the devices, and what a step's counts mean on them."""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax


class Chip(NamedTuple):
    """Of one device: dense bfloat16 FLOP/s, bytes/s of its memory, and its bytes."""

    flops: float
    bandwidth: float
    memory: float


CHIPS = {  # by jax's device_kind
    'TPU v4': Chip(275e12, 1228e9, 32 * 2**30),
    'TPU v5 lite': Chip(197e12, 819e9, 16 * 2**30),
    'TPU v5': Chip(459e12, 2765e9, 95 * 2**30),
    'TPU v5p': Chip(459e12, 2765e9, 95 * 2**30),
    'TPU v6 lite': Chip(918e12, 1640e9, 32 * 2**30),
    'NVIDIA A100-SXM4-40GB': Chip(312e12, 1555e9, 40 * 2**30),
    'NVIDIA A100-SXM4-80GB': Chip(312e12, 2039e9, 80 * 2**30),
    'NVIDIA H100 80GB HBM3': Chip(989e12, 3350e9, 80 * 2**30),
    'NVIDIA H200': Chip(989e12, 4800e9, 141e9),
}


def chip_of(devices: Sequence[jax.Device]) -> Chip | None:
    """What each of the devices has; a chip may be several devices. None of those CHIPS lacks."""
    whole = CHIPS.get(devices[0].device_kind)
    if whole is None or not hasattr(devices[0], 'coords'):
        return whole
    chips = len({tuple(device.coords) for device in devices})
    return Chip(*(figure * chips / len(devices) for figure in whole))


def memory_of(devices: Sequence[jax.Device]) -> float:
    """Bytes that each of the devices has; infinite where nobody says."""
    device = devices[0]
    if device in jax.devices():  # it is here, and says what of its memory a program gets
        limit = (device.memory_stats() or {}).get('bytes_limit')
        if limit:
            return float(limit)
    chip = chip_of(devices)
    if chip:
        return chip.memory
    if device.platform == 'cpu':
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / len(devices)
    return math.inf


def roofline(
    chip: Chip | None, flops: float, bytes_accessed: float, batch_size: int
) -> dict[str, Any]:
    """The least time of a step, what binds it, and the sequences/s of all devices together.

    Empty for devices of which nothing is known.
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
