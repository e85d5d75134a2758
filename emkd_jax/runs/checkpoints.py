"""Checkpoints with Orbax: written in the background, sealed with checksums, verified before use.

Orbax renames a checkpoint into place when it is complete; process 0 then seals it with the SHA-256
of each of its files. Only a sealed checkpoint whose files still match is restored, and only if the
best checkpoint that its record names can be trusted too. A checkpoint that cannot be trusted (a
process was killed while writing, a disk lost bytes) is moved to `set_aside/`, and the run goes on
from the one before it.
"""

import contextlib
import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from emkd_jax.cli.console import warn
from emkd_jax.data.atomic import is_remote, write_json
from emkd_jax.errors import RunError, UserError
from emkd_jax.runs.cluster import of_process_0
from emkd_jax.runs.workdir import writing
from emkd_jax.training.state import TrainState

_KEEP_LATEST = 2  # the newest one may turn out to be damaged
_RECORD, _SEAL = 'record.json', 'seal.json'
_TEMPORARY = '.orbax-checkpoint-tmp'  # part of the names of what Orbax has not completed
_INCOMPLETE = 'it was not completed'


class Checkpoints:
    """The checkpoints of one run, for the processes that train it. All must call every method.

    Attributes:
      steps: the steps whose checkpoints could be trusted when they were opened, ascending.
    """

    def __init__(self, workdir: epath.PathLike):
        """Opens `workdir/checkpoints`, and sets aside what cannot be trusted.

        Raises:
          UserError: the folder cannot be written.
          RunError: there were checkpoints, and none can be trusted.
        """
        self._root = _root(workdir)
        trusted = self._trusted() if jax.process_index() == 0 else {}
        trusted = dict(of_process_0(list(trusted.items())))
        self.steps = sorted(trusted)
        self._verified = set(trusted)  # their files were read a moment ago
        self._keep = _KeepLatestAndBest(trusted)
        self._manager = ocp.CheckpointManager(
            self._root,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep, create=True, save_interval_steps=1
            ),
        )
        self._unsealed: tuple[int, dict[str, Any]] | None = None

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        """Starts to write the state of one run and its `record`, which JSON can hold.

        Raises:
          RunError: this save or the one before it failed (disk full, folder gone).
        """
        step = int(state.step)
        self.seal(wait=True)
        self._keep.best[step] = _best(record)
        # A copy, since the next train step reuses the memory. Host arrays are process 0's to write.
        state = jax.tree.map(np.array, state)
        with writing(self._root):
            # Orbax would create the folder again, and nobody would notice.
            if not (self._root.exists() or is_remote(self._root)):
                raise FileNotFoundError(errno.ENOENT, 'it is gone')
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), force=True
            )
        self._unsealed = step, record

    def seal(self, wait: bool = False) -> None:
        """Seals the last save if it is complete; with `wait`, waits until it is.

        Raises:
          RunError: the save failed.
        """
        if self._unsealed is None or (not wait and self._manager.is_saving_in_progress()):
            return
        step, record = self._unsealed
        with writing(self._root):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                write_json(self._root / str(step) / _RECORD, record)
                write_json(self._root / str(step) / _SEAL, _digests(self._root / str(step)))
        self._unsealed = None

    def discard_after(self, step: int) -> None:
        """Deletes what was saved after `step`, from which the run goes on."""
        for later in [saved for saved in self._manager.all_steps() if saved > step]:
            self._manager.delete(later)

    def record(self, step: int) -> dict[str, Any]:
        """The record of a step that can be trusted."""
        return _read_record(self._root / str(step))

    def restore(self, step: int, shapes: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State (host arrays) and record of `step`.

        Raises:
          RunError: the checkpoint is damaged, or holds the state of another model.
        """
        folder = self._root / str(step)
        fault = None
        if step not in self._verified:  # process 0 seals, and others may come here before it has
            fault = of_process_0(_fault(folder) if jax.process_index() == 0 else None)
        self._verified.discard(step)  # much time may pass until it is read again
        if fault:
            raise _cannot_restore(folder, fault)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_zeros(shapes)))
        with _restoring(folder):
            state = self._manager.restore(step, args=args).state
            jax.tree.map(_check_shape, state, shapes)
        return state, self.record(step)

    def close(self) -> None:
        """Waits for the last save and seals it."""
        self.seal(wait=True)
        self._manager.close()

    def _trusted(self) -> dict[int, int | None]:
        """{step: its best step} of what can be trusted; the rest is set aside."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            found = _numbered(self._root)
            faults = {step: fault for step, path in found.items() if (fault := _fault(path))}
            intact = {
                step: _best(_read_record(found[step])) for step in found.keys() - faults.keys()
            }
            trusted = {step: best for step, best in intact.items() if best in {None, *intact}}
            faults |= {
                step: f'its best checkpoint, {best}, is lost'
                for step, best in intact.items()
                if step not in trusted
            }
            self._set_aside({found[step]: faults[step] for step in sorted(faults)})
            for path in self._root.glob(f'*{_TEMPORARY}*'):
                path.rmtree()
        except OSError as error:
            raise UserError(
                f'{self._root} cannot be used ({error.strerror or error}); choose another '
                '--workdir.'
            ) from error
        if faults and not trusted and set(faults.values()) != {_INCOMPLETE}:
            raise _none_trusted(self._root, faults)
        return trusted

    def _set_aside(self, faults: dict[epath.Path, str]) -> None:
        """Moves checkpoints to `set_aside`, and drops those that an earlier start moved there."""
        folder = self._root.parent / 'set_aside'
        if faults and folder.exists():
            folder.rmtree()
        for path, fault in faults.items():
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
            warn(f'Checkpoint {path.name} was moved to {folder}: {fault}.')


def read_best(
    workdir: epath.PathLike,
    shapes: TrainState,
    check: Callable[[dict[str, Any]], None] = lambda record: None,
) -> tuple[PyTree, dict[str, Any]] | None:
    """Parameters (host arrays) and record of the best checkpoint; None before the first validation.

    Nothing else is read: not the moments of the optimizer, and no file of other checkpoints.
    Another process may be training in the same folder.

    Args:
      workdir: of the run.
      shapes: shapes and dtypes of the state of one run.
      check: called with the record before anything large is read; it may raise.

    Raises:
      RunError: there are checkpoints, and none can be trusted.
    """
    root, faults = _root(workdir), {}
    found = _numbered(root) if root.exists() else {}
    for step in sorted(found, reverse=True):
        try:
            record = _read_record(found[step])
        except (OSError, ValueError):
            faults[step] = _INCOMPLETE
            continue
        best = _best(record)
        if best is None:
            return None
        check(record)
        if fault := _fault(root / str(best)):
            faults[best] = fault
            continue
        name = 'average' if shapes.average else 'params'
        wanted = {name: shapes.kept}
        args = ocp.args.PyTreeRestore(_zeros(wanted), partial_restore=True)
        with ocp.PyTreeCheckpointer() as checkpointer, _restoring(root / str(best)):
            restored = checkpointer.restore(root / str(best) / 'state', args=args)
            jax.tree.map(_check_shape, restored, wanted)
        return restored[name], _read_record(root / str(best))
    if faults and set(faults.values()) != {_INCOMPLETE}:
        raise _none_trusted(root, faults)
    return None


def best_step(workdir: epath.PathLike) -> int | None:
    """The step of the best checkpoint, without reading it; None where there is none yet."""
    root = _root(workdir)
    found = _numbered(root) if root.exists() else {}
    for step in sorted(found, reverse=True):
        with contextlib.suppress(OSError, ValueError):
            return _best(_read_record(found[step]))
    return None


class _KeepLatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the newest two checkpoints, and the best one that each of them names.

    Attributes:
      best: {step: the best step up to it}.
    """

    def __init__(self, best: dict[int, int | None]):
        self.best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        latest = [info.step for info in checkpoints[-_KEEP_LATEST:]]
        kept = {*latest, *(self.best[step] for step in latest)}
        return [info.step in kept for info in checkpoints]


def _root(workdir: epath.PathLike) -> epath.Path:
    folder = epath.Path(workdir)  # absolute() would make a local folder of gs://...
    return (folder if is_remote(folder) else folder.absolute()) / 'checkpoints'


def _numbered(root: epath.Path) -> dict[int, epath.Path]:
    return {int(path.name): path for path in root.iterdir() if path.name.isdigit()}


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@contextlib.contextmanager
def _restoring(folder: epath.Path) -> Iterator[None]:
    """Turns the errors of a checkpoint that holds something else into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f'The checkpoint {folder} does not hold the state of this model; use the code and '
            'configuration that wrote it, or another --workdir.'
        ) from error


