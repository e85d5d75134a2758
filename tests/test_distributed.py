"""Two processes of two devices each: one run, which stops, resumes and ends as one."""

import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soak
from launches import ROOT, Launch, last_state, read_lines, read_results, run, said, small_config

from emkd_jax import devices
from emkd_jax.errors import RunError, UserError
from emkd_jax.experiment import make_experiment
from emkd_jax.trainer import NOTHING, Trainer

pytestmark = pytest.mark.soak

# What JAX prints when it ends a process whose peer is gone, or we where a collective told us.
LOST = 'another task died|lost another one of the run'
HEARTBEAT = 10  # seconds


class Pair:
    """Two launches of the same run."""

    def __init__(self, workdir, changes=None, **more):
        flags = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
        self.launches = [
            Launch(
                workdir, changes, devices=2, flags=[*flags, f'--process_id={i}'],
                before=f'import emkd_jax.devices as d; d.HEARTBEAT = {HEARTBEAT}', **more,
            ) for i in range(2)
        ]

    def end(self):
        """Exit codes and standard errors of both."""
        (a, _, err_a), (b, _, err_b) = (launch.end() for launch in self.launches)
        return (a, b), (err_a, err_b)


def free_port():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def stop(workdir, launch):
    """Asks a launch to stop as soon as it writes a checkpoint."""
    launch.wait_for_save()
    launch.kill(signal.SIGTERM)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """The workdir of a pair of which one was asked to stop."""
    folder = tmp_path_factory.mktemp('runs') / 'pair'
    pair = Pair(folder)
    stop(folder, pair.launches[1])
    codes, errors = pair.end()
    assert codes == (143, 143), errors
    assert said(errors[0]) == said(errors[1])
    assert 'its state is saved' in said(errors[0])
    return folder


def test_sigterm_to_one_saves_on_both_what_one_process_would_have_reached(stopped):
    state = last_state(stopped)
    experiment = make_experiment(small_config())
    trainer = Trainer(experiment, experiment.initial_state(), {'steps': 0, 'seconds': 0})
    while trainer.step < state.step:
        end = (trainer.step // trainer.per_epoch + 1) * trainer.per_epoch
        trainer.advance_to(min(end, int(state.step)), lambda: NOTHING, lambda: None)
    alone = jax.device_get(trainer.state)
    assert jax.device_count() == 4
    assert_close(state, alone)


def assert_close(state, other):
    """The same state up to the order of floating-point sums."""
    assert state.step == other.step
    for name in state.sums:
        np.testing.assert_allclose(state.sums[name], other.sums[name], rtol=1e-4, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), state.params, other.params
    )


def test_killing_one_ends_the_other_with_a_message(stopped, tmp_path):
    pair = Pair(stopped, {})
    pair.launches[0].wait_for_save()
    pair.launches[1].kill()
    killed = time.monotonic()
    code, _, err = pair.launches[0].end()
    assert code not in (0, 143)
    assert re.search(LOST, err), err
    assert 'Traceback' not in err
    assert time.monotonic() - killed < 6 * HEARTBEAT
