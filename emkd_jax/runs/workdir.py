"""The folder of a run: which configuration and data it belongs to, and who writes to it."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator

import filelock
import jax
import ml_collections
from etils import epath

from emkd_jax.cli.console import say
from emkd_jax.config.stored import differences, to_json
from emkd_jax.data.atomic import is_remote, write_json
from emkd_jax.data.cache import holds_dataset, save_dataset
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import RunError, UserError, install_command
from emkd_jax.runs.cluster import is_lost_host


def open_workdir(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> epath.Path:
    """Creates the folder of a run, or checks that it belongs to a run of the same configuration.

    The configuration may ask for more epochs than the run had; the folder then belongs to it.

    Raises:
      UserError: it belongs to another configuration, or it cannot be used.
    """
    with workdir_errors(workdir):
        folder = epath.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / 'config.json'
        before = _fewer_epochs(read_config(folder), config) if file.exists() else 0
        if before is None:
            check_same_config(folder, config)
            return folder
        if before:
            epochs = config.train.num_epochs
            say(f'{folder} was begun with {before} epochs and goes on to {epochs}.')
        if jax.process_index() == 0:
            write_json(file, to_json(config))
    return folder


def make_folder(workdir: epath.PathLike) -> epath.Path:
    """Creates a folder that belongs to no run, such as that of a study.

    Raises:
      UserError: it cannot be used.
    """
    with workdir_errors(workdir):
        folder = epath.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder) and not os.access(folder, os.W_OK):
            raise PermissionError(13, 'Permission denied')
    return folder


def holds_run(workdir: epath.PathLike) -> bool:
    """Whether a run has begun in the folder.

    Raises:
      UserError: the folder cannot be read.
    """
    with workdir_errors(workdir):
        return (epath.Path(workdir) / 'config.json').exists()


def read_config(folder: epath.Path) -> dict:
    """The configuration with which the run in `folder` began, as JSON holds it.

    Raises:
      UserError: the file is damaged.
    """
    file = folder / 'config.json'
    with workdir_errors(folder):
        try:
            stored = json.loads(file.read_text())
        except ValueError:
            stored = None
    if not isinstance(stored, dict):
        raise UserError(
            f'{file} is not the configuration of a run; choose another --workdir, or delete it.'
        )
    return stored


def check_same_config(folder: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if options that change results differ from those the run began with."""
    differing = differences(read_config(folder), to_json(config))
    if differing:
        flag = '--output (or --workdir)' if config.distill.teacher else '--workdir'
        raise UserError(
            f'{folder / "config.json"} belongs to a run with another configuration '
            f'({"; ".join(differing)}); choose another {flag}, or the same configuration.'
        )


def _fewer_epochs(stored: dict, config: ml_collections.ConfigDict) -> int | None:
    """The epochs of a stored configuration that differs in nothing but having fewer of them."""
    requested, epochs = to_json(config), config.train.num_epochs
    before = stored.get('train', {}).get('num_epochs', epochs)
    requested['train']['num_epochs'] = before
    return before if before < epochs and not differences(stored, requested) else None


def check_data(folder: epath.Path, stored: str, present: str) -> None:
    """Compares two fingerprints: of the data a run was trained on, and of the data at hand.

    Raises:
      UserError: they differ.
    """
    if stored != present:
        raise UserError(
            f'{folder} holds a run on other data (its fingerprint is {stored[:12]}, that of the '
            f'data given now is {present[:12]}); use the data it began with, or choose another '
            '--workdir.'
        )


def keep_data(data: Dataset, folder: epath.Path) -> None:
    """Keeps a copy of the data in the workdir, which is then enough to use the run.

    Raises:
      RunError: the disk is full, or gone.
    """
    if jax.process_index() == 0 and not holds_dataset(folder / 'data'):
        with writing(folder / 'data'):
            save_dataset(data, folder / 'data')


@contextlib.contextmanager
def sole_writer(folder: epath.Path) -> Iterator[None]:
    """Holds the lock of the folder, on file systems that have locks.

    Raises:
      UserError: another process holds it, or the folder cannot be written.
    """
    if jax.process_index() != 0 or is_remote(folder):
        yield
        return
    owner = folder / 'lock'
    lock = filelock.FileLock(folder / 'lock.held', timeout=0)
    with workdir_errors(folder):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f'Another run writes to {folder} ({owner.read_text()}); wait for it, stop it, or '
                'choose another --workdir.'
            ) from error
        except NotImplementedError:  # a file system without locks
            pass
        owner.write_text(f'process {os.getpid()} on {socket.gethostname()}')
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Turns a failed write inside the block into one clear sentence.

    Raises:
      RunError: the disk is full, or gone.
    """
    try:
        yield
    except Exception as error:  # tensorstore raises ValueErrors, other stores have their own kinds
        if is_lost_host(error) or not (isinstance(error, OSError | ValueError) or is_remote(path)):
            raise
        raise RunError(
            f'{path} cannot be written ({_reason(error)}); make room or repair the disk, then '
            'start the same command again: the run goes on from its last good checkpoint.'
        ) from error


@contextlib.contextmanager
def workdir_errors(folder: epath.PathLike) -> Iterator[None]:
    """Turns errors of the file system inside the block into one clear sentence.

    Raises:
      UserError: the folder cannot be used.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every remote store has its own kinds
        if not (isinstance(error, OSError) or is_remote(folder)):
            raise
        reason = _reason(error)
        if isinstance(error, KeyError):
            reason = 'this kind of store is not known'
        if isinstance(error, ImportError) and str(folder).startswith('gs://'):
            reason = f'it needs `{install_command("gcsfs google-cloud-storage")}`'
        raise UserError(
            f'The workdir {folder} cannot be used ({reason}); choose another with --workdir.'
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error).partition('\n')[0][:200]
