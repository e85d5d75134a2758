"""Sends train steps to the devices, many at a time, and reads what they report a dispatch late."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree

from emkd_jax.errors import RunError
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.teacher import Teacher
from emkd_jax.training import placement
from emkd_jax.training.step import (
    CHECKED,
    Progress,
    TrainingData,
    TrainState,
    make_train_steps,
    steps_per_epoch,
)
from emkd_jax.training.sweep import Together

_STEPS_ON_CPU = 4
NOTHING, SAVE, STOP = range(3)  # what one process may wish of all


class Trainer:
    """The devices' side of a run, or of several that train together: the state, and how far it is.

    Attributes:
      state: stacked where there are several runs.
      step: optimizer steps done.
      per_epoch: steps of an epoch.
      num_steps: steps of the whole run.
      means: for each run, of what a step reports (`step.SUMS`), over this epoch so far.
      timed: 'steps' taken and the 'seconds' they took, without each process's first dispatch, which
        compiles.
      speed: sequences/s of each run in the last call of `advance_to`; None if it timed nothing.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        timed: dict[str, int | float],
        together: Together | None = None,
        teacher: Teacher | None = None,
    ):
        """Puts `state` (host arrays) and the training data on all devices.

        Args:
          experiment: what is trained; of several runs the first one's.
          state: to go on from; stacked where there are several runs.
          timed: of the processes that led there.
          together: the runs, where there are several; all are equally far.
          teacher: what a student learns from.
        """
        config, windows = experiment.config, experiment.windows
        self.per_epoch = steps_per_epoch(len(windows), config.train.batch_size)
        self.num_steps = config.train.num_steps or config.train.num_epochs * self.per_epoch
        self.step = int(np.max(state.step))
        self._runs = together.names if together else ('',)
        self.means = [{}] * len(self._runs)
        self.timed, self.speed = timed, None
        self._batch_size = config.train.batch_size
        # On the CPU a step may take seconds, and fake devices want no queue of dispatches; but each
        # dispatch maps its temporary memory anew, so that a few steps share it.
        self._queues = jax.default_backend() != 'cpu'
        self._dispatch = config.train.steps_per_dispatch
        if not self._queues:
            self._dispatch = min(self._dispatch, _STEPS_ON_CPU)
        self._devices = jax.devices()
        self._advance = make_train_steps(
            config,
            experiment.ensemble,
            experiment.optimizer,
            (windows > 0).sum(1),
            self._devices,
            teacher and teacher.ensemble,
        )
        data = TrainingData(
            windows,
            experiment.data.item_attributes,
            together and together.settings,
            teacher and teacher.params,
        )
        self._data = placement.replicate(data, self._devices)
        self._wishes = [placement.fill(wish, self._devices) for wish in (NOTHING, SAVE, STOP)]
        self._counts = {}
        self._compiled = False
        self.state = placement.replicate(state, self._devices)

    def advance_to(self, stop: int, wish: Callable[[], int], watch: Callable[[], None]) -> int:
        """Trains to step `stop`, or less far if any process wished something before it.

        Args:
          stop: at most the end of this epoch.
          wish: what this process wishes now: NOTHING, SAVE or STOP.
          watch: called after every dispatch.

        Returns:
          The strongest wish, the same on every process. Nothing is under way any more.

        Raises:
          RunError: loss or gradients were not finite.
        """
        began, first = time.monotonic(), self.step
        pending = []
        granted = NOTHING
        while self.step < stop and not granted:
            count = min(self._dispatch, stop - self.step)
            with jax.transfer_guard('disallow'):
                self.state, progress = self._advance(
                    self.state, self._data, self._count(count), self._wishes[wish()]
                )
            self.step += count
            pending.append(progress)
            while len(pending) > (1 if self._queues and self._compiled else 0):
                granted = max(granted, self._read(pending.pop(0)))
            if not self._compiled:
                self._compiled, began, first = True, time.monotonic(), self.step
            watch()
        while pending:
            granted = max(granted, self._read(pending.pop(0)))
        steps, seconds = self.step - first, time.monotonic() - began
        self.timed = {
            'steps': self.timed['steps'] + steps,
            'seconds': self.timed['seconds'] + seconds,
        }
        self.speed = steps * self._batch_size / seconds if steps else None
        return granted

    def states(self) -> list[TrainState]:
        """Each run's state: host arrays where there are several."""
        if self._data.settings is None:
            return [self.state]
        host = jax.device_get(self.state)
        return [jax.tree.map(lambda x: x[r], host) for r in range(len(self._runs))]  # noqa: B023

    def params(self) -> Iterator[PyTree]:
        """Each run's parameters, on all devices."""
        if self._data.settings is None:
            yield self.state.params
            return
        for r in range(len(self._runs)):
            yield placement.take(self.state.params, r, self._devices)

    def _count(self, count):
        with jax.transfer_guard('allow'):
            if count not in self._counts:
                self._counts[count] = placement.replicate(np.int32(count), self._devices)
            return self._counts[count]

    def _read(self, progress: Progress) -> int:
        progress = jax.device_get(progress)
        for run, step, broken in zip(
            self._runs, np.ravel(progress.step), np.atleast_2d(progress.broken), strict=True
        ):
            if broken.any():
                names = ', '.join(np.array(CHECKED)[broken])
                raise RunError(
                    f'Step {step + 1}{run and f" of {run}"}: {names} not finite; the checkpoints '
                    'before it are kept: lower optimizer.learning_rate, or use '
                    'model.dtype=float32.'
                )
        steps = (int(np.max(progress.step)) - 1) % self.per_epoch + 1
        sums = {name: np.ravel(values) for name, values in progress.sums.items()}
        self.means = [
            {name: float(values[r]) / steps for name, values in sums.items()}
            for r in range(len(self._runs))
        ]
        return int(progress.request)
