"""Runs small enough for tests, in this process, and what they leave."""

import json
import os
import signal
import time

from configs import quickstart
from emkd_jax.runs.progress import ProgressBar
from emkd_jax.runs.signals import StopSignals

TIMES = ('seconds', 'sequences_per_second')


def small_config(**changes):
    """15 steps of 3 epochs; `changes` are written `train__num_epochs=8`."""
    config = quickstart.get_config()
    config.model.hidden_dim = 16
    config.model.num_blocks = 1
    config.ensemble.num_networks = 2
    config.objective.num_views = 2
    config.train.batch_size = 112  # 5 steps an epoch
    config.train.steps_per_dispatch = 1  # so that a test can stop after any step
    config.train.num_epochs = 3
    config.eval.first_epoch = config.eval.every_epochs = 1
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config


def lines(folder, kind=None):
    """metrics.jsonl without what depends on the clock."""
    events = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [
        {k: v for k, v in event.items() if k not in TIMES}
        for event in events
        if kind in (None, event['kind'])
    ]


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal once `step` steps are shown, and waits until it is heard."""
    show, enter = ProgressBar.show, StopSignals.__enter__
    entered = []

    def show_and_stop(self, now, *args):
        show(self, now, *args)
        if now == step:
            os.kill(os.getpid(), number)
            while not entered[-1].requested:
                time.sleep(0.001)

    def enter_known(self):
        entered.append(self)
        return enter(self)

    monkeypatch.setattr(StopSignals, '__enter__', enter_known)
    monkeypatch.setattr(ProgressBar, 'show', show_and_stop)
