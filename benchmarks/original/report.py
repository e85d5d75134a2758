"""What was measured on the two sides: the numbers that are compared, and a table for people."""

import statistics
from collections.abc import Sequence
from typing import Any

SIDES = OURS, ORIGINAL = 'emkd_jax', 'original'


def rates(blocks: Sequence[dict[str, Any]], what: str) -> list[float]:
    """`what` (sequences or users) a second, of each block."""
    return [block[what] / block['seconds'] for block in blocks]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Of rates that were measured in pairs: the median of the pairs' ratios, and their spread."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        'speedup': statistics.median(pairs),
        'speedup_min': min(pairs),
        'speedup_max': max(pairs),
        'speedups': pairs,
    }


def summary(
    training: dict[str, list[dict[str, Any]]],
    evaluation: dict[str, list[dict[str, Any]]],
    memory: dict[str, dict[str, int | None]],
) -> dict[str, Any]:
    """The measured part of benchmark.json.

    Args:
      training: blocks of each side, in the order they ran: steps, sequences, seconds.
      evaluation: passes of each side: users, seconds.
      memory: 'host' and 'device' peaks of each side, bytes; None where the device does not tell.

    Returns:
      `speedup` and its spread are None where only one side was measured.
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
        'evaluation_speedup': users_per_second[OURS] / users_per_second[ORIGINAL] if both else None,
        'peak_host_bytes': {side: peaks['host'] for side, peaks in memory.items()},
        'peak_device_bytes': {side: peaks['device'] for side, peaks in memory.items()},
        'training': training,
        'evaluation': evaluation,
    }


def table(report: dict[str, Any]) -> str:
    """A summary as lines of text."""
    rows = {
        'training, sequences/s': (report['sequences_per_second'], report['speedup'], '{:,.1f}'),
        'evaluation, users/s': (
            report['users_per_second'],
            report['evaluation_speedup'],
            '{:,.1f}',
        ),
        'peak host memory, GB': _gigabytes(report['peak_host_bytes']),
        'peak device memory, GB': _gigabytes(report['peak_device_bytes']),
    }
    sides = list(report['sequences_per_second'])
    lines = [f'{"":<24}' + ''.join(f'{side:>12}' for side in (*sides, 'ratio'))]
    for name, (values, ratio, form) in rows.items():
        if None not in values.values():
            cells = [form.format(values[side]) for side in sides]
            cells += [] if ratio is None else [f'{ratio:.3g}']
            lines.append(f'{name:<24}' + ''.join(f'{cell:>12}' for cell in cells))
    if report['speedup'] is None:
        lines[0] = lines[0].removesuffix('ratio')
    else:
        lines.append(
            f'The training ratio is the median of {len(report["speedups"])} pairs of alternating '
            f'blocks, {report["speedup_min"]:.3g} to {report["speedup_max"]:.3g}.'
        )
    return '\n'.join(line.rstrip() for line in lines)


def _gigabytes(peaks):
    both = len(peaks) == len(SIDES) and None not in peaks.values()
    ratio = peaks[OURS] / peaks[ORIGINAL] if both else None
    return {side: peak and peak / 1e9 for side, peak in peaks.items()}, ratio, '{:,.2f}'
