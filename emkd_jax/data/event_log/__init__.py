"""An event log of one's own, read into a `Dataset`.

files.py       logs in files; formats.py: which format, each with a module: tables, s3rec, ...
in_memory.py   logs in tables of pandas and others
remote.py      logs at an address, as s3:// has them
warehouse.py   logs that are sorted where they lie, by spark.py or bigquery.py
columns.py     which column is which; times.py: how times are written
rows.py        rows, and what is wrong with them
events.py      filters and order, in an engine (engine.py): DuckDB on disk, or a warehouse
splits.py      a split by time (leave-one-out needs nothing here)
items.py       attributes and titles

The prepared data is kept by the content of the files and the options, so preparing it again costs
one pass over the files.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from contextlib import AbstractContextManager
from typing import Any

import ml_collections
import numpy as np

from emkd_jax.config.checks import check_config, set_options
from emkd_jax.config.options import base_config
from emkd_jax.data.atomic import atomic_folder
from emkd_jax.data.cache import read_dataset, save_dataset
from emkd_jax.data.dataset import Dataset
from emkd_jax.data.event_log import bigquery, items, spark, splits
from emkd_jax.data.event_log.files import opened_files
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.in_memory import as_file
from emkd_jax.data.event_log.remote import is_address, opened_address
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.prepared import data_dir
from emkd_jax.errors import UserError

_VERSION = 6  # of the rules in this package; another one prepares anew
# Options that say where files are or matter only later: the prepared data does not depend on them.
_NOT_COMPARED = ('source', 'attributes', 'stand_in', 'window_step')


def load(options: ml_collections.ConfigDict) -> Dataset:
    """The data of `config.data.source`, which is prepared first if it is not."""
    return read_dataset(prepare(options))


def read_events(events: Any, items: Any = None, **options: Any) -> Dataset:
    """See `emkd_jax.data.read_events`."""
    config = base_config(event_log=True)
    set_options(config, {f'data.{name}': value for name, value in options.items()})
    config.data.name = 'custom'
    check_config(config)
    items = '' if items is None else items
    try:
        with as_file(events, 'events') as event_file, as_file(items, 'items') as item_file:
            config.data.source, config.data.attributes = event_file, item_file
            data = load(config.data)
    except UserError as error:
        raise UserError(_in_python(str(error), config.data)) from error
    return dataclasses.replace(data, notes=_in_python(data.notes, config.data))


def _in_python(text: str, options: ml_collections.ConfigDict) -> str:
    """A message that names options as `read_events` takes them."""
    names = '|'.join(sorted(options, key=len, reverse=True))
    given = {'source': 'events', 'attributes': 'items'}
    return re.sub(
        rf'(?<![\w./-])(--config\.)?data\.({names})\b(?!\.\w)',
        lambda found: given.get(found[2], found[2]),
        text,
    )


def prepare(options: ml_collections.ConfigDict) -> pathlib.Path:
    """Prepares the data unless it is prepared already, and returns its folder.

    Raises:
      UserError: the files cannot be read.
    """
    if not options.source:
        raise UserError('data.source is empty; name your event log with --config.data.source=FILE.')
    if not options.attribute_delimiter:
        raise UserError("data.attribute_delimiter is empty; give the mark, such as '|'.")
    with _opened(options) as log:
        stem = re.sub(r'\W', '_', log.path.name.split('.')[0])  # a database file goes beneath it
        folder = data_dir() / 'emkd_custom' / f'{stem}-{_key(options, log)}'
        if folder.is_dir():
            return folder
        try:
            with atomic_folder(folder, exist_ok=True) as partial:
                save_dataset(_read(options, log, partial), partial)
        except OSError as error:
            raise UserError(
                f'The prepared data cannot be written to {folder.parent} '
                f'({error.strerror or error}); make room, or set TFDS_DATA_DIR to another folder.'
            ) from error
    return folder


def _opened(options: ml_collections.ConfigDict) -> AbstractContextManager[FoundLog]:
    if options.engine == 'spark':
        return spark.opened_table(options)
    if options.engine == 'bigquery':
        return bigquery.opened_table(options)
    return opened_address(options) if is_address(options.source) else opened_files(options)


def _read(options: ml_collections.ConfigDict, log: FoundLog, scratch: pathlib.Path) -> Dataset:
    report = Report(options.max_bad_lines, log.file_format)
    found, item_file = log.read(scratch, report), log.item_file
    histories, user_ids, split = found.histories, found.user_ids, None
    if found.cuts is not None:
        histories, user_ids, split = splits.by_time(found, report)
    if item_file is None:
        table = items.without_file(len(found.item_ids))
    else:
        source, module = item_file
        report.file_format = ''  # it has a format of its own
        numbers = {str(name): number for number, name in enumerate(found.item_ids.tolist(), 1)}
        table = items.gather(
            module.read_items(source, options, report), numbers, source.path, report
        )
    if not table.num_attributes:
        report.say('no item attributes: attribute prediction is switched off')
    counts = (
        f'{len(histories):,} users, {len(found.item_ids):,} items, '
        f'{len(histories.values):,} interactions, {table.num_attributes:,} attributes'
    )
    report.say(f'prepared: {counts}')
    times = found.times
    if times is not None and len(user_ids) < len(found.user_ids):  # a split by time leaves some out
        times = times[np.repeat(np.isin(found.user_ids, user_ids), found.histories.lengths)]
    return Dataset(
        name=options.name,
        histories=histories,
        item_attributes=table.attributes,
        num_items=len(found.item_ids),
        num_attributes=table.num_attributes,
        user_ids=user_ids,
        item_ids=found.item_ids,
        split=split,
        titles=tuple(table.titles),
        attribute_names=tuple(table.names),
        times=times,
        notes=str(report),
    )


def _key(options: ml_collections.ConfigDict, log: FoundLog) -> str:
    """Hex digits that differ wherever the prepared data may differ."""
    files = [] if log.item_file is None else [log.item_file[0].digest()]
    facts = {
        'version': _VERSION,
        'format': log.file_format,
        'files': [*log.digests, *files],
        'options': {
            name: value for name, value in options.to_dict().items() if name not in _NOT_COMPARED
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
