"""Prepared data sets on disk: one folder of `.npy` files and JSON, local or remote.

`dataset.json` is written last. A folder without it holds no data set, so a killed process leaves
nothing that looks whole.
"""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from etils import epath

from emkd_jax.data.atomic import atomic_file, is_remote, write_json
from emkd_jax.data.dataset import Dataset, Holdout, Ragged, Split
from emkd_jax.errors import UserError

_FACTS, _TITLES, _ATTRIBUTES = 'dataset.json', 'titles.json', 'attributes.json'
_FACT_NAMES = ('name', 'num_items', 'num_attributes', 'stand_in', 'notes')
_ARRAY_NAMES = ('item_attributes', 'user_ids', 'item_ids')


def save_dataset(dataset: Dataset, folder: epath.PathLike) -> None:
    """Writes a data set to a folder, which is created; `read_dataset` reads it.

    Raises:
      OSError: the folder cannot be written; other errors come from the libraries of remote stores.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS).unlink(missing_ok=True)
    arrays = {name: getattr(dataset, name) for name in _ARRAY_NAMES}
    arrays |= _ragged_arrays('histories', dataset.histories)
    if dataset.split is not None:
        arrays |= _ragged_arrays('train', dataset.split.train)
        for name in ('validation', 'test'):
            holdout = getattr(dataset.split, name)
            arrays |= _ragged_arrays(name, holdout.histories)
            arrays |= {f'{name}_targets': holdout.targets, f'{name}_users': holdout.users}
    if dataset.times is not None:
        arrays['times'] = dataset.times
    for name, array in arrays.items():
        with atomic_file(folder / f'{name}.npy') as partial:
            np.save(partial, array, allow_pickle=False)
    with atomic_file(folder / _TITLES) as partial:
        partial.write_text(json.dumps(dataset.titles))
    with atomic_file(folder / _ATTRIBUTES) as partial:
        partial.write_text(json.dumps(dataset.attribute_names))
    facts = {name: getattr(dataset, name) for name in _FACT_NAMES}
    write_json(folder / _FACTS, facts | {'arrays': list(arrays)})


def holds_dataset(folder: epath.PathLike) -> bool:
    """Tells whether `save_dataset` has written a complete data set to the folder."""
    return bool((epath.Path(folder) / _FACTS).exists())


def read_dataset(folder: epath.PathLike) -> Dataset:
    """Reads a data set that `save_dataset` wrote.

    The arrays of a local folder are memory-mapped: they stay on disk until they are used.

    Raises:
      UserError: the folder holds no data set, or a damaged one.
    """
    folder = epath.Path(folder)
    if not holds_dataset(folder):
        raise UserError(f'{folder} holds no prepared data set: {_FACTS} is missing.')
    try:
        return _read(folder)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise UserError(
            f'The prepared data in {folder} is damaged ({reason}); delete that folder and run the '
            'command again.'
        ) from error


def _read(folder: epath.Path) -> Dataset:
    facts = json.loads((folder / _FACTS).read_text())
    arrays: dict[str, Any] = {name: _array(folder / f'{name}.npy') for name in facts['arrays']}
    split = None
    if 'train_values' in arrays:
        validation, test = (
            Holdout(_ragged(arrays, name), arrays[f'{name}_targets'], arrays[f'{name}_users'])
            for name in ('validation', 'test')
        )
        split = Split(_ragged(arrays, 'train'), validation, test)
    dataset = Dataset(
        histories=_ragged(arrays, 'histories'),
        split=split,
        titles=tuple(json.loads((folder / _TITLES).read_text())),
        attribute_names=_names(folder / _ATTRIBUTES),
        times=arrays.get('times'),
        **{name: arrays[name] for name in _ARRAY_NAMES},
        **{name: facts[name] for name in _FACT_NAMES},
    )
    _check_lengths(dataset)
    return dataset


def _names(path: epath.Path) -> tuple[str, ...]:
    # Data that was prepared by earlier versions has no such file.
    return tuple(json.loads(path.read_text())) if path.exists() else ()


def _array(path: epath.Path) -> Any:
    if is_remote(path):
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return np.load(path, mmap_mode='r', allow_pickle=False)


def _ragged(arrays: dict[str, Any], name: str) -> Ragged:
    return Ragged(arrays[f'{name}_values'], arrays[f'{name}_offsets'])


def _ragged_arrays(name: str, rows: Ragged) -> dict[str, Any]:
    return {f'{name}_{field.name}': getattr(rows, field.name) for field in dataclasses.fields(rows)}


def _check_lengths(dataset: Dataset) -> None:
    """Raises ValueError if arrays do not fit together, as when files of two data sets are mixed."""
    lengths = (
        (len(dataset.histories), len(dataset.user_ids)),
        (len(dataset.histories.values), dataset.histories.offsets[-1]),
        (len(dataset.item_attributes), dataset.num_items + 1),
        (len(dataset.item_ids), dataset.num_items),
        (len(dataset.titles), len(dataset.titles) and dataset.num_items),
        (len(dataset.attribute_names), len(dataset.attribute_names) and dataset.num_attributes),
    )
    if any(found != expected for found, expected in lengths):
        raise ValueError('its files do not fit together')
