"""Sends train steps to the devices, many at a time, and reads their reports a dispatch later."""

import enum
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
import numpy as np
from jaxtyping import Int32, PyTree

from emkd_jax.data.packing import Packing
from emkd_jax.data.windows import Windows
from emkd_jax.errors import RunError
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.training import placement
from emkd_jax.training.batches import steps_per_epoch
from emkd_jax.training.dispatch import Progress, compile_train_steps
from emkd_jax.training.state import TrainState, unstack_states
from emkd_jax.training.step import TrainingData, finite_checked

# The steps of a dispatch on a CPU are as many as take this time, within these bounds.
_DISPATCH_SECONDS = 0.5
_FEWEST_STEPS, _MOST_STEPS = 4, 64


class Request(enum.IntEnum):
    """A request of one host to all hosts. The highest one counts."""

    NONE = 0
    SAVE = 1
    STOP = 2


class Trainer:
    """The state of a stack of runs on the devices, and their progress.

    Attributes:
      step: the number of optimizer steps done.
      per_epoch: the number of steps of an epoch.
      num_steps: the number of steps of the whole run.
      means: for each run, the mean of each of `state.sums_of` over the steps of this epoch so far.
      timed: the 'steps' that were timed and their 'seconds'. The first dispatch of each process
        compiles, and is not timed.
      speed: sequences per second of each run in the last `advance_to`. It is None if no step was
        timed.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        ensemble: Ensemble,
        rows: Windows | Packing,
        item_attributes: Int32[np.ndarray, 'items most'],
        states: TrainState,
        varying: HyperParameters,
        names: Sequence[str],
        timed: dict[str, int | float],
        teacher: tuple[Ensemble, PyTree] | None = None,
    ):
        """Puts states and training data on all devices.

        Args:
          config: the options of the first run.
          ensemble: the networks.
          rows: the training windows, or packed rows.
          item_attributes: the attribute ids of every item, padded with -1.
          states: the stacked states to start from, all after the same step.
          varying: the hyper-parameters in which the runs differ; see `TrainingData`.
          names: the name of each run. A run that trains alone has the name ''.
          timed: the value of `timed` with which earlier processes of the runs ended.
          teacher: the ensemble that teaches, and its parameters as host arrays.
        """
        self.per_epoch = steps_per_epoch(len(rows), config.train.batch_size)
        self.num_steps = config.train.num_steps or config.train.num_epochs * self.per_epoch
        self.step = int(np.max(states.step))
        self.means: list[dict[str, float]] = [{} for _ in names]
        self.timed = timed
        self.speed: float | None = None
        self._names, self._batch_size = names, config.train.batch_size
        # On a CPU a step may take seconds, and fake devices must not queue dispatches. Each
        # dispatch allocates its temporary memory anew, though, so steps share one: a few at first,
        # and then what takes half a second. Hosts that train together must agree, and their clocks
        # do not, so they stay with a few.
        self._queues = jax.default_backend() != 'cpu'
        self._dispatch = config.train.steps_per_dispatch or (16 if self._queues else _FEWEST_STEPS)
        self._adapts = not (
            config.train.steps_per_dispatch or self._queues or jax.process_count() > 1
        )
        self._devices = jax.devices()
        taught_by, teacher_params = teacher or (None, None)
        self._checked = finite_checked(ensemble)
        self._sequences_per_row = 1.0
        lengths = None
        if isinstance(rows, Packing):
            self._sequences_per_row = len(rows.piece_starts) / len(rows)
        else:
            lengths = rows.lengths
        self._advance = compile_train_steps(config, ensemble, lengths, self._devices, taught_by)
        data = TrainingData(rows, item_attributes, varying, teacher_params)
        self._data = placement.replicate(data, self._devices)
        self._requests = [placement.fill(request, self._devices) for request in Request]
        self._counts: dict[int, jax.Array] = {}
        self._compiled = False
        self._ordered = 0  # the epoch of `_order`
        states = _without_axis_of_one(states)
        self._shards = ensemble.shards
        self._shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), states)
        self._states = placement.place(states, self._devices, self._shards)

    @property
    def sequences_per_step(self) -> float:
        """Training sequences (windows, or pieces of histories) in a step, on average."""
        return self._batch_size * self._sequences_per_row

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 1."""
        return self.step // self.per_epoch + 1

    def advance_to(
        self, stop: int, request: Callable[[], Request], on_dispatch: Callable[[], None]
    ) -> Request:
        """Trains to step `stop`, or less far if a process requests something before it.

        Args:
          stop: the step to stop after, at most the last one of this epoch.
          request: a function that returns the request of this process. It is called before every
            dispatch.
          on_dispatch: a function that is called after every dispatch.

        Returns:
          The highest request of all processes. No step is in flight after the return.

        Raises:
          RunError: a loss or gradient was not finite.
        """
        began, first = time.monotonic(), self.step
        pending: list[Progress] = []
        granted = Request.NONE
        while self.step < stop and not granted:
            count, sent = min(self._dispatch, stop - self.step), time.monotonic()
            if self._ordered != self.epoch:  # once an epoch, since large logs sort for seconds
                self._order = self._advance.order(self._states, self._data, self._requests[0])
                self._ordered = self.epoch
            with jax.transfer_guard('disallow'):
                self._states, progress = self._advance(
                    self._states,
                    self._data,
                    self._count(count),
                    self._requests[request()],
                    self._order,
                )
            self.step += count
            pending.append(progress)
            while len(pending) > (1 if self._queues and self._compiled else 0):
                granted = max(granted, self._read(pending.pop(0)))
            if not self._compiled:
                self._compiled, began, first = True, time.monotonic(), self.step
            elif self._adapts:
                taken = max(time.monotonic() - sent, 1e-6)  # a clock may stand still that long
                fitting = _DISPATCH_SECONDS * count / taken
                self._dispatch = int(min(max(fitting, _FEWEST_STEPS), _MOST_STEPS))
            on_dispatch()
        while pending:
            granted = max(granted, self._read(pending.pop(0)))
        steps, seconds = self.step - first, time.monotonic() - began
        self.timed = {
            'steps': self.timed['steps'] + steps,
            'seconds': self.timed['seconds'] + seconds,
        }
        self.speed = steps * self.sequences_per_step / seconds if steps else None
        return granted

    def unstacked(self) -> list[TrainState]:
        """Returns the state of each run, as host arrays."""
        states = placement.joined(self._states, self._shapes, self._devices, self._shards)
        return [states] if len(self._names) == 1 else unstack_states(states)

    def params(self) -> Iterator[PyTree]:
        """Yields the parameters of each run that are validated, on all devices."""
        if len(self._names) == 1:
            yield self._states.kept
            return
        for r in range(len(self._names)):
            yield placement.take(self._states.kept, r, self._devices, self._shards)

    def _count(self, count: int) -> jax.Array:
        with jax.transfer_guard('allow'):
            if count not in self._counts:
                self._counts[count] = placement.replicate(np.int32(count), self._devices)
            return self._counts[count]

    def _read(self, progress: Progress) -> Request:
        progress = jax.device_get(progress)
        steps, all_broken = np.atleast_1d(progress.step), np.atleast_2d(progress.broken)
        for name, step, broken in zip(self._names, steps, all_broken, strict=True):
            if broken.any():
                parts = ', '.join(np.array(self._checked)[broken])
                of_run = f' of {name}' if name else ''
                raise RunError(
                    f'Step {step + 1}{of_run}: {parts} not finite; the checkpoints before it are '
                    'kept: lower optimizer.learning_rate, or use model.dtype=float32.'
                )
        count = (int(steps.max()) - 1) % self.per_epoch + 1
        sums = {name: np.atleast_1d(values) for name, values in progress.sums.items()}
        self.means = [
            {name: float(values[r]) / count for name, values in sums.items()}
            for r in range(len(self._names))
        ]
        return Request(int(progress.request))


def _without_axis_of_one(states: TrainState) -> TrainState:
    """Returns a stack of one as the state of that run, which needs less memory; see `dispatch`."""
    if len(states.step) > 1:
        return states
    return jax.tree.map(lambda leaf: leaf[0], states)
