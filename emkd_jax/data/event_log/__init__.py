"""Anybody's event log to `Dataset`: found, read, filtered, numbered and kept prepared.

formats.py     which format a file is in; each has a module: tables, s3rec, recbole, ...
events.py      filters and order, in a scratch database within bounded memory
splits.py      by time (leave-one-out needs nothing here)
items.py       attributes and titles
stored.py      the result on disk, by content and options: preparing it again costs a hash
"""

import hashlib
import json
import pathlib
import sys

import ml_collections

from emkd_jax.data.dataset import Dataset
from emkd_jax.data.event_log import formats, items, splits, stored
from emkd_jax.data.event_log.database import open_database
from emkd_jax.data.event_log.events import collect
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.prepared import data_dir
from emkd_jax.errors import UserError

_VERSION = 1  # of the rules in this package; another one prepares anew
_SPLITS = ('leave_one_out', 'time')
# Options that say where files are, or come into play later: the prepared data does not differ.
_NOT_COMPARED = ('source', 'attributes', 'stand_in', 'window_step')


def load(options: ml_collections.ConfigDict) -> Dataset:
    """The data of `config.data.source`, prepared first where need be."""
    return stored.load(prepare(options))


def titles(options: ml_collections.ConfigDict) -> list[str]:
    """Titles of the items, that of item i at i - 1; empty if none came with the data."""
    return stored.titles(prepare(options))


def prepare(options: ml_collections.ConfigDict) -> pathlib.Path:
    """Prepares the data if it is not, says how, and returns its folder.

    Raises:
      UserError: an option makes no sense, or the files cannot be read.
    """
    _check(options)
    events, module = formats.events(options.source, options.format)
    item_file = formats.items(options.attributes, events, module)
    files = [events] if item_file is None else [events, item_file[0]]
    stem = events.path.name.split('.')[0]
    folder = data_dir() / 'emkd_custom' / f'{stem}-{_key(options, module, files)}'
    if folder.is_dir():
        return folder

    def make(partial: pathlib.Path) -> None:
        report = Report(options.max_bad_lines)
        with open_database(partial) as database:
            module.read_events(database, events, options, report)
            found = collect(database, options, events.path, report)
        for scratch in partial.glob('*'):
            scratch.unlink()
        data, item_titles = _assemble(options, found, item_file, report)
        stored.save(partial, data, item_titles, str(report))

    stored.write(folder, make)
    print(stored.report(folder), file=sys.stderr, flush=True)
    return folder


def _assemble(options, found, item_file, report):
    histories, user_ids, split = found.histories, found.user_ids, None
    if found.cuts is not None:
        histories, user_ids, split = splits.by_time(found, report)
    if item_file is None:
        table = items.without_file(len(found.item_ids))
    else:
        source, module = item_file
        numbers = {str(name): number for number, name in enumerate(found.item_ids.tolist(), 1)}
        table = items.gather(
            module.read_items(source, options, report), numbers, source.path, report
        )
    if not table.num_attributes:
        report.say('no item attributes: attribute prediction is switched off')
    data = Dataset(
        name=options.name,
        histories=histories,
        item_attributes=table.attributes,
        num_items=len(found.item_ids),
        num_attributes=table.num_attributes,
        user_ids=user_ids,
        item_ids=found.item_ids,
        split=split,
    )
    counts = ', '.join(f'{count:,} {name}' for name, count in data.counts().items())
    report.say(f'prepared: {counts}')
    return data, table.titles


def _check(options):
    if not options.source:
        raise UserError('data.source is empty; name your event log with --config.data.source=FILE.')
    if options.split not in _SPLITS:
        raise UserError(f"data.split is '{options.split}'; use {' or '.join(_SPLITS)}.")
    for name, least in (('k_core', 0), ('min_length', 1), ('max_bad_lines', 0), ('max_items', 1)):
        if options[name] < least:
            raise UserError(f'data.{name} is {options[name]}; it must be at least {least}.')
    if not options.attribute_delimiter:
        raise UserError("data.attribute_delimiter is empty; give the mark, such as '|'.")


def _key(options, module, files):
    """Hex digits that differ where the prepared data may."""
    facts = {
        'version': _VERSION,
        'format': module.__name__.rsplit('.', 1)[-1],
        'files': [file.digest() for file in files],
        'options': {
            name: value for name, value in options.to_dict().items() if name not in _NOT_COMPARED
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