def _check_shape(array: Any, like: Any) -> None:
    if np.shape(array) != np.shape(like):
        raise ValueError(f'{np.shape(array)} is not {np.shape(like)}')


def _best(record: dict[str, Any]) -> int | None:
    return record['best'] and record['best']['step']


def _read_record(folder: epath.Path) -> dict[str, Any]:
    return json.loads((folder / _RECORD).read_text())


def _cannot_restore(folder: epath.Path, fault: str) -> RunError:
    return RunError(
        f'The checkpoint {folder} cannot be restored ({fault}); start the same command again: it '
        'goes on from another one, or says that there is none.'
    )


def _none_trusted(root: epath.Path, faults: dict[int, str]) -> RunError:
    listed = '; '.join(f'{step}: {fault}' for step, fault in sorted(faults.items()))
    return RunError(
        f'No checkpoint in {root} can be trusted ({listed}); put back a copy of them, or start '
        'the training command again to train from the beginning.'
    )


def _digests(folder: epath.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in _files(folder)
        if not path.name.startswith(_SEAL)
    }


def _digest(path: epath.Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _fault(folder: epath.Path) -> str | None:
    """Why the checkpoint in `folder` cannot be trusted; None if it can."""
    try:
        sealed = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return _INCOMPLETE
    except ValueError:
        sealed = None
    if not isinstance(sealed, dict) or not sealed:
        return f'{_SEAL} is damaged'
    found = _digests(folder)
    for name in sorted(sealed.keys() | found.keys()):
        if name not in found:
            return f'{name} is missing'
        if found[name] != sealed.get(name):
            return f'{name} is damaged'
    return None
