"""Signals: a request first, an order the second time, and an order while nothing is to be saved."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support.launches import ROOT

SCRIPT = """
import sys, time
from emkd_jax.runs.signals import StopSignals
with StopSignals() as signals:
    signals.at_once = {at_once}
    print('ready', flush=True)
    while not signals.requested:
        time.sleep(0.01)
    print('requested', flush=True)
    if {second}:
        while True:
            pass
print('left', flush=True)
"""


@pytest.fixture
def process():
    """Starts the script with the given values, until it is ready."""
    started = []

    def start(**values):
        started.append(
            subprocess.Popen(
                [sys.executable, '-c', SCRIPT.format(**values)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout.readline() == 'ready\n'
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(process, number):
    one = process(at_once=False, second=False)
    one.send_signal(number)
    out, err = one.communicate(timeout=300)
    assert (one.returncode, out, err) == (0, 'requested\nleft\n', '')


def test_the_second_one_is_an_order(process):
    one = process(at_once=False, second=True)
    one.send_signal(signal.SIGTERM)
    assert one.stdout.readline() == 'requested\n'
    time.sleep(1)
    one.send_signal(signal.SIGINT)
    _, err = one.communicate(timeout=300)
    assert one.returncode == 143
    assert 'Stopped at once' in err


def test_one_order_that_comes_twice_is_one(process):
    """As `timeout` and some schedulers send it, to a process and to its group."""
    one = process(at_once=False, second=False)
    one.send_signal(signal.SIGTERM)
    one.send_signal(signal.SIGINT)
    out, err = one.communicate(timeout=300)
    assert (one.returncode, out, err) == (0, 'requested\nleft\n', '')


def test_while_there_is_nothing_to_save_the_first_one_is_an_order(process):
    one = process(at_once=True, second=False)
    one.send_signal(signal.SIGTERM)
    out, err = one.communicate(timeout=300)
    assert (one.returncode, out) == (143, '')
    assert 'nothing to save' in err


def test_afterwards_signals_are_what_they_were(process):
    script = SCRIPT.format(at_once=False, second=False) + 'time.sleep(60)'
    one = subprocess.Popen(
        [sys.executable, '-c', script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    one.stdout.readline()
    one.send_signal(signal.SIGTERM)
    assert one.stdout.readline() == 'requested\n'
    assert one.stdout.readline() == 'left\n'
    time.sleep(0.1)
    one.send_signal(signal.SIGTERM)
    one.communicate(timeout=300)
    assert one.returncode == -signal.SIGTERM
