"""The measurements of both sides as comparable numbers, and as a table."""

import statistics
from collections.abc import Sequence
from typing import Any

from emkd_jax.cli.console import print_table, say

SIDES = JAX, ORIGINAL = 'emkd_jax', 'original'


def rates(blocks: Sequence[dict[str, Any]], unit: str) -> list[float]:
    """Returns the sequences or users per second of each block."""
    return [block[unit] / block['seconds'] for block in blocks]


def ratios(jax_rates: Sequence[float], original_rates: Sequence[float]) -> dict[str, Any]:
    """Returns the ratios of rates that were measured in pairs, their median and their range."""
    pairs = [a / b for a, b in zip(jax_rates, original_rates, strict=True)]
    return {
        'speedup': statistics.median(pairs),
        'speedup_min': min(pairs),
        'speedup_max': max(pairs),
        'speedups': pairs,
    }


def summarise(
    training: dict[str, list[dict[str, Any]]],
    evaluation: dict[str, list[dict[str, Any]]],
    memory: dict[str, dict[str, int | None]],
) -> dict[str, Any]:
    """Returns the measured part of benchmark.json.

    Args:
      training: the blocks of each side in the order they ran: steps, sequences, seconds.
      evaluation: the passes of each side: users, seconds.
      memory: the 'host' and 'device' peaks of each side in bytes; None if the device does not tell.

    Returns:
      `speedup` and its range are None if only one side was measured.
    """
    trained = {side: rates(blocks, 'sequences') for side, blocks in training.items()}
    evaluated = {side: rates(passes, 'users') for side, passes in evaluation.items()}
    users_per_second = {side: statistics.median(x) for side, x in evaluated.items()}
    both = len(training) == len(SIDES)
    nothing = dict.fromkeys(('speedup', 'speedup_min', 'speedup_max', 'speedups'))
    return {
        **(ratios(*(trained[side] for side in SIDES)) if both else nothing),
        'sequences_per_second': {side: statistics.median(x) for side, x in trained.items()},
        'step_seconds': {
            side: statistics.median(b['seconds'] / b['steps'] for b in blocks)
            for side, blocks in training.items()
        },
        'users_per_second': users_per_second,
        'evaluation_speedup': users_per_second[JAX] / users_per_second[ORIGINAL] if both else None,
        'peak_host_bytes': {side: peaks['host'] for side, peaks in memory.items()},
        'peak_device_bytes': {side: peaks['device'] for side, peaks in memory.items()},
        'training': training,
        'evaluation': evaluation,
    }


def print_summary(report: dict[str, Any]) -> None:
    """Prints a summary as a table."""
    measured = {
        'training, sequences/s': (report['sequences_per_second'], 1, '{:,.1f}'),
        'evaluation, users/s': (report['users_per_second'], 1, '{:,.1f}'),
        'peak host memory, GB': (report['peak_host_bytes'], 1e9, '{:,.2f}'),
        'peak device memory, GB': (report['peak_device_bytes'], 1e9, '{:,.2f}'),
    }
    sides = list(report['sequences_per_second'])
    both = len(sides) == len(SIDES)
    rows = []
    for name, (values, unit, form) in measured.items():
        if None in values.values():
            continue
        cells = [form.format(values[side] / unit) for side in sides]
        if both:
            ratio = values[JAX] / values[ORIGINAL]
            # The training rates were measured in pairs, so their ratio is that of the pairs.
            cells.append(f'{report["speedup"] if name.startswith("training") else ratio:.3g}')
        rows.append([name, *cells])
    print_table('', ['', *sides, *(['ratio'] if both else [])], rows)
    if both:
        say(
            f'The training ratio is the median of {len(report["speedups"])} pairs of alternating '
            f'blocks; they range from {report["speedup_min"]:.3g} to {report["speedup_max"]:.3g}.'
        )
