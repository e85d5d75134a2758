"""The devices and processes of a run: how they join, what each holds, how a process leaves.

On several hosts every process runs the same command. JAX ends all of them when one is gone: at
once where a collective breaks or process 0 is the one, else when its heartbeat has been missing for
`HEARTBEAT` seconds.
"""

import ctypes
import faulthandler
import hashlib
import json
import os
import re
import signal
import sys
import threading
import warnings
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from emkd_jax.errors import HostLostError, RunError, UserError

JOIN = 300  # seconds that processes wait for one another at the start
HEARTBEAT = 100  # seconds of silence after which a process counts as gone
_LEAVE = 5  # seconds to wait for the others when this process fails
_LOST = (
    'This process has lost another one of the run ({}); start all again with the same command: the '
    'run goes on from its last checkpoint.'
)


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of a run's. Must come before anything is computed.

    What is None is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then
    from what a TPU VM, Slurm, Open MPI or a Kubernetes job says. A lone host, of which nothing is
    said, goes on alone, and so does one told that there is one process. Where the others do not
    come within `JOIN` seconds, the process ends.

    Raises:
      UserError: too little is said, or it makes no sense.
    """
    said: dict[str, Any] = {
        '--coordinator': coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS'),
        '--num_processes': _number(num_processes, 'JAX_NUM_PROCESSES'),
        '--process_id': _number(process_id, 'JAX_PROCESS_ID'),
    }
    if said['--num_processes'] == 1:
        return
    given = ', '.join(f'{option}={value}' for option, value in said.items() if value is not None)
    if not re.search(r'.:\d{1,5}$', said['--coordinator'] or 'inferred:0'):  # JAX would crash
        raise UserError(f'{given}: the coordinator must be HOST:PORT of process 0.')
    # JAX itself would only say that another process may have died.
    alarm = threading.Timer(JOIN, _end_alone, [given])
    alarm.daemon = True
    alarm.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about packages that other kinds of clusters need
            jax.distributed.initialize(
                said['--coordinator'],
                said['--num_processes'],
                said['--process_id'],
                initialization_timeout=2 * JOIN,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
    except ValueError as error:  # not told, and not inferred
        if not given:
            return
        raise UserError(
            f'{given} do not say who is in this run ({_first_line(error)}); give each process '
            '--coordinator=HOST:PORT of process 0, --num_processes and its own --process_id.'
        ) from error
    finally:
        alarm.cancel()
    faulthandler.disable()  # where JAX ends a process tells nothing beyond why it does
    if jax.default_backend() == 'cpu':
        # Only process 0 writes it, and CPUs do not wait for others that must compile.
        jax.config.update('jax_enable_compilation_cache', False)
    # JAX aborts, in a thread of its own, once it knows of a lost process; Python's own handlers
    # would come too late. After the backend's start, which may set handlers too.
    ctypes.CDLL(None).signal(signal.SIGABRT, _at_abort)


def check_same(what: str, value: str) -> None:
    """All processes must call it with the same `value`.

    Raises:
      RunError: they did not.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    differing = np.flatnonzero((digests != digests[0]).any(1))
    if len(differing):
        raise RunError(
            f'Process {differing[0]} has another {what} than process 0; start all processes with '
            'the same command, on the same data and a --workdir that all share.'
        )


def of_process_0(value: Any) -> Any:
    """Process 0's `value`, which JSON can hold, on every process."""
    if jax.process_count() == 1:
        return value
    said = json.dumps(value).encode() if jax.process_index() == 0 else b''
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    padded = np.frombuffer(said.ljust(length, b' '), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


def explain(error: Exception) -> RunError | None:
    """A failure of the devices or of another host, said in one sentence; None for any other."""
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
        return RunError(
            f'The memory does not suffice ({_first_line(error)}); lower '
            '--config.train.batch_size, or --config.eval.batch_size where validation or test '
            'failed, or --config.train.max_together where several runs train together, or take '
            'more devices.'
        )
    if is_lost_host(error):
        return HostLostError(_LOST.format(_first_line(error)))
    return None


def is_lost_host(error: Exception) -> bool:
    """Does `error`, of several processes, come of speaking with each other or the devices?"""
    # On CPUs some of JAX's collectives fail with a plain ValueError.
    spoke = isinstance(error, ValueError) and 'Gloo' in str(error)
    return jax.distributed.is_initialized() and (
        spoke or isinstance(error, jax.errors.JaxRuntimeError)
    )


def leave(error: Exception) -> None:
    """Ends the process after `error`, where threads might still speak or other processes wait.

    A process of several never waits long for the others.
    """
    several = jax.distributed.is_initialized()
    if not (several or isinstance(error, RunError)):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if several and not isinstance(error, HostLostError):
        # All may have failed alike: JAX ends a process that another one leaves unannounced.
        goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(_LEAVE)
    os._exit(getattr(error, 'exit_code', RunError.exit_code))


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _at_abort(_):
    os.write(2, f'\n{_LOST.format("JAX told why above, and aborted")}\n'.encode())
    os._exit(HostLostError.exit_code)


def _end_alone(given):
    print(
        f'The processes of the run did not find one another within {JOIN} s '
        f'({given or "as the cluster told them"}); start as many as there are to be, where all '
        'reach process 0.',
        file=sys.stderr,
        flush=True,
    )
    os._exit(RunError.exit_code)


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip('.: ')


def _number(value, variable):
    if value is not None or variable not in os.environ:
        return value
    try:
        return int(os.environ[variable])
    except ValueError as error:
        raise UserError(
            f'{variable} is {os.environ[variable]!r}; it must be a number, or unset.'
        ) from error
