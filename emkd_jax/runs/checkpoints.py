"""Checkpoints with Orbax: written in the background, sealed with checksums, verified before use.

Orbax renames a checkpoint into place when it is whole; process 0 then seals it with the SHA-256 of
each of its files. Only a sealed checkpoint whose files still match is ever restored, and only with
the best checkpoint that its record tells of. What cannot be trusted (a process was killed while
writing, a disk lost bytes) is moved to `set_aside/`, and the run goes on from the one before it.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from emkd_jax.errors import RunError, UserError
from emkd_jax.runs.cluster import of_process_0
from emkd_jax.runs.reporting import warn
from emkd_jax.runs.workdir import is_remote, write_json, writing
from emkd_jax.training.step import TrainState

_KEEP_LATEST = 2  # the newest may turn out to be damaged
_RECORD, _SEAL = 'record.json', 'seal.json'
_TEMPORARY = '.orbax-checkpoint-tmp'  # in the names of what Orbax has not finished
_UNFINISHED = 'it was not finished'


class Checkpoints:
    """The checkpoints of one run. Every process enters every method.

    Attributes:
      latest: the newest step that could be trusted when they were opened; None: there was none.
    """

    def __init__(self, workdir: epath.PathLike, read_only: bool = False):
        """Opens `workdir/checkpoints`, and sets aside what cannot be trusted.

        Args:
          workdir: of the run.
          read_only: leave everything as it is; another process may be writing there.

        Raises:
          UserError: the folder cannot be written.
          RunError: there were checkpoints, and none can be trusted.
        """
        folder = epath.Path(workdir)  # absolute() would make a local folder of gs://...
        self._root = (folder if is_remote(folder) else folder.absolute()) / 'checkpoints'
        trusted = self._trusted(read_only) if jax.process_index() == 0 else {}
        trusted = dict(of_process_0(list(trusted.items())))
        self.latest = max(trusted, default=None)
        self._keep = _KeepLatestAndBest(trusted)
        self._manager = ocp.CheckpointManager(
            self._root,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep,
                read_only=read_only,
                create=not read_only,
                save_interval_steps=0 if read_only else 1,
            ),
        )
        self._unsealed = None

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        """Starts to write the state and `record` (JSON, with the best step as `_best` finds it).

        Raises:
          RunError: this save or the one before it failed (disk full, folder gone).
        """
        step = int(state.step)
        self.seal(wait=True)
        self._keep.best[step] = _best(record)
        # A copy: the next train step reuses the memory. And host arrays are process 0's to write.
        state = jax.tree.map(np.array, state)
        with writing(self._root):
            # Orbax would make it anew, and nobody would notice.
            if not (self._root.exists() or is_remote(self._root)):
                raise FileNotFoundError(errno.ENOENT, 'it is gone')
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), force=True
            )
        self._unsealed = step, record

    def seal(self, wait: bool = False) -> None:
        """Seals the last save when it is written; with `wait`, waits for that.

        Raises:
          RunError: the save failed.
        """
        if self._unsealed is None or (not wait and self._manager.is_saving_in_progress()):
            return
        with writing(self._root):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                _seal(self._root / str(self._unsealed[0]), self._unsealed[1])
        self._unsealed = None

    def discard_after(self, step: int) -> None:
        """Deletes what was saved after `step`, from where the run goes on."""
        for later in [saved for saved in self._manager.all_steps() if saved > step]:
            self._manager.delete(later)

    def record(self, step: int) -> dict[str, Any]:
        """The record of a step that can be trusted."""
        return _record(self._root / str(step))

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State (host arrays) and record of `step`; `like` gives shapes and dtypes.

        Raises:
          RunError: the checkpoint is damaged, or holds another model's state.
        """
        folder = self._root / str(step)
        if fault := _fault(folder):
            raise RunError(
                f'The checkpoint {folder} cannot be restored ({fault}); start the same command '
                'again: it goes on from another one, or says that there is none.'
            )
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        try:
            state = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
            ).state
            jax.tree.map(_check_shape, state, target)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f'The checkpoint {folder} does not hold the state of this model; use the code '
                'and configuration that wrote it, or another --workdir.'
            ) from error
        return state, _record(folder)

    def close(self) -> None:
        """Waits for the last save and seals it."""
        self.seal(wait=True)
        self._manager.close()

    def _trusted(self, read_only: bool) -> dict[int, int | None]:
        """{step: its best step} of what can be trusted; the rest is set aside."""
        try:
            if not read_only:
                self._root.mkdir(parents=True, exist_ok=True)
            paths = self._root.iterdir() if self._root.exists() else ()
            found = {int(path.name): path for path in paths if path.name.isdigit()}
            faults = {step: fault for step, path in found.items() if (fault := _fault(path))}
            whole = {step: _best(_record(found[step])) for step in found.keys() - faults.keys()}
            trusted = {step: best for step, best in whole.items() if best in {None, *whole}}
            faults |= {
                step: f'its best checkpoint, {best}, is lost'
                for step, best in whole.items()
                if step not in trusted
            }
            if not read_only:
                self._set_aside({found[step]: faults[step] for step in sorted(faults)})
                for path in self._root.glob(f'*{_TEMPORARY}*'):
                    path.rmtree()
        except OSError as error:
            raise UserError(
                f'{self._root} cannot be used ({error.strerror or error}); choose another '
                '--workdir.'
            ) from error
        if faults and not trusted and set(faults.values()) != {_UNFINISHED}:
            said = '; '.join(f'{step}: {fault}' for step, fault in sorted(faults.items()))
            raise RunError(
                f'No checkpoint in {self._root} can be trusted ({said}); put back a copy of '
                'them, or start the same command again to train from the beginning.'
            )
        return trusted

    def _set_aside(self, faults: dict[epath.Path, str]) -> None:
        """Moves checkpoints to `set_aside`, in place of what an earlier start moved there."""
        folder = self._root.parent / 'set_aside'
        if faults and folder.exists():
            folder.rmtree()
        for path, fault in faults.items():
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
            warn(f'Checkpoint {path.name} was moved to {folder}: {fault}.')


class _KeepLatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last two, and of each the best that it tells of.

    Attributes:
      best: {step: the best step up to it}.
    """

    def __init__(self, best: dict[int, int | None]):
        self.best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        latest = [info.step for info in checkpoints[-_KEEP_LATEST:]]
        kept = {*latest, *(self.best[step] for step in latest)}
        return [info.step in kept for info in checkpoints]


def _check_shape(array, like):
    if np.shape(array) != np.shape(like):
        raise ValueError(f'{np.shape(array)} is not {np.shape(like)}')


def _best(record: dict[str, Any]) -> int | None:
    return record['best'] and record['best']['step']


def _record(folder: epath.Path) -> dict[str, Any]:
    return json.loads((folder / _RECORD).read_text())


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


def _seal(folder: epath.Path, record: dict[str, Any]) -> None:
    write_json(folder / _RECORD, record)
    write_json(folder / _SEAL, _digests(folder))


def _fault(folder: epath.Path) -> str | None:
    """Why the checkpoint in `folder` cannot be trusted; None if it can."""
    try:
        sealed = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return _UNFINISHED
    except ValueError:
        return f'{_SEAL} is damaged'
    if not isinstance(sealed, dict) or not sealed:
        return f'{_SEAL} is damaged'
    found = _digests(folder)
    for name in sorted(sealed.keys() | found.keys()):
        if name not in found:
            return f'{name} is missing'
        if found[name] != sealed.get(name):
            return f'{name} is damaged'
    return None
