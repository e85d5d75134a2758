"""Runs of launch.py in processes of their own, small enough for tests, and what they leave."""

import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
from tensorboardX.proto import event_pb2

from configs import quickstart
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import make_experiment
from tests.support import QUICK_TO_COMPILE, ROOT

OF_THE_CLOCK = ('seconds', 'sequences_per_second')
LONGEST = 300  # seconds that a small run may take on a busy machine

OPTIONS = {
    'model.max_len': 6,
    'model.hidden_dim': 8,
    'model.num_heads': 1,
    'model.num_blocks': 1,
    'train.batch_size': 104,
    'train.num_epochs': 4,  # 9 steps each
    'checkpoint.every_steps': 2,
}


def small_config(**changes):
    """The configuration of the runs; `changes` are written `train__num_epochs=8`."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        OPTIONS | {name.replace('__', '.'): value for name, value in changes.items()}
    )
    return config


class Launch:
    """A running launch.py.

    Args:
      workdir: of the run.
      changes: of `small_config`.
      devices: how many fake ones.
      flags: more of launch.py's.
      before: Python to run before it.
      environment: more of it.
      pass_fds: files of this process that it has, too.
    """

    def __init__(
        self, workdir, changes=None, devices=1, flags=(), before='', environment=None, pass_fds=()
    ):
        self.checkpoints = pathlib.Path(workdir) / 'checkpoints'
        self._at_start = self.steps()
        options = OPTIONS | {k.replace('__', '.'): v for k, v in (changes or {}).items()}
        arguments = [
            'launch.py',
            '--config=configs/quickstart.py',
            f'--workdir={workdir}',
            *(f'--config.{name}={value}' for name, value in options.items()),
            *flags,
        ]
        # Where PyTorch is installed, tensorboardX imports it, which takes seconds.
        code = 'import runpy, sys; sys.modules["torch"] = None; '
        code += f'sys.argv = {arguments}; sys.path.insert(0, ""); {before}\n'
        self._process = subprocess.Popen(
            [sys.executable, '-c', code + 'runpy.run_path("launch.py", run_name="__main__")'],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            env=os.environ
            | {
                'JAX_PLATFORMS': 'cpu',
                'NPROC': '16',
                'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {QUICK_TO_COMPILE}',
            }
            | (environment or {}),
        )

    def wait_for_save(self):
        """Returns when the run has begun to write a checkpoint, or ended."""
        until = time.monotonic() + LONGEST
        while self._process.poll() is None and self.steps() <= self._at_start:
            assert time.monotonic() < until, 'no checkpoint came'
            time.sleep(0.005)

    def kill(self, number=signal.SIGKILL):
        """Sends a signal to the process."""
        self._process.send_signal(number)

    def end(self):
        """Waits for the end; returns exit code, standard output and standard error."""
        out, err = self._process.communicate(timeout=LONGEST)
        return self._process.returncode, out, err

    def steps(self):
        """Returns the names of the checkpoints that there are, whole or not."""
        return set(os.listdir(self.checkpoints)) if self.checkpoints.exists() else set()


def run(workdir, *arguments, **more):
    """A whole `Launch`."""
    return Launch(workdir, *arguments, **more).end()


def said(err):
    """The sentence at the end of a failed run's standard error, which must hold no traceback."""
    assert 'Traceback' not in err, err
    last = re.split(r'[\r\n]', err.strip())[-1]
    assert last.endswith('.'), err
    return last


def read_lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    events = map(json.loads, (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines())
    return [{k: v for k, v in event.items() if k not in OF_THE_CLOCK} for event in events]


def read_tensorboard(workdir):
    """What TensorBoard would show: {name: [(step, value)]}, less what depends on the clock."""
    shown = {}
    for file in sorted((pathlib.Path(workdir) / 'tensorboard').iterdir()):
        for event in _events(file.read_bytes()):
            if event.session_log.status == event_pb2.SessionLog.START:  # forgets what is beyond it
                shown = {
                    name: [point for point in points if point[0] < event.step]
                    for name, points in shown.items()
                }
            for value in event.summary.value:
                if not value.tag.endswith(OF_THE_CLOCK):
                    shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {name: points for name, points in shown.items() if points}


def _events(content):
    """The records of an event file; the last one may be cut off."""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from('<Q', content, place)
        record = content[place + 12 : place + 12 + length]
        if len(record) == length:
            yield event_pb2.Event.FromString(record)
        place += length + 16


def read_results(workdir):
    """results.json without what depends on the clock."""
    results = json.loads((pathlib.Path(workdir) / 'results.json').read_text())
    return {k: v for k, v in results.items() if k not in OF_THE_CLOCK}


def last_state(workdir, **changes):
    """The state in the newest checkpoint."""
    checkpoints = Checkpoints(workdir)
    shapes = make_experiment(small_config(**changes)).state_shapes()
    return checkpoints.restore(checkpoints.steps[-1], shapes)[0]


def assert_same_run(workdir, whole, **changes):
    """Results, logs and state are the same to the bit."""
    assert read_results(workdir) == read_results(whole)
    assert read_lines(workdir) == read_lines(whole)
    assert read_tensorboard(workdir) == read_tensorboard(whole)
    jax.tree.map(
        np.testing.assert_array_equal, last_state(workdir, **changes), last_state(whole, **changes)
    )
