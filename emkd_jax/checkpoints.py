"""Checkpoints with Orbax: written in the background, sealed with checksums, verified before use.

Orbax renames a checkpoint into place when it is whole; we then seal it with the SHA-256 of each of
its files. Only a sealed checkpoint whose files still match is ever restored. What is not (a process
was killed while writing, a disk lost bytes) is moved to `set_aside/` and the one before it is used.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from emkd_jax.errors import RunError, UserError
from emkd_jax.step import TrainState

_KEEP_LATEST = 2
_SEAL = 'seal.json'
_UNFINISHED = 'it was not finished'


class Checkpoints:
    """The checkpoints of one run. Every process enters every method; process 0 seals."""

    def __init__(self, workdir: epath.PathLike):
        """Opens `workdir/checkpoints` and sets aside what is not whole.

        Raises:
          UserError: the folder cannot be written.
          RunError: there were checkpoints and none is whole.
        """
        self._root = epath.Path(workdir).absolute() / 'checkpoints'
        self._aside = epath.Path(workdir).absolute() / 'set_aside'
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._set_damaged_aside()
        except OSError as error:
            raise UserError(
                f'{self._root} cannot be written ({error.strerror}); choose another --workdir.'
            ) from error
        self._keep = _KeepLatestAndBest()
        self._manager = ocp.CheckpointManager(
            self._root,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep, cleanup_tmp_directories=True
            ),
        )
        self._unsealed: list[int] = []

    @property
    def latest(self) -> int | None:
        """The newest step that can be restored."""
        return self._manager.latest_step()

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        """Starts to write the state and `record` (JSON, with the best step under 'best').

        Raises:
          RunError: this save or the one before it failed (disk full, folder gone).
        """
        step = int(state.step)
        with _writing(self._root):
            self.seal(wait=True)
            self._keep.best = record['best'] and record['best']['step']
            self._manager.save(step, args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record),
            ), force=True)
            self._unsealed.append(step)

    def seal(self, wait: bool = False) -> None:
        """Seals what has been written; with `wait`, waits for what is still being written."""
        with _writing(self._root):
            if wait:
                self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if not self._unsealed or self._manager.is_saving_in_progress():
                return
            if jax.process_index() == 0:
                for step in self._unsealed:
                    _seal(self._root / str(step))
            self._unsealed.clear()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State (host arrays) and record of `step`; `like` gives shapes and dtypes.

        Raises:
          RunError: the checkpoint holds another model's state.
        """
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore(),
            ))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f'The checkpoint {self._root / str(step)} does not hold the state of this '
                f'model; use the code and configuration that wrote it, or another --workdir.'
            ) from error
        return restored.state, restored.record

    def close(self) -> None:
        """Waits for the last save and seals it; restoring is still allowed."""
        self.seal(wait=True)
        self._manager.close()

    def _set_damaged_aside(self):
        steps = sorted(
            (path for path in self._root.iterdir() if path.name.isdigit()),
            key=lambda path: int(path.name),
        )
        damaged = {path: fault for path in steps if (fault := _fault(path))}
        for path, fault in damaged.items():
            self._aside.mkdir(exist_ok=True)
            target = self._aside / path.name
            if target.exists():
                target.rmtree()
            path.rename(target)
            logging.warning('Checkpoint %s is set aside: %s.', path.name, fault)
        broken = [fault for fault in damaged.values() if fault != _UNFINISHED]
        if broken and len(damaged) == len(steps):
            raise RunError(
                f'No checkpoint in {self._root} is whole: they were moved to {self._aside} '
                f'({"; ".join(f"{path.name}: {fault}" for path, fault in damaged.items())}); '
                'start again in this --workdir, or restore a copy of it.'
            )


class _KeepLatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last two, since the newest may be damaged, and the best."""

    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        latest = {info.step for info in checkpoints[-_KEEP_LATEST:]}
        return [info.step in latest or info.step == self.best for info in checkpoints]


class _writing:
    """Turns the errors of a failed write into one sentence."""

    def __init__(self, root: epath.Path):
        self._root = root

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (OSError, ValueError)):
            raise RunError(
                f'Writing a checkpoint to {self._root} failed ({error}); make room or mend the '
                'disk, then start the same command again: it goes on from the last good one.'
            ) from error


def _digests(folder: epath.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files(folder)
        if not path.name.startswith(_SEAL)
    }


def _files(folder):
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _seal(folder: epath.Path) -> None:
    partial = folder / f'{_SEAL}.partial'
    partial.write_text(json.dumps(_digests(folder)))
    partial.rename(folder / _SEAL)


def _fault(folder: epath.Path) -> str | None:
    """Why the checkpoint in `folder` cannot be trusted; None if it can."""
    try:
        sealed = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return _UNFINISHED
    except ValueError:
        return f'{_SEAL} is damaged'
    found = _digests(folder)
    for name in sorted(sealed.keys() | found.keys()) if isinstance(sealed, dict) else [_SEAL]:
        if name not in found:
            return f'{name} is missing'
        if found[name] != sealed.get(name):
            return f'{name} is damaged'
    return None
