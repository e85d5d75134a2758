"""The devices to compile for: those of this process, or a TPU slice that need not exist here."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from emkd_jax.errors import UserError, install_command

_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
_KINDS = {'v4': _CUBES, 'v5e': _FLAT, 'v5p': _CUBES, 'v6e': _FLAT}  # slices, the smallest first
# A program for a device that is not here cannot be read back from the compilation cache.
_SETTINGS = {'jax_platforms': 'cpu', 'jax_enable_compilation_cache': False}
_ENVIRONMENT = {  # keeps libtpu from asking the machine about a TPU and from logging
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}


def slices_of(topology: str) -> Sequence[str]:
    """The slices of a kind of TPU, the smallest first; any other `topology` stands for itself."""
    return [f'{topology}:{shape}' for shape in _KINDS.get(topology, ())] or [topology]


@contextlib.contextmanager
def target_devices(topology: str) -> Iterator[Sequence[jax.Device]]:
    """Gives the devices of a TPU slice to compile for.

    Inside the block JAX runs on the CPU, so that a TPU of this machine stays free for others. At
    the end of the block JAX's settings and the environment are what they were before. (A process
    that uses JAX for the first time inside the block keeps the CPU.)

    Args:
      topology: kind and shape of the slice, such as `v5e:2x4`; empty for the devices at hand.

    Raises:
      UserError: there is no such slice, or the compiler for TPUs is not installed.
    """
    if not topology:
        yield jax.devices()
        return
    if topology.split(':')[0] not in _KINDS:
        raise UserError(
            f'--topology={topology} is not known; give one of {", ".join(_KINDS)} and the shape of '
            'the slice, as in v5e:2x4 or v4:2x2x1.'
        )
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={topology} needs the compiler for TPUs; run: {install_command("[plan]")}'
        )
    with _environment(), _settings():
        try:
            devices = topologies.get_topology_desc(topology, 'tpu').devices
        except Exception as error:  # the libraries raise several kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(f'--topology={topology} cannot be used: {reason}') from error
        yield devices


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Changes JAX's settings, and restores them."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    try:
        for name, value in _SETTINGS.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX decides once whether it uses the cache
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Sets environment variables that have no value, and removes them again."""
    missing = _ENVIRONMENT.keys() - os.environ.keys()
    os.environ.update({name: _ENVIRONMENT[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
