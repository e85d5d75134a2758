"""Event logs as files, and what is read from them."""

import os
import pathlib
from unittest import mock

import ml_collections

from configs import custom as custom_config
from emkd_jax.data import event_log
from emkd_jax.data.dataset import Dataset
from emkd_jax.data.event_log.engine import Engine


def options(source, **changes) -> ml_collections.ConfigDict:
    """config.data for `source`, without filters unless `changes` say so."""
    data = custom_config.get_config().data
    with data.unlocked():
        data.update({'source': str(source), 'k_core': 0, 'min_length': 1} | changes)
    return data


def load(source, folder=None, **changes) -> Dataset:
    """The data of `source`, prepared in `folder` (default: beside the source)."""
    with prepared_in(folder or pathlib.Path(source).parent / 'prepared'):
        return event_log.load(options(source, **changes))


def prepared_in(folder):
    """Makes `folder` the one that prepared data is kept in."""
    return mock.patch.dict(os.environ, TFDS_DATA_DIR=str(folder))


def histories(data: Dataset) -> dict:
    """{user: [items]}, by original ids."""
    return {
        user: [data.item_ids[item - 1].item() for item in data.histories[row]]
        for row, user in enumerate(data.user_ids.tolist())
    }


def attributes(data: Dataset) -> dict:
    """{item: {attributes}}, numbers as the data has them."""
    return {
        item: set(data.item_attributes[row][data.item_attributes[row] >= 0].tolist())
        for row, item in enumerate(data.item_ids.tolist(), 1)
    }


def times_of_dates(engine: Engine) -> dict:
    """{date: microseconds, or None where it is none}, of dates in all forms of ISO 8601."""
    dates = [
        f'{day}{time}{zone}'
        for day in ('2031-01-09', '2031/1/9', '2031-13-09')
        for time in ('', ' 10', 'T10', 'T1:5', ' 10:05', 'T10:05:03', ' 10:05:03,25', ' 25:00')
        for zone in ('', 'Z', ' UTC', ' GMT', '+02', '-08:30', '+0530', ' +02', ' -08:30')
        if (day, time) != ('2031/1/9', 'T10')  # which all but DuckDB read
    ]
    query = ' UNION ALL '.join(
        f"SELECT {place} AS place, iso_microseconds('{date}') AS time"
        for place, date in enumerate(dates)
    )
    return {dates[place]: time for place, time in engine.rows(query)}
