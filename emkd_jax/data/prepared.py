"""The released data sets as TFDS keeps them: prepared once, then read into memory."""

import contextlib
import io
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from emkd_jax.data import released
from emkd_jax.data.dataset import Dataset, Ragged, attribute_table
from emkd_jax.errors import UserError

# `emkd_jax.data.builders` imports TFDS, which takes time, so functions import it when they need it.


def data_dir() -> pathlib.Path:
    """The folder of prepared data: `TFDS_DATA_DIR`, or the default of TFDS."""
    folder = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    if '://' in folder:
        raise UserError(
            f'TFDS_DATA_DIR is {folder}, but records are read from local or mounted folders only; '
            'mount it, or copy it to this machine.'
        )
    return pathlib.Path(folder).expanduser()


def is_prepared(name: str) -> bool:
    """Tells whether the folder of prepared data holds a released data set."""
    from emkd_jax.data.builders import BUILDERS, SPLITS

    version = str(BUILDERS[name].VERSION)
    # TFDS renames a folder with this file into its place once everything is written.
    return all(
        (data_dir() / f'emkd_{name}' / config / version / 'dataset_info.json').exists()
        for config in SPLITS
    )


def prepare(name: str, source: str = '') -> pathlib.Path:
    """Prepares a released data set unless it is prepared already.

    Args:
      name: 'toys', 'beauty' or 'ml_1m'.
      source: a folder with the authors' files; empty: download them if they are needed. A source
        that is given must hold the files, even if the data is prepared already.

    Returns:
      The folder with the prepared data.

    Raises:
      UserError: the source is not the released data, or the data cannot be downloaded or written.
    """
    if source:
        for file in released.RELEASES[name]:
            released.read_verified(file, pathlib.Path(source).expanduser())
    if not is_prepared(name):
        with tempfile.TemporaryDirectory() as downloads:
            if not source:
                released.download(name, pathlib.Path(downloads))
            _write(name, pathlib.Path(source or downloads).expanduser())
    return data_dir() / f'emkd_{name}'


def read(name: str) -> Dataset:
    """Reads a prepared data set into memory.

    Raises:
      UserError: the prepared data is damaged.
    """
    users, items = _records(name)
    attributes = attribute_table([[0], *(item['attributes'] for item in items)])
    return Dataset(
        name=name,
        histories=Ragged.from_rows([user['history'] for user in users]),
        item_attributes=attributes,
        num_items=len(items),
        num_attributes=int(attributes.max()),
        user_ids=np.array([user['user_id'] for user in users], np.int64),
        item_ids=np.array([item['item_id'] for item in items], np.int64),
    )


def _records(name: str) -> list[list[dict[str, Any]]]:
    """The examples of users, and those of items."""
    from emkd_jax.data.builders import SPLITS

    folder = data_dir() / f'emkd_{name}'
    damaged = UserError(
        f'The prepared data in {folder} cannot be read; delete that folder and run the command '
        'again.'
    )
    try:
        sources = [
            builder.as_data_source(split=SPLITS[builder.builder_config.name])
            for builder in _builders(name)
        ]
        examples = [source.__getitems__(list(range(len(source)))) for source in sources]
    except Exception as error:  # TFDS and array_record raise many kinds for damaged files
        raise damaged from error
    # Where a record is damaged but long enough, TFDS gives None for what is missing in it.
    if any(value is None for rows in examples for row in rows for value in row.values()):
        raise damaged
    return examples


def _write(name: str, source: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=source)
    tfds.disable_progress_bar()
    for builder in _builders(name):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # standard output is for results
                builder.download_and_prepare(download_config=config)
        except OSError as error:
            if builder.is_prepared():  # another process was faster
                continue
            raise UserError(
                f'The prepared data cannot be written to {builder.data_path} '
                f'({error.strerror or error}); set TFDS_DATA_DIR to a folder that can be written.'
            ) from error


def _builders(name: str) -> list[Any]:
    """The builders of both configs of a data set."""
    from emkd_jax.data.builders import BUILDERS, SPLITS

    return [
        BUILDERS[name](config=config, data_dir=data_dir(), file_format='array_record')
        for config in SPLITS
    ]
