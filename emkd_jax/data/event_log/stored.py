"""Prepared data on disk: a folder of arrays, written whole or not at all."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

import numpy as np

from emkd_jax.data.dataset import Dataset, Holdout, Ragged, Split
from emkd_jax.errors import UserError

_FACTS = 'facts.json'
_TITLES = 'titles.json'
_PARTIAL = 'partial-'
_ABANDONED = 24 * 3600  # seconds without a change: whoever wrote it was killed
_ARRAYS = ('item_attributes', 'user_ids', 'item_ids')


def write(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    """Lets `make` fill a temporary folder beside `folder`, and puts it in its place when whole.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(folder.parent)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        try:
            make(partial)
            partial.chmod(0o755)
            try:
                os.rename(partial, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f'The prepared data cannot be written to {folder.parent} ({error.strerror or error}); '
            'make room, or set TFDS_DATA_DIR to a folder that has more.'
        ) from error


def _clear_abandoned(parent: pathlib.Path) -> None:
    for partial in parent.glob(f'{_PARTIAL}*'):
        if time.time() - partial.stat().st_mtime > _ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def save(folder: pathlib.Path, data: Dataset, titles: list[str], report: str) -> None:
    """Writes what `load`, `titles` and `report` read."""
    arrays = {name: getattr(data, name) for name in _ARRAYS}
    arrays |= _ragged_arrays('histories', data.histories)
    if data.split is not None:
        arrays |= _ragged_arrays('train', data.split.train)
        for name in ('validation', 'test'):
            held_out = getattr(data.split, name)
            arrays |= _ragged_arrays(name, held_out.histories)
            arrays |= {f'{name}_targets': held_out.targets, f'{name}_users': held_out.users}
    for name, array in arrays.items():
        np.save(folder / f'{name}.npy', array, allow_pickle=False)
    (folder / _TITLES).write_text(json.dumps(titles))
    (folder / _FACTS).write_text(
        json.dumps(
            {
                'name': data.name,
                'num_items': data.num_items,
                'num_attributes': data.num_attributes,
                'split_by_time': data.split is not None,
                'report': report,
            }
        )
    )


def load(folder: pathlib.Path) -> Dataset:
    """The data in `folder`; its arrays stay on disk until they are used.

    Raises:
      UserError: the folder is damaged.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text())
        holdout = None
        if facts['split_by_time']:
            holdout = Split(
                _ragged(folder, 'train'),
                *(
                    Holdout(
                        _ragged(folder, name),
                        _array(folder, f'{name}_targets'),
                        _array(folder, f'{name}_users'),
                    )
                    for name in ('validation', 'test')
                ),
            )
        return Dataset(
            name=facts['name'],
            histories=_ragged(folder, 'histories'),
            num_items=facts['num_items'],
            num_attributes=facts['num_attributes'],
            split=holdout,
            **{name: _array(folder, name) for name in _ARRAYS},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'The prepared data in {folder} cannot be read; delete that folder and run again.'
        ) from error


def titles(folder: pathlib.Path) -> list[str]:
    """Titles of the items, that of item i at i - 1; empty if none came with the data."""
    return json.loads((folder / _TITLES).read_text())


def report(folder: pathlib.Path) -> str:
    """What was read and left out when the folder was made."""
    return json.loads((folder / _FACTS).read_text())['report']


def _array(folder, name):
    return np.load(folder / f'{name}.npy', mmap_mode='r', allow_pickle=False)


def _ragged(folder, name):
    return Ragged(_array(folder, f'{name}_values'), _array(folder, f'{name}_offsets'))


def _ragged_arrays(name, rows):
    return {f'{name}_{field.name}': getattr(rows, field.name) for field in dataclasses.fields(rows)}
