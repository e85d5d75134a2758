"""Devices to compile for: those at hand, or a TPU slice that need not be there."""

import importlib.util
import os
from collections.abc import Sequence

import jax

from emkd_jax.errors import UserError

_KINDS = ('v4', 'v5e', 'v5p', 'v6e')
_NO_TPU_HERE = {  # what libtpu would ask the machine for, and complain of
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a slice, as `v5e:2x4`; '' = those at hand.

    Raises:
      UserError: there is no such slice, or its compiler is not installed.
    """
    if not topology:
        return jax.devices()
    if topology.split(':')[0] not in _KINDS:
        raise UserError(
            f'--topology={topology} is not known; it is one of {", ".join(_KINDS)} and its chips, '
            'as in v5e:2x4 or v4:2x2x1.'
        )
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={topology} needs the compiler for TPUs; install it with '
            '`pip install -r requirements-plan.txt`.'
        )
    from jax.experimental import topologies

    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    jax.config.update('jax_platforms', 'cpu')  # a TPU that is here is not for this
    try:
        return topologies.get_topology_desc(topology, 'tpu').devices
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f'--topology={topology} cannot be planned for: {said}') from error
