"""What a run tells people: progress bar, metrics.jsonl, TensorBoard and tables."""

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import tqdm
from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from emkd_jax.runs.workdir import is_remote, writing

_SHOWN = ('total', 'masked_items', 'kd', 'attributes', 'icl', 'ccl')


class MetricsLog:
    """metrics.jsonl and TensorBoard, one line an event; process 0 alone writes."""

    def __init__(self, folder: epath.Path, step: int):
        """Goes on after `step`: what an interrupted run logged beyond it will be logged again.

        Raises:
          RunError: the disk is full or gone.
        """
        self._file = folder / 'metrics.jsonl'
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        with writing(self._file):
            kept = [  # the test ends a run
                event
                for event in read_log(folder)
                if event['step'] <= step and event['kind'] != 'test'
            ]
            partial = folder / f'{self._file.name}.partial'
            partial.write_text(''.join(f'{json.dumps(event)}\n' for event in kept))
            partial.replace(self._file)
            (folder / 'tensorboard').mkdir(exist_ok=True)
            # Not its SummaryWriter: that writes in a thread, where a full disk is not noticed.
            self._events = event_file_writer.EventsWriter(str(folder / 'tensorboard' / 'events'))
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(step + 1, session_log=started)  # TensorBoard forgets what was beyond it
            self._events.flush()

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Logs `values`; nested mappings become 'a/b' in TensorBoard.

        Raises:
          RunError: the disk is full or gone.
        """
        if not self._writes:
            return
        line = json.dumps({'kind': kind, 'step': step, 'epoch': epoch, **values})
        with writing(self._file):
            if not self._file.exists():  # it would be made anew, and nobody would notice
                raise FileNotFoundError(errno.ENOENT, 'it is gone')
            if is_remote(self._file):  # opening to append would empty it
                self._file.write_text(f'{self._file.read_text()}{line}\n')
            else:
                with self._file.open('a') as file:
                    file.write(f'{line}\n')
                    file.flush()
                    os.fsync(file.fileno())
            for name, value in _scalars(values, f'{kind}/'):
                self._event(step, summary=summary.scalar(name, value))
            self._events.flush()

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self._writes:
            self._events.close()

    def _event(self, step, **content):
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))


def read_log(folder: epath.Path) -> list[dict[str, Any]]:
    """The events in metrics.jsonl; one that was cut off, when a process was killed, is no event."""
    file = folder / 'metrics.jsonl'
    lines = file.read_bytes().decode(errors='replace').splitlines() if file.exists() else []
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {'kind', 'step', 'epoch'} <= event.keys():
                events.append(event)
    return events


class ProgressBar:
    """Epoch, loss parts, sequences/s and time left, on standard error."""

    def __init__(self, num_steps: int, step: int, batch_size: int):
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=step,
            unit='step',
            disable=jax.process_index() != 0,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=1.0,
        )
        self._batch_size = batch_size

    def show(self, step: int, epoch: int, means: Mapping[str, float]) -> None:
        """Moves to `step`, in epoch `epoch`, with the means of the objective's parts there."""
        shown = {name: f'{value:.4g}' for name, value in means.items() if name in _SHOWN}
        if rate := self._bar.format_dict['rate']:
            shown['sequences/s'] = f'{rate * self._batch_size:.0f}'
        self._bar.set_description(f'epoch {epoch}', refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._bar.close()


def say(text: str) -> None:
    """A line to standard output from process 0, clear of the progress bar."""
    if jax.process_index() != 0:
        return
    tqdm.tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """A line to standard error, clear of the progress bar."""
    tqdm.tqdm.write(f'Warning: {text}', file=sys.stderr)
    sys.stderr.flush()


def banner(text: str) -> str:
    """`text` in a frame that nobody overlooks."""
    rule = '=' * min(100, len(text))
    return f'{rule}\n{text}\n{rule}'


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics by name, a row each; columns are those of the first row."""
    columns = list(next(iter(rows.values())))
    width = max(len(name) for name in rows)
    lines = [' ' * width + ''.join(f'{column:>9}' for column in columns)]
    for name, values in rows.items():
        lines.append(f'{name:<{width}}' + ''.join(f'{values[c]:>9.4f}' for c in columns))
    return '\n'.join(lines)


def _scalars(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f'{prefix}{name}/')
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield prefix + name.replace('@', '_at_'), value  # TensorBoard refuses @
