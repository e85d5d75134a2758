"""How much memory the devices of this process have."""

import math
import os
from collections.abc import Sequence

import jax


def device_memory(devices: Sequence[jax.Device]) -> float:
    """The bytes that a program may use on each of these devices; infinite if it is not known.

    The devices of a CPU share the memory of the machine.
    """
    limit = (devices[0].memory_stats() or {}).get('bytes_limit')
    if limit:
        return float(limit)
    if devices[0].platform == 'cpu':
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / len(devices)
    return math.inf
