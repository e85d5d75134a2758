"""`--mode=benchmark`: the two sides take turns, so that one works while the other waits."""

import contextlib
import json
import os
import pathlib
import platform
import time
from typing import Any

import ml_collections
from etils import epath

from emkd_jax.analysis.benchmark.arguments import arguments, dataset_code
from emkd_jax.analysis.benchmark.clone import open_clone
from emkd_jax.analysis.benchmark.protocol import Child
from emkd_jax.analysis.benchmark.report import JAX, ORIGINAL, print_summary, summarise
from emkd_jax.analysis.benchmark.sides import start_jax, start_original
from emkd_jax.cli.console import say
from emkd_jax.config.stored import to_json
from emkd_jax.data.atomic import is_remote, write_json
from emkd_jax.errors import UserError
from emkd_jax.runs.trained import default_workdir
from emkd_jax.runs.workdir import make_folder
from emkd_jax.training.sweep import check_single

PAIRS = 5  # blocks of training for each side
BLOCK_SECONDS = 5.0  # least time of a block
MIN_STEPS = 3  # least number of steps in a block
_WARM_UP_BATCHES = 2  # of the original's validation pass


def benchmark(
    config: ml_collections.ConfigDict,
    workdir: str = '',
    pytorch_repo: str = '',
    torch_tuned: bool = False,
    pairs: int = PAIRS,
    block_seconds: float = BLOCK_SECONDS,
) -> dict[str, Any]:
    """Measures training and evaluation; prints a table and, as the last line, benchmark.json.

    This process does not use the devices, so that each side has as much of them as it would alone.

    Args:
      config: what to train.
      workdir: folder of benchmark.json and of the logs; empty for `runs/<config.name>`.
      pytorch_repo: a clone of the authors' code to measure beside this one; empty for none.
      torch_tuned: whether the authors' code may use TF32.
      pairs: number of blocks of training for each side.
      block_seconds: least time of a block in seconds.

    Raises:
      UserError: an option, the data or the clone is wrong, or a side failed.
    """
    if torch_tuned and not pytorch_repo:
        raise UserError('--torch_tuned is for the original; give its clone with --pytorch_repo.')
    check_single(config, '--mode=benchmark')
    if config.distill.teacher:
        raise UserError('A benchmark measures an ensemble; leave distill.teacher out.')
    if is_remote(workdir):
        raise UserError(f'--workdir={workdir} is remote; a benchmark needs a folder on this host.')
    clone = open_clone(pytorch_repo, dataset_code(config)) if pytorch_repo else None
    if clone:
        arguments(config)  # refuses what the original cannot do before anything starts
    folder = pathlib.Path(make_folder(workdir or default_workdir(config)))
    options, load = to_json(config), os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        sides, about = {}, {}
        say('Setting up this code ...')
        sides[JAX], about[JAX] = start_jax(stack, options, folder, alone=clone is None)
        if clone:
            say('Setting up the original; its tables of candidates take minutes ...')
            sides[ORIGINAL], about[ORIGINAL] = start_original(
                stack, clone, config, about[JAX], torch_tuned, folder
            )
        users = {name: side['counts']['users'] for name, side in about.items()}
        measured = _measure(sides, users, pairs, block_seconds)
        idle = {name: side.idle_cpu_seconds for name, side in sides.items()}
    report = {
        **measured,
        'device': about[JAX]['device'],
        'host': f'{os.cpu_count()} x {_processor()}',
        'load_average_before': load,
        'idle_cpu_seconds': idle,
        'dtype': about[JAX]['dtype'],
        'original': clone and {'commit': clone.commit, 'modified': clone.modified},
        'torch_tuned': torch_tuned,
        'versions': {k: v for side in about.values() for k, v in side['versions'].items()},
        'sizes': about[JAX]['counts'],
        'stand_in': about[JAX]['stand_in'],
        'config': options,
    }
    write_json(epath.Path(folder / 'benchmark.json'), report)
    _print(report)
    return report


def _measure(
    sides: dict[str, Child], users: dict[str, int], pairs: int, block_seconds: float
) -> dict[str, Any]:
    say('Warming up ...')
    start = time.perf_counter()
    for side in sides.values():
        side.ask('train', seconds=0, min_steps=MIN_STEPS)
    passes = {JAX: sides[JAX].ask('evaluate')}
    if ORIGINAL in sides:
        passes[ORIGINAL] = sides[ORIGINAL].ask('evaluate', max_batches=_WARM_UP_BATCHES)
    validation = sum(part['seconds'] * users[name] / part['users'] for name, part in passes.items())
    say(f'Warm after {time.perf_counter() - start:.0f} s.')
    training: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    start = time.perf_counter()
    for pair in range(1, pairs + 1):
        for name, side in sides.items():
            block = side.ask('train', seconds=block_seconds, min_steps=MIN_STEPS)
            training[name].append(block)
            say(f'{pair}/{pairs} {name}: {block["sequences"]} in {block["seconds"]:.1f} s')
        left = (time.perf_counter() - start) / pair * (pairs - pair) + validation
        say(f'about {left:.0f} s left')
    say('Validation passes ...')
    evaluation = {JAX: [sides[JAX].ask('evaluate')]}
    if ORIGINAL in sides:
        evaluation[ORIGINAL] = [sides[ORIGINAL].ask('evaluate')]
        evaluation[JAX].append(sides[JAX].ask('evaluate'))
    memory = {name: side.ask('memory') for name, side in sides.items()}
    return summarise(training, evaluation, memory)


def _print(report: dict[str, Any]) -> None:
    sizes = ', '.join(f'{count:,} {name}' for name, count in report['sizes'].items())
    stand_in = ' (STAND-IN DATA)' if report['stand_in'] else ''
    say(f'\n{report["config"]["data"]["name"]}{stand_in}: {sizes}')
    say(
        f'batch {report["config"]["train"]["batch_size"]}, {report["dtype"]} activations in this '
        f'code; {report["device"]}, host {report["host"]}'
    )
    print_summary(report)
    say(json.dumps(report))


def _processor() -> str:
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())
