"""Host memory: this process's peak, what the machine has left, and what the original needs."""

import pathlib
import resource
import sys

import ml_collections


def peak_host_bytes() -> int:
    """The most memory this process has held so far."""
    status = _fields(pathlib.Path('/proc/self/status'))
    if 'VmHWM' in status:  # unlike ru_maxrss, not inherited from the process that started this one
        return status['VmHWM']
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_host_bytes() -> int | None:
    """What could still be allocated without swapping; None where the system does not tell."""
    available = _fields(pathlib.Path('/proc/meminfo')).get('MemAvailable')
    group = pathlib.Path('/sys/fs/cgroup')
    limit, used = _number(group / 'memory.max'), _number(group / 'memory.current')
    if available is None or limit is None or used is None:
        return available
    return min(available, limit - used)


def original_host_bytes(config: ml_collections.ConfigDict, counts: dict[str, int]) -> int:
    """About what the original holds when it trains on the CPU; within a tenth at seven settings.

    Args:
      config: what it trains.
      counts: users and items of the data.
    """
    networks, views = config.ensemble.num_networks, config.objective.num_views
    # Two tables of int64 candidates, and PyTorch itself.
    tables = 2 * 8 * counts['users'] * counts['items'] + 0.3e9
    # Embedding and item head, each with its gradient and Adam's two moments.
    weights = 16 * networks * 2 * counts['items'] * config.model.hidden_dim
    # What waits for the backward pass, in float32: of every block of every pass some 58 arrays of
    # hidden states, and of every view's logits 2.8 arrays (fitted to the peaks there).
    hidden = 58 * (views + 1) * config.model.num_blocks * config.model.hidden_dim
    logits = 2.8 * views * counts['items']
    slots = config.train.batch_size * config.model.max_len
    return int(tables + weights + 4 * networks * slots * (hidden + logits))


def _fields(path: pathlib.Path) -> dict[str, int]:
    """The lines of `path` that read `name: number kB`, in bytes."""
    if not path.exists():
        return {}
    words = (line.split() for line in path.read_text().splitlines())
    return {w[0].rstrip(':'): int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == 'kB'}


def _number(path: pathlib.Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ''
    return int(text) if text.isdigit() else None
