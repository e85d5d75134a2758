"""Starts the two sides on the same device and the same data."""

import contextlib
import os
import pathlib
import tempfile
from typing import Any

import ml_collections

from emkd_jax.analysis.benchmark.arguments import arguments, dataset_code
from emkd_jax.analysis.benchmark.clone import Clone, link_data
from emkd_jax.analysis.benchmark.memory import available_host_bytes, original_host_bytes
from emkd_jax.analysis.benchmark.protocol import Child
from emkd_jax.errors import UserError

_ADVICE = 'use a smaller batch, for example --config.train.batch_size=32'
_DEVICES = {'cpu': 'cpu', 'gpu': 'cuda'}  # names of JAX and of PyTorch


def start_jax(
    stack: contextlib.ExitStack, options: dict[str, Any], folder: pathlib.Path, alone: bool
) -> tuple[Child, dict[str, Any]]:
    """Starts the process of this project, and returns it with its description of itself.

    Args:
      stack: ends the process.
      options: the configuration as JSON.
      folder: gets the log.
      alone: whether no other side shares the machine.

    Raises:
      UserError: an option is not allowed, or the data cannot be had.
    """
    child = stack.enter_context(
        Child(
            'This code',
            'emkd_jax.analysis.benchmark.jax_side',
            folder / 'benchmark_emkd_jax.log',
            env={} if alone else _one_gpu() | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
            advice=_ADVICE,
        )
    )
    return child, child.ask('set_up', options=options)


def start_original(
    stack: contextlib.ExitStack,
    clone: Clone,
    config: ml_collections.ConfigDict,
    jax_side: dict[str, Any],
    tuned: bool,
    folder: pathlib.Path,
) -> tuple[Child, dict[str, Any]]:
    """Starts the process of the original, and returns it with its description of itself.

    Args:
      stack: ends the process.
      clone: the authors' code.
      config: what it should train.
      jax_side: the description that `start_jax` returned.
      tuned: whether the original may use TF32.
      folder: gets the log.

    Raises:
      UserError: the original cannot do what `config` asks for, does not fit into memory, lacks a
        module, or has other data.
    """
    platform, counts = jax_side['platform'], jax_side['counts']
    if platform not in _DEVICES:
        raise UserError(
            f'--pytorch_repo: the original does not run on a {platform.upper()}; leave it out, or '
            'compare on the CPU with JAX_PLATFORMS=cpu.'
        )
    if platform == 'cpu':
        _check_memory(config, counts)
    workplace = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    link_data(clone, workplace)
    child = stack.enter_context(
        Child(
            'The original',
            'emkd_jax.analysis.benchmark.pytorch_side',
            folder / 'benchmark_original.log',
            cwd=workplace,
            env=_one_gpu(),
            advice=_ADVICE,
        )
    )
    about = child.ask(
        'set_up',
        clone=str(clone.path),
        dataset_code=dataset_code(config),
        device=_DEVICES[platform],
        arguments=arguments(config),
        tuned=tuned,
    )
    for name, count in about['counts'].items():
        if count != counts[name]:
            raise UserError(
                f'The two sides have different data ({counts[name]} {name} here, {count} in '
                f'{clone.path}); use --config.data.source={clone.path}.'
            )
    return child, about


def _one_gpu() -> dict[str, str]:
    return {'CUDA_VISIBLE_DEVICES': os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]}


def _check_memory(config: ml_collections.ConfigDict, counts: dict[str, int]) -> None:
    needed, available = original_host_bytes(config, counts), available_host_bytes()
    if available is not None and needed > available:
        raise UserError(
            f'The original needs about {needed / 1e9:.0f} GB of memory on the CPU at '
            f'train.batch_size={config.train.batch_size}, and {available / 1e9:.0f} GB are free; '
            f'{_ADVICE}.'
        )
