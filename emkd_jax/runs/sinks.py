"""Where the figures of a run are shown while it trains: TensorBoard, W&B, MLflow or trackio.

metrics.jsonl is always written and is what the project itself reads. A sink is for people. All but
TensorBoard are services with their own ways to fail, so whatever goes wrong in one is said once and
never stops a run.
"""

import functools
import importlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from etils import epath

from emkd_jax.cli.console import warn
from emkd_jax.errors import UserError, import_extra

PROJECT = 'emkd_jax'  # the project, or experiment, that runs are collected in
_ID = 'tracker_id'  # the file by which a run that goes on is found again


@runtime_checkable
class Sink(Protocol):
    """Something that shows figures."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step by name."""

    def close(self) -> None:
        """Ends the run."""


class TensorBoard:
    """A file for TensorBoard in the workdir. A full disk is an error, as for metrics.jsonl."""

    def __init__(self, folder: epath.Path, step: int):
        """Continues after `step`."""
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2

        (folder / 'tensorboard').mkdir(exist_ok=True)
        # Not its SummaryWriter, which writes in a thread, where a full disk is not noticed.
        self._events = event_file_writer.EventsWriter(str(folder / 'tensorboard' / 'events'))
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step + 1, session_log=started)  # TensorBoard forgets what was beyond it
        self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step by name."""
        from tensorboardX import summary

        for name, value in values.items():
            self._event(step, summary=summary.scalar(name, value))
        self._events.flush()

    def close(self) -> None:
        """Ends the file."""
        self._events.close()

    def _event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))


class _LoggingRun:
    """What W&B and trackio have in common: `_run`, which takes dictionaries."""

    _run: Any

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step by name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Wandb(_LoggingRun):
    """A run in W&B."""

    def __init__(self, folder: epath.Path, config: Mapping[str, Any], name: str, identity: str):
        self._run = importlib.import_module('wandb').init(
            project=PROJECT,
            name=name,
            id=identity,
            resume='allow',
            config=dict(config),
            dir=str(folder),
            reinit='create_new',
        )


class Mlflow:
    """A run in MLflow, in the experiment of the project unless MLFLOW_EXPERIMENT_NAME is set."""

    def __init__(self, folder: epath.Path, config: Mapping[str, Any], name: str, identity: str):
        mlflow = importlib.import_module('mlflow')
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        runs = self._client.search_runs([experiment], f"tags.{_ID} = '{identity}'")
        tags = {_ID: identity}
        run = runs[0] if runs else self._client.create_run(experiment, run_name=name, tags=tags)
        self._id, self._entities = run.info.run_id, mlflow.entities
        for key, value in () if runs else config.items():
            self._client.log_param(self._id, key, value)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step by name."""
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, v, now, step) for name, v in values.items()]
        self._client.log_batch(self._id, metrics)

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id)


class Trackio(_LoggingRun):
    """A run in trackio."""

    def __init__(self, folder: epath.Path, config: Mapping[str, Any], name: str, identity: str):
        self._run = importlib.import_module('trackio').init(
            project=PROJECT, name=f'{name}-{identity}', config=dict(config), resume='allow'
        )


_TRACKERS: dict[str, Callable[[epath.Path, Mapping[str, Any], str, str], Sink]] = {
    'wandb': Wandb,
    'mlflow': Mlflow,
    'trackio': Trackio,
}
SINKS = ('tensorboard', *_TRACKERS)


class _Forgiving:
    """A sink whose failure is said once, and which is silent from then on."""

    def __init__(self, kind: str, make: Callable[[], Sink]):
        self._kind, self._sink = kind, None
        self._sink = self._try(make)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step by name."""
        if (sink := self._sink) is not None:
            self._try(lambda: sink.write(step, values))

    def close(self) -> None:
        """Ends the run."""
        if (sink := self._sink) is not None:
            self._try(sink.close)

    def _try(self, action):
        try:
            return action()
        except Exception as error:  # every service has its own kinds
            text = ' '.join(str(error).split())[:200].rstrip('.')
            self._sink = None
            warn(f'{self._kind} failed ({text}); the run goes on without it.')
            return None


def check_sinks(sinks: str) -> list[str]:
    """The names in `log.sinks`, such as 'tensorboard,wandb'.

    Raises:
      UserError: one is not known, or what it needs is not installed.
    """
    names = [name.strip() for name in sinks.split(',') if name.strip()]
    for name in names:
        if name not in SINKS:
            raise UserError(
                f"log.sinks has '{name}'; use {', '.join(SINKS)}, with commas between them."
            )
        if name in _TRACKERS:
            import_extra(name, f'log.sinks={name}', name)
    return list(dict.fromkeys(names))


def open_sinks(sinks: str, folder: epath.Path, config: Mapping[str, Any], step: int) -> list[Sink]:
    """Opens what `log.sinks` names.

    Args:
      sinks: the option.
      folder: of the run.
      config: its options by their dotted names.
      step: the step after which it goes on.
    """
    opened: list[Sink] = []
    for name in check_sinks(sinks):
        if name == 'tensorboard':
            opened.append(TensorBoard(folder, step))
        else:
            arguments = folder, config, folder.name, _identity(folder)
            opened.append(_Forgiving(name, functools.partial(_TRACKERS[name], *arguments)))
    return opened


def _identity(folder: epath.Path) -> str:
    """What a run is called in a tracker, so that it goes on there after it was stopped."""
    file = folder / _ID
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12])
    return file.read_text()
