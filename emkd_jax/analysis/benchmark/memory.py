"""Memory of the host: the peak of this process, what is free, and what the original needs."""

import pathlib
import resource
import sys

import ml_collections


def peak_host_bytes() -> int:
    """Returns the most memory that this process has held so far."""
    peak = _fields('/proc/self/status').get('VmHWM')
    if peak is not None:  # ru_maxrss also counts the process that started this one
        return peak
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_host_bytes() -> int | None:
    """Returns what can still be allocated without swapping; None if the system does not tell."""
    available = _fields('/proc/meminfo').get('MemAvailable')
    limit, used = (
        _read(f'/sys/fs/cgroup/{name}').strip() for name in ('memory.max', 'memory.current')
    )
    if available is None or not (limit.isdigit() and used.isdigit()):
        return available
    return min(available, int(limit) - int(used))


def original_host_bytes(config: ml_collections.ConfigDict, counts: dict[str, int]) -> int:
    """Estimates what the original holds when it trains on the CPU.

    The estimate was within a tenth of the measured peak at seven settings.

    Args:
      config: the options of the training.
      counts: the numbers of 'users' and 'items'.
    """
    networks, views = config.ensemble.num_networks, config.objective.num_views
    # Two tables of int64 candidates, and PyTorch itself.
    tables = 2 * 8 * counts['users'] * counts['items'] + 0.3e9
    # Embedding and item head, each with its gradient and the two moments of Adam, in float32.
    weights = 16 * networks * 2 * counts['items'] * config.model.hidden_dim
    # What is kept for the backward pass, in float32: about 58 arrays of hidden states for every
    # block and pass, and 2.8 arrays of logits for every view (fitted to the measured peaks).
    hidden = 58 * (views + 1) * config.model.num_blocks * config.model.hidden_dim
    logits = 2.8 * views * counts['items']
    slots = config.train.batch_size * config.model.max_len
    return int(tables + weights + 4 * networks * slots * (hidden + logits))


def _fields(path: str) -> dict[str, int]:
    """The lines of a file that read `name: number kB`, in bytes."""
    words = (line.split() for line in _read(path).splitlines())
    return {w[0].rstrip(':'): int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == 'kB'}


def _read(path: str) -> str:
    file = pathlib.Path(path)
    return file.read_text() if file.exists() else ''
