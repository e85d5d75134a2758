"""`--mode=benchmark`: both sides in alternating blocks, one at work while the other waits."""

import contextlib
import json
import os
import pathlib
import platform
from typing import Any

import ml_collections
from etils import epath

from benchmarks.original.arguments import arguments, dataset_code
from benchmarks.original.clone import open_clone
from benchmarks.original.protocol import Child
from benchmarks.original.report import ORIGINAL, OURS, summary, table
from benchmarks.original.sides import start_original, start_ours
from emkd_jax.errors import UserError
from emkd_jax.runs.workdir import is_remote, make_folder, write_json
from emkd_jax.training.sweep import members

PAIRS = 5  # of blocks, one a side
BLOCK_SECONDS = 5.0  # of training in a block, at least
MIN_STEPS = 3  # and at least so many steps
_WARM_UP_BATCHES = 2  # of the original's validation pass


def benchmark(
    config: ml_collections.ConfigDict,
    workdir: str = '',
    pytorch_repo: str = '',
    torch_tuned: bool = False,
    pairs: int = PAIRS,
    block_seconds: float = BLOCK_SECONDS,
) -> dict[str, Any]:
    """Measures training and evaluation, prints a table and, as the last line, benchmark.json.

    This process leaves the devices alone, so that each side has what it would have by itself.

    Args:
      config: what to train.
      workdir: folder of benchmark.json and of the sides' logs; '' for `runs/<config.name>`.
      pytorch_repo: a clone of the authors' code to measure beside this code; '' for none.
      torch_tuned: let the authors' code use TF32.
      pairs: how many blocks of training each side gets.
      block_seconds: how long a block takes, at least.

    Raises:
      UserError: an option, the data or the clone is wrong, or a side failed.
    """
    if torch_tuned and not pytorch_repo:
        raise UserError('--torch_tuned tunes the original; name its clone with --pytorch_repo.')
    if members(config):
        raise UserError('A benchmark is of one run; leave train.num_seeds and sweep.* out.')
    if config.distill.teacher:
        raise UserError('A benchmark is of an ensemble that trains; leave distill.teacher out.')
    if is_remote(workdir):
        raise UserError(f'--workdir={workdir} is no folder of this machine; a benchmark wants one.')
    clone = open_clone(pytorch_repo, dataset_code(config)) if pytorch_repo else None
    if clone:
        arguments(config)  # what the original cannot do is told before anything starts
    folder = pathlib.Path(make_folder(workdir or f'runs/{config.name}'))
    options = json.loads(config.to_json_best_effort())
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        sides, about = {}, {}
        _say('Setting up this code ...')
        sides[OURS], about[OURS] = start_ours(stack, options, folder, alone=clone is None)
        if clone:
            _say('Setting up the original; its tables of candidates take minutes ...')
            sides[ORIGINAL], about[ORIGINAL] = start_original(
                stack, clone, config, about[OURS], torch_tuned, folder
            )
        measured = _measure(sides, pairs, block_seconds)
        idle = {name: side.idle_cpu_seconds for name, side in sides.items()}
    report = {
        **measured,
        'device': about[OURS]['device'],
        'host': f'{os.cpu_count()} x {_processor()}',
        'load_average_before': load,
        'idle_cpu_seconds': idle,
        'dtype': about[OURS]['dtype'],
        'original': clone and {'commit': clone.commit, 'modified': clone.modified},
        'torch_tuned': torch_tuned,
        'versions': {k: v for side in about.values() for k, v in side['versions'].items()},
        'sizes': about[OURS]['counts'],
        'stand_in': about[OURS]['stand_in'],
        'config': options,
    }
    write_json(epath.Path(folder / 'benchmark.json'), report)
    _say(f'\n{_heading(report)}\n{table(report)}')
    _say(json.dumps(report))
    return report


def _measure(sides: dict[str, Child], pairs: int, block_seconds: float) -> dict[str, Any]:
    _say('Warming up ...')
    for side in sides.values():
        side.ask('train', seconds=0, min_steps=MIN_STEPS)
    training = {name: [] for name in sides}
    for pair in range(1, pairs + 1):
        for name, side in sides.items():
            block = side.ask('train', seconds=block_seconds, min_steps=MIN_STEPS)
            training[name].append(block)
            _say(f'{pair}/{pairs} {name}: {block["sequences"]} in {block["seconds"]:.1f} s')
    _say('Validation passes ...')
    sides[OURS].ask('evaluate')
    evaluation = {OURS: [sides[OURS].ask('evaluate')]}
    if ORIGINAL in sides:
        sides[ORIGINAL].ask('evaluate', max_batches=_WARM_UP_BATCHES)
        evaluation[ORIGINAL] = [sides[ORIGINAL].ask('evaluate')]
        evaluation[OURS].append(sides[OURS].ask('evaluate'))
    memory = {name: side.ask('memory') for name, side in sides.items()}
    return summary(training, evaluation, memory)


def _heading(report):
    sizes = ', '.join(f'{count:,} {name}' for name, count in report['sizes'].items())
    stand_in = ' (STAND-IN DATA)' if report['stand_in'] else ''
    return (
        f'{report["config"]["data"]["name"]}{stand_in}: {sizes}\n'
        f'batch {report["config"]["train"]["batch_size"]}, {report["dtype"]} activations here; '
        f'{report["device"]}, host {report["host"]}'
    )


def _processor():
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _say(text):
    print(text, flush=True)
