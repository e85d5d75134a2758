"""A run's folder: which configuration and data it belongs to, who writes there, and how."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.errors import RunError, UserError
from emkd_jax.runs.cluster import is_lost_host

# Where the files were (what they hold is fingerprinted), what a trained run is asked, and what
# changes how a run is computed and kept, but not what comes out.
_NOT_COMPARED = (
    'data.source',
    'data.attributes',
    'recommend.',
    'export.',
    'checkpoint.',
    'eval.batch_size',
    'train.steps_per_dispatch',
)


def open_workdir(workdir: str, config: ml_collections.ConfigDict) -> epath.Path:
    """Makes the folder, or checks that it belongs to a run of the same configuration.

    Raises:
      UserError: it belongs to another configuration, or cannot be used.
    """
    ours = json.loads(config.to_json_best_effort())
    with _using(workdir):
        folder = epath.Path(workdir)
        file = folder / 'config.json'
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            try:
                theirs = json.loads(file.read_text())
            except ValueError as error:
                raise UserError(
                    f'{file} is not the configuration of a run; choose another --workdir, or '
                    'delete it.'
                ) from error
            _compare(theirs, ours, file)
        elif jax.process_index() == 0:
            write_json(file, ours)
    return folder


def make_folder(workdir: str) -> epath.Path:
    """Makes a folder that belongs to no run.

    Raises:
      UserError: it cannot be used.
    """
    with _using(workdir):
        folder = epath.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder) and not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, 'Permission denied')
    return folder


def holds_run(workdir: str) -> bool:
    """Has a run begun there?

    Raises:
      UserError: the folder cannot be read.
    """
    with _using(workdir):
        return epath.Path(workdir, 'config.json').exists()


def check_data(folder: epath.Path, theirs: str, ours: str) -> None:
    """Compares the fingerprint of the data that a checkpoint was trained on with that at hand.

    Raises:
      UserError: they differ.
    """
    if theirs != ours:
        raise UserError(
            f'{folder} holds a run on other data (fingerprint {theirs[:12]}, that at hand has '
            f'{ours[:12]}); give it the data it began with, or choose another --workdir.'
        )


@contextlib.contextmanager
def sole_writer(folder: epath.Path) -> Iterator[None]:
    """Within this context no other run writes to the folder, where its file system has locks.

    Raises:
      UserError: another one does, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0 and not is_remote(folder):
            file = folder / 'lock'
            with _using(folder):
                lock = stack.enter_context(open(file, 'a+'))
                _lock(lock, folder)
                lock.truncate(0)
                lock.write(f'process {os.getpid()} on {socket.gethostname()}')
                lock.flush()
        yield


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Turns the error of a failed write into one sentence.

    Raises:
      RunError: the disk is full, or gone.
    """
    try:
        yield
    except Exception as error:  # tensorstore's are ValueErrors, other stores have their own
        if is_lost_host(error) or not (isinstance(error, (OSError, ValueError)) or is_remote(path)):
            raise
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0][:200]
        raise RunError(
            f'{path} cannot be written ({reason}); make room or mend the disk, then start the '
            'same command again: the run goes on from its last good checkpoint.'
        ) from error


def is_remote(folder: epath.PathLike) -> bool:
    """Is it in an object store, which has no locks, no appending and no empty folders?"""
    return '://' in str(folder)


def write_json(file: epath.Path, value: Any) -> None:
    """Writes a whole file or none."""
    partial = file.parent / f'{file.name}.partial'
    partial.write_text(json.dumps(value, indent=2) + '\n')
    partial.replace(file)


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """'option: their value -> our value' for every option that differs."""
    theirs, ours = _flat(theirs), _flat(ours)
    return [
        f'{name}: {theirs.get(name, "not there")} -> {ours.get(name, "not there")}'
        for name in sorted(theirs.keys() | ours.keys())
        if not name.startswith(_NOT_COMPARED) and theirs.get(name) != ours.get(name)
    ]


@contextlib.contextmanager
def _using(folder):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every store has its own kinds
        if not (isinstance(error, OSError) or is_remote(folder)):
            raise
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0][:200]
        if isinstance(error, KeyError):
            reason = 'no such kind of store is known'
        if isinstance(error, ImportError) and str(folder).startswith('gs://'):
            reason = 'that needs `pip install gcsfs google-cloud-storage`'
        raise UserError(
            f'The workdir {folder} cannot be used ({reason}); choose another with --workdir.'
        ) from error


def _lock(file, folder):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise UserError(
            f'Another run writes to {folder} ({file.read()}); wait for it, stop it, or choose '
            'another --workdir.'
        ) from error
    except OSError:  # a file system without locks
        pass


def _compare(theirs, ours, file):
    differing = differences(theirs, ours)
    if differing:
        raise UserError(
            f'{file} is of a run with another configuration ({"; ".join(differing)}); '
            'choose another --workdir, or the same configuration.'
        )


def _flat(tree, prefix=''):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {
        name: value
        for key, branch in tree.items()
        for name, value in _flat(branch, f'{prefix}{key}.').items()
    }
