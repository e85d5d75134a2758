"""Starts the two sides, on the same device and the same data."""

import contextlib
import os
import pathlib
import tempfile
from typing import Any

import ml_collections

from benchmarks.original.arguments import arguments, dataset_code
from benchmarks.original.clone import Clone, lay_out
from benchmarks.original.memory import available_host_bytes, original_host_bytes
from benchmarks.original.protocol import Child
from emkd_jax.errors import UserError

_SMALLER = 'use a smaller batch, for example --config.train.batch_size=32'
_DEVICES = {'cpu': 'cpu', 'gpu': 'cuda'}  # as JAX and as PyTorch call them


def start_ours(
    stack: contextlib.ExitStack, options: dict[str, Any], folder: pathlib.Path, alone: bool
) -> tuple[Child, dict[str, Any]]:
    """This code's process, and what it says of itself.

    Args:
      stack: ends the process.
      options: the configuration.
      folder: of the log.
      alone: whether it has the machine to itself.

    Raises:
      UserError: an option makes no sense, or the data is not to be had.
    """
    child = stack.enter_context(
        Child(
            'This code',
            'benchmarks.original.ours',
            folder / 'benchmark_emkd_jax.log',
            env={} if alone else _one_gpu() | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
            if_killed=_SMALLER,
        )
    )
    return child, child.ask('set_up', options=options)


def start_original(
    stack: contextlib.ExitStack,
    clone: Clone,
    config: ml_collections.ConfigDict,
    ours: dict[str, Any],
    tuned: bool,
    folder: pathlib.Path,
) -> tuple[Child, dict[str, Any]]:
    """The original's process, and what it says of itself.

    Args:
      stack: ends the process.
      clone: of its code.
      config: what it should train.
      ours: what this code's process said.
      tuned: allow TF32.
      folder: of the log.

    Raises:
      UserError: it cannot do what `config` asks for, does not fit, lacks a module, or has other
        data.
    """
    platform = ours['platform']
    if platform not in _DEVICES:
        raise UserError(
            f'--pytorch_repo: the original does not run on a {platform.upper()}; leave it out, or '
            'compare on the CPU with JAX_PLATFORMS=cpu.'
        )
    if platform == 'cpu':
        _check_room(config, ours['counts'])
    desk = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lay_out(clone, desk)
    child = stack.enter_context(
        Child(
            'The original',
            'benchmarks.original.original',
            folder / 'benchmark_original.log',
            cwd=desk,
            env=_one_gpu(),
            if_killed=_SMALLER,
        )
    )
    theirs = child.ask(
        'set_up',
        clone=str(clone.path),
        dataset_code=dataset_code(config),
        device=_DEVICES[platform],
        arguments=arguments(config),
        tuned=tuned,
    )
    for name, count in theirs['counts'].items():
        if count != ours['counts'][name]:
            raise UserError(
                f'The two sides have different data ({ours["counts"][name]} {name} here, {count} '
                f'in {clone.path}); use --config.data.source={clone.path}.'
            )
    return child, theirs


def _one_gpu():
    return {'CUDA_VISIBLE_DEVICES': os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]}


def _check_room(config, counts):
    needed, available = original_host_bytes(config, counts), available_host_bytes()
    if available is not None and needed > available:
        raise UserError(
            f'The original needs about {needed / 1e9:.0f} GB of memory on the CPU at '
            f'train.batch_size={config.train.batch_size} and {available / 1e9:.0f} GB are free; '
            f'{_SMALLER}.'
        )
