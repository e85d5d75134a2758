"""Two processes of two devices each: one run, which stops, resumes and ends as one."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from emkd_jax.analysis.speed import make_trainer
from emkd_jax.errors import HostLostError, RunError, UserError
from emkd_jax.runs import cluster
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.workdir import writing
from emkd_jax.training.trainer import Request
from tests.support import soak
from tests.support.launches import (
    ROOT,
    Launch,
    last_state,
    read_lines,
    read_results,
    run,
    said,
    small_config,
)
from tests.support.tiny import without_key_bias

LOST = 'This process has lost another one of the run .* start all again with the same command'
HEARTBEAT = 10  # seconds
PORTS = itertools.count(os.getpid() % 500)


class Pair:
    """Two launches of the same run."""

    def __init__(self, workdir, changes=None, **more):
        flags = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
        self.launches = [
            Launch(
                workdir,
                changes,
                devices=2,
                flags=[*flags, f'--process_id={i}'],
                before=f'import emkd_jax.runs.cluster as d; d.HEARTBEAT = {HEARTBEAT}',
                **more,
            )
            for i in range(2)
        ]

    def end(self):
        """Exit codes and standard errors of both."""
        (a, _, err_a), (b, _, err_b) = (launch.end() for launch in self.launches)
        return (a, b), (err_a, err_b)


def free_port():
    """A port that the system gives to nobody by itself, nor another worker of these tests."""
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])
    while True:
        port = 20_000 + 1000 * (worker % 10) + next(PORTS)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(('localhost', port))
            return port


def stop(workdir, launch):
    """Asks a launch to stop as soon as it writes a checkpoint."""
    launch.wait_for_save()
    launch.kill(signal.SIGTERM)


@pytest.fixture
def joined(monkeypatch):
    """What `join` passes to JAX, in place of passing it; it may be given an error to raise."""

    class Calls(list):
        error = None

    calls = Calls()

    def initialize(*args, **_):
        calls.append(args)
        if calls.error:
            raise calls.error

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    monkeypatch.setattr('faulthandler.disable', lambda: None)
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_what_is_said_reaches_jax(joined, monkeypatch):
    cluster.join('host:1234', 2, 1)
    monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'other:1')
    monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
    monkeypatch.setenv('JAX_PROCESS_ID', '3')
    cluster.join(None, None, None)
    cluster.join('host:1234', None, 0)
    assert joined == [('host:1234', 2, 1), ('other:1', 4, 3), ('host:1234', 4, 0)]


def test_a_lone_host_goes_on_alone(joined):
    cluster.join('host:1234', 1, 0)
    assert joined == []
    joined.error = ValueError('coordinator_address should be defined.')
    cluster.join(None, None, None)
    assert joined == [(None, None, None)]


@pytest.mark.parametrize(
    ('said', 'words'),
    [
        (('host:1234', None, None), '--coordinator=host:1234 do not say who is in this run'),
        ((None, 2, 0), '--num_processes=2, --process_id=0 do not say who'),
        (('host', 2, 0), 'must be HOST:PORT'),
        (('host:port', 2, 0), 'must be HOST:PORT'),
    ],
)
def test_what_makes_no_sense_is_said(joined, said, words):
    joined.error = ValueError('Number of processes must be defined.')
    with pytest.raises(UserError, match=words):
        cluster.join(*said)


def test_an_environment_that_makes_no_sense_is_said(joined, monkeypatch):
    monkeypatch.setenv('JAX_PROCESS_ID', 'first')
    with pytest.raises(UserError, match="JAX_PROCESS_ID is 'first'"):
        cluster.join(None, None, None)


def test_others_that_never_come_are_not_waited_for(tmp_path):
    script = (
        'import emkd_jax.runs.cluster as d; d.JOIN = 2; '
        f'd.join("localhost:{free_port()}", 2, 0); print("joined")'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, '')
    assert 'did not find one another within 2 s' in said(done.stderr)


def joined_pair(*scripts):
    """Two processes that have joined and go on with their lines of Python."""
    address = f'localhost:{free_port()}'
    pair = [
        subprocess.Popen(
            [
                sys.executable,
                '-c',
                (
                    f'import sys, time, emkd_jax.cli.main as cli, emkd_jax.runs.cluster as d; '
                    f'd.HEARTBEAT = {HEARTBEAT}; '
                    f'd.join({address!r}, 2, {i}); print("joined", flush=True)\n{script}'
                ),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, script in enumerate(scripts)
    ]
    for one in pair:
        assert one.stdout.readline() == 'joined\n'
    return pair


@pytest.mark.parametrize('lost', [0, 1])
def test_where_jax_aborts_over_a_lost_process_the_last_word_is_ours(lost):
    pair = joined_pair('time.sleep(120)', 'time.sleep(120)')
    pair[lost].kill()
    _, err = pair[1 - lost].communicate(timeout=300)
    assert pair[1 - lost].returncode == HostLostError.exit_code
    assert re.search(LOST, said(err))
    pair[lost].communicate()


def test_a_fault_of_ours_in_one_process_ends_both():
    fault = 'cli._run = lambda _: {}["fault"]\nsys.exit(cli.main([]))'
    waiting, faulty = joined_pair('time.sleep(120)', fault)
    _, err = faulty.communicate(timeout=300)
    assert faulty.returncode == 1
    assert "KeyError: 'fault'" in err
    _, err = waiting.communicate(timeout=300)
    assert waiting.returncode == HostLostError.exit_code
    assert re.search(LOST, said(err))


def test_what_process_0_says_reaches_the_other():
    script = 'print(d.of_process_0([[7, None], {"é": 1.5}] if d.jax.process_index() == 0 else 3))'
    for one in joined_pair(script, script):
        out, err = one.communicate(timeout=300)
        assert out.splitlines()[-1] == "[[7, None], {'é': 1.5}]", err


def test_nothing_is_said_after_the_sentence():
    script = (
        'import atexit, emkd_jax.runs.cluster as d; from emkd_jax.errors import RunError; '
        'atexit.register(print, "late"); d.leave(RunError("the sentence"))'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, '', '')


def test_no_memory_is_said():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.numpy.zeros(2**45).block_until_ready()
    explained = cluster.explain(caught.value)
    assert isinstance(explained, RunError)
    assert '--config.train.batch_size' in str(explained)
    assert isinstance(cluster.explain(MemoryError()), RunError)


def test_a_broken_collective_means_a_lost_host_only_where_there_are_several(monkeypatch):
    error = jax.errors.JaxRuntimeError('UNKNOWN: Gloo all-reduce failed: closed\nmore')
    assert cluster.explain(error) is None
    monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
    explained = cluster.explain(error)
    assert isinstance(explained, HostLostError)
    assert str(explained).count('\n') == 0
    assert cluster.explain(ValueError('an error of ours')) is None
    # As JAX has it on CPUs, while a checkpoint is written.
    plain = ValueError('UNKNOWN: Gloo AllGather failed: closed')
    assert isinstance(cluster.explain(plain), HostLostError)
    with pytest.raises(ValueError, match='Gloo'), writing(epath.Path('checkpoints')):
        raise plain


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


@pytest.mark.soak
def test_sigterm_to_one_saves_on_both_what_one_process_would_have_reached(stopped):
    state = last_state(stopped)
    assert jax.device_count() == 4
    assert_close(state, trained_alone(state.step))


def trained_alone(step):
    """The state after `step`, trained by this process."""
    trainer = make_trainer(make_experiment(small_config()))
    while trainer.step < step:
        end = (trainer.step // trainer.per_epoch + 1) * trainer.per_epoch
        trainer.advance_to(min(end, int(step)), lambda: Request.NONE, lambda: None)
    [alone] = trainer.unstacked()
    return alone


def assert_close(state, other):
    """The same state up to the order of floating-point sums."""
    assert state.step == other.step
    for name in state.sums:
        np.testing.assert_allclose(state.sums[name], other.sums[name], rtol=1e-4, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
        without_key_bias(state.params),
        without_key_bias(other.params),
    )


@pytest.mark.soak
def test_several_runs_train_on_several_hosts(tmp_path):
    changes = {'train__num_seeds': 2, 'train__num_epochs': 1}
    codes, errors = Pair(tmp_path / 'pair', changes).end()
    assert codes == (0, 0), errors
    train(small_config(**changes), workdir=str(tmp_path / 'one'))
    alike = {'seed': 1, 'train__num_epochs': 1}
    assert_close(*(last_state(tmp_path / name / 'seed_1', **alike) for name in ('pair', 'one')))
    assert read_results(tmp_path / 'pair')['tried'][0]['seeds'] == [0, 1]


@pytest.mark.soak
def test_a_stopped_pair_goes_on_to_the_end(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / 'run')
    codes, errors = Pair(tmp_path / 'run').end()
    assert codes == (0, 0), errors
    steps = sorted(int(path.name) for path in (tmp_path / 'run' / 'checkpoints').iterdir())
    assert steps[-2:] == [34, 36]


@pytest.mark.soak
@pytest.mark.parametrize('split', [False, True], ids=['whole tables', 'split tables'])
def test_killing_one_ends_the_other_with_a_message(stopped, tmp_path, split):
    shutil.copytree(stopped, tmp_path / 'run')
    pair = Pair(tmp_path / 'run', {'ensemble__shard_items': split})
    pair.launches[0].wait_for_save()
    pair.launches[1].kill()
    killed = time.monotonic()
    code, _, err = pair.launches[0].end()
    assert code == HostLostError.exit_code
    assert re.search(LOST, said(err))
    assert time.monotonic() - killed < 6 * HEARTBEAT


@pytest.mark.soak
@pytest.mark.skipif(not soak.FILE, reason='long')
def test_a_run_moves_from_machine_to_machine(tmp_path):
    whole, moved = tmp_path / 'whole', tmp_path / 'moved'
    assert run(whole)[0] == 0
    for number in (8, 2, 1):
        launch = Launch(moved, devices=number)
        stop(moved, launch)
        code, _, err = launch.end()
        assert code == 143, err
    codes, errors = Pair(moved).end()
    assert codes == (0, 0), errors
    assert_close(last_state(moved), last_state(whole))
    for one, other in zip(read_lines(moved), read_lines(whole), strict=True):
        assert [one[k] for k in ('kind', 'step', 'epoch')] == [
            other[k] for k in ('kind', 'step', 'epoch')
        ]
    ndcg = [read_results(folder)['test']['window']['NDCG@10'] for folder in (moved, whole)]
    assert ndcg[0] == pytest.approx(ndcg[1], abs=0.01)
    soak.record(
        'elastic',
        devices='8 -> 2 -> 1 -> 2 processes of 2',
        state='equal up to the order of sums',
        test_NDCG_at_10=ndcg,
    )


@pytest.mark.soak
def test_item_tables_are_split_over_several_hosts(stopped, tmp_path):
    """A run goes on with its tables split over two processes, and ends where it would have."""
    folder, split = tmp_path / 'split', {'ensemble__shard_items': True}
    shutil.copytree(stopped, folder)
    pair = Pair(folder, split)
    stop(folder, pair.launches[0])
    codes, errors = pair.end()
    assert codes == (143, 143), errors
    codes, errors = Pair(folder, split).end()
    assert codes == (0, 0), errors
    alone = trained_alone(last_state(folder).step)
    assert_close(last_state(folder), alone)
    lines = [line for line in read_lines(folder) if line['kind'] == 'validation']
    best = max(line['ensemble']['window']['NDCG@10'] for line in lines)
    assert read_results(folder)['best_validation'] == best
