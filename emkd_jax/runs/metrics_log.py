"""What a run records while it trains: metrics.jsonl, and what people look at meanwhile."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.config.options import flatten
from emkd_jax.data.atomic import atomic_file, is_remote
from emkd_jax.runs.sinks import open_sinks
from emkd_jax.runs.workdir import writing


class MetricsLog:
    """Writes an event a line, and shows it in the sinks; only process 0 writes."""

    def __init__(self, folder: epath.Path, step: int, config: ml_collections.ConfigDict):
        """Continues after `step`; events that an interrupted run logged beyond it are dropped.

        Raises:
          RunError: the disk is full or gone.
        """
        self._file = folder / 'metrics.jsonl'
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        with writing(self._file):
            kept = [  # the test ends a run, so it comes again
                event
                for event in read_log(folder)
                if event['step'] <= step and event['kind'] != 'test'
            ]
            with atomic_file(self._file) as partial:
                partial.write_text(''.join(f'{json.dumps(event)}\n' for event in kept))
            self._sinks = open_sinks(config.log.sinks, folder, flatten(config.to_dict()), step)

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Logs `values`; nested mappings become 'a/b' in the sinks.

        Raises:
          RunError: the disk is full or gone.
        """
        if not self._writes:
            return
        line = json.dumps({'kind': kind, 'step': step, 'epoch': epoch, **values})
        with writing(self._file):
            if not self._file.exists():  # it would be created again, and nobody would notice
                raise FileNotFoundError(errno.ENOENT, 'it is gone')
            if is_remote(self._file):  # opening a remote file to append would empty it
                self._file.write_text(f'{self._file.read_text()}{line}\n')
            else:
                with self._file.open('a') as file:
                    file.write(f'{line}\n')
                    file.flush()
                    os.fsync(file.fileno())
            scalars = dict(_scalars(values, f'{kind}/'))
            for sink in self._sinks:
                sink.write(step, scalars)

    def close(self) -> None:
        """Ends what is shown in the sinks."""
        if self._writes:
            for sink in self._sinks:
                sink.close()


def read_log(folder: epath.Path) -> list[dict[str, Any]]:
    """The events in metrics.jsonl; a line that was cut off when a process was killed is skipped."""
    file = folder / 'metrics.jsonl'
    lines = file.read_bytes().decode(errors='replace').splitlines() if file.exists() else []
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {'kind', 'step', 'epoch'} <= event.keys():
                events.append(event)
    return events


def _scalars(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f'{prefix}{name}/')
        elif isinstance(value, int | float) and math.isfinite(value):
            yield prefix + name.replace('@', '_at_'), value  # no sink takes @
