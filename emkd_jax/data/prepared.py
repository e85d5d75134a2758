"""Data sets prepared by TFDS: found, made, and decoded to memory."""

import contextlib
import io
import os
import pathlib
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from emkd_jax.data import files
from emkd_jax.data.builders import BUILDERS, SPLITS
from emkd_jax.data.dataset import Dataset, Ragged, attribute_table
from emkd_jax.data.download import DownloadError, download
from emkd_jax.errors import UserError


def data_dir() -> pathlib.Path:
    """TFDS's data folder: TFDS_DATA_DIR, or its default."""
    folder = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    if '://' in folder:
        raise UserError(
            f'TFDS_DATA_DIR is {folder}, but records are read from local or mounted folders only; '
            'mount it, or copy it to this machine.'
        )
    return pathlib.Path(folder).expanduser()


def is_prepared(name: str) -> bool:
    """Is there a whole prepared copy of this set in TFDS's data folder?"""
    builder = BUILDERS[name]
    return all(
        _is_whole(data_dir() / builder.name / config / str(builder.VERSION)) for config in SPLITS
    )


def prepare(name: str, source: str) -> pathlib.Path:
    """Makes the prepared copy if there is none, and returns its folder.

    Args:
      name: of the set.
      source: folder with the authors' files; '' = download them. Where it is given it must hold
        them, prepared copy or not.
    """
    release = BUILDERS[name].release
    if source:
        files.verify(release, pathlib.Path(source).expanduser())
    folder = data_dir() / BUILDERS[name].name
    if is_prepared(name):
        return folder
    with tempfile.TemporaryDirectory() as downloads:
        if not source:
            try:
                download(release, pathlib.Path(downloads))
            except DownloadError as error:
                raise UserError(
                    f'The {name} data is not prepared in {folder} and cannot be downloaded '
                    f"({error}): give the authors' files with --config.data.source=FOLDER, or run "
                    '--mode=prepare on a machine with a network and point TFDS_DATA_DIR at the '
                    'result, or train on a made-up stand-in with --config.data.stand_in=True.'
                ) from error
        _write(name, source or downloads)
    return folder


def read(name: str) -> Dataset:
    """Decodes the prepared copy."""
    try:
        users, items = (
            source.__getitems__(list(range(len(source))))
            for source in (
                builder.as_data_source(split=SPLITS[builder.builder_config.name])
                for builder in _builders(name)
            )
        )
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
    except Exception as error:  # the record readers raise many kinds
        folder = data_dir() / BUILDERS[name].name
        raise UserError(
            f'The prepared data in {folder} cannot be read; delete that folder and run again.'
        ) from error


def _write(name, source):
    config = tfds.download.DownloadConfig(manual_dir=source)
    tfds.disable_progress_bar()
    for builder in _builders(name):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS chats
                builder.download_and_prepare(download_config=config)
        except OSError as error:
            if _is_whole(builder.data_path):
                continue  # another process was faster
            raise UserError(
                f'The prepared data cannot be written to {builder.data_path} '
                f'({error.strerror or error}); set TFDS_DATA_DIR to a folder that takes it.'
            ) from error


def _is_whole(folder):
    return (folder / 'dataset_info.json').exists()  # there once TFDS renames the whole folder


def _builders(name):
    """The builders of all configs of a set."""
    return [
        BUILDERS[name](config=config, data_dir=data_dir(), file_format='array_record')
        for config in SPLITS
    ]
