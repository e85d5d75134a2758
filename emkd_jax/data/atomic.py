"""Files and folders that are written completely or not at all.

The content is written under a temporary name beside its destination and renamed at the end, so a
reader never sees half of it and an error or a killed process leaves the destination as it was.
Object stores (`gs://`, `s3://`, ...) cannot rename folders: there the content is written to this
machine first and copied at the end. One copied file appears in the store as a whole.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from emkd_jax.errors import UserError

_PREFIX = '.partial-'
_ABANDONED_SECONDS = 24 * 3600  # a partial folder this old belongs to a process that was killed


def is_remote(path: epath.PathLike) -> bool:
    """Tells whether a path is in an object store, which has no locks and cannot append to files."""
    return '://' in os.fspath(path)


@contextlib.contextmanager
def atomic_file(path: epath.PathLike) -> Iterator[pathlib.Path]:
    """Replaces a file when the block ends, and leaves it as it was if the block raises.

    Args:
      path: the file, local or remote. Its folder must exist.

    Yields:
      A path on this machine to write to; it has the same suffix as `path`.

    Raises:
      OSError: the file cannot be written; other errors come from the libraries of remote stores.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as scratch:
            partial = pathlib.Path(scratch, epath.Path(path).name)
            yield partial
            epath.Path(partial).copy(path, overwrite=True)
        return
    partial = _partial(pathlib.Path(path))
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: epath.PathLike, exist_ok: bool = False) -> Iterator[pathlib.Path]:
    """Creates a folder, with all its files, when the block ends; not if the block raises.

    Args:
      path: the folder, local or remote. Its parents are created.
      exist_ok: if another process has created the folder meanwhile, keep that one and drop ours.

    Yields:
      An empty folder on this machine to write to.

    Raises:
      FileExistsError: the folder exists already.
      OSError: the folder cannot be written; other errors come from the libraries of remote stores.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as scratch:
            yield pathlib.Path(scratch)
            _upload(pathlib.Path(scratch), epath.Path(path), exist_ok)
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(path)
        except OSError as error:
            if not path.is_dir():
                raise
            if not exist_ok:
                raise FileExistsError(error.errno, 'It exists already', str(path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def new_folder(folder: epath.PathLike, remedy: str) -> Iterator[pathlib.Path]:
    """Creates a folder when the block ends; `remedy` says what a user may do about an error.

    Raises:
      UserError: the folder exists already, or cannot be written.
    """
    try:
        if epath.Path(folder).exists():
            raise UserError(f'{folder} is already there; {remedy}.')
        with atomic_folder(folder) as partial:
            yield partial
    except Exception as error:  # every remote store has its own kinds
        if isinstance(error, UserError) or not (isinstance(error, OSError) or is_remote(folder)):
            raise
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{folder} cannot be written ({reason}); {remedy}.') from error


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a value as indented JSON, with `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + '\n')


def _partial(path: pathlib.Path) -> pathlib.Path:
    return path.parent / f'{_PREFIX}{secrets.token_hex(4)}-{path.name}'


def _upload(folder: pathlib.Path, target: epath.Path, exist_ok: bool) -> None:
    if target.exists():
        if exist_ok:
            return
        raise FileExistsError(f'{target} exists already')
    for file in sorted(folder.rglob('*')):
        if file.is_file():
            destination = target / file.relative_to(folder).as_posix()
            destination.parent.mkdir(parents=True, exist_ok=True)
            epath.Path(file).copy(destination)


def _remove_abandoned(folder: pathlib.Path) -> None:
    for partial in folder.glob(f'{_PREFIX}*'):
        with contextlib.suppress(OSError):  # another process may be removing it too
            if partial.is_dir() and time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
