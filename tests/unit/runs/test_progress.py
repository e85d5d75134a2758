"""What the user sees while a model trains."""

import re
import time

import pytest

from emkd_jax.runs import progress
from emkd_jax.runs.progress import ProgressBar, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    yield now
    assert time.monotonic is progress.time.monotonic


@pytest.mark.parametrize(('steps', 'told'), [(100, False), (1_000_000, True)])
def test_a_long_training_is_told_once_with_a_way_out(capsys, clock, steps, told):
    bar = ProgressBar(steps, 0, 4.0, 'toys')
    for step in (1, 2, 3, 4, 5):
        clock[0] += 15.0
        bar.show(step, 1, {'total': 1.0})
    bar.close()
    shown = capsys.readouterr().err
    assert shown.count('Training takes about 174 days at this speed') == told
    assert shown.count('--config=toys:quick') == told


def test_loss_and_best_fit_into_80_columns(capsys):
    bar = ProgressBar(100_000, 0, 4.0, 'toys')
    bar.show(10, 2, {'total': 22.123456, 'next_item': 22.1, 'kd': 0.0}, 0.0834)
    bar.close()
    shown = capsys.readouterr().err
    assert 'compiling' in shown
    assert 'epoch 2' in shown
    assert 'loss=22.12, best=0.0834' in shown
    assert max(map(len, re.split(r'[\r\n]', shown))) <= 80


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(59.0, '59 seconds'), (600.0, '10 minutes'), (7201.0, '2 hours'), (6e5, '7 days')],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
