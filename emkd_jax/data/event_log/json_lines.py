"""JSON lines: an object a line, flat, nested, or with a list of events.

Lines may also be written as Python writes dictionaries, as some data sets are; this takes longer.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow

from emkd_jax.config.options import flatten
from emkd_jax.data.event_log import items
from emkd_jax.data.event_log.engine import literal
from emkd_jax.data.event_log.event_table import SAMPLE, EventTable
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.text_tables import TextTable, fill_from_text
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

# A line is one field of a table whose delimiter cannot stand in JSON.
_LINES = TextTable(('line',), '\x01', quote='', header_lines=0)


def read_events(log: OpenLog) -> None:
    """Fills the table `read`.

    A value within another one has a path for a name, `product.id`. Where `data.item_column` is the
    path of a value within a list of objects, such as `events.aid`, each object is an event.
    """
    objects, as_json = _sample(log.source, json.loads), 'CASE WHEN json_valid(c0) THEN c0::JSON END'
    if not objects:
        objects, as_json = _sample(log.source, items.literal), 'json_of_python(c0)::JSON'
        log.database.connection.create_function(
            'json_of_python',
            _json_of_python,
            ['VARCHAR'],
            'VARCHAR',
            type='arrow',
            null_handling='special',  # it may return NULL
        )
    if not objects:
        raise UserError(
            f'{log.source.path} has no JSON object in its first lines, and each line must hold '
            'one, such as {"user": "u1", "item": "i1", "time": 1700000000}; write the events anew '
            'as JSON lines, CSV or Parquet.'
        )
    within = log.options.item_column.rpartition('.')[0]
    exploded = within if any(isinstance(row.get(within), list) for row in objects) else ''

    def events_of(relation: str) -> EventTable:
        lines = (
            'SELECT row_number() OVER () - 1 AS line_number, '
            f'{as_json} AS line FROM {relation} WHERE c0 IS NOT NULL'
        )
        if exploded:
            path = literal(f'$."{exploded}"[*]')
            lines = f'SELECT *, unnest(json_extract(line, {path})) AS part FROM ({lines})'
        sample = [row for value in objects for row in _rows(value, exploded)]
        names = list(dict.fromkeys(name for row in sample for name in row))
        return EventTable(
            names,
            [_sql(name, exploded) for name in names],
            f'({lines})',
            [[row.get(name) for name in names] for row in sample],
            row='line_number',
        )

    fill_from_text(log, _LINES, events_of)


def read_items(source: Source, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of an item file, flat: values by name or path, and where each stands."""
    for place, value in _objects(source, items.literal):
        if value is None:
            report.bad_lines(source.path, place, 'it is no JSON object')
        else:
            yield place, flatten(value)


def _json_of_python(texts: pyarrow.ChunkedArray) -> pyarrow.Array:
    """Dictionaries that Python wrote as JSON; those that are none stay away."""
    found = (items.literal(text or '') for text in texts.to_pylist())
    return pyarrow.array(
        [json.dumps(one, default=str) if isinstance(one, dict) else None for one in found],
        pyarrow.string(),
    )


def _sample(source, parse):
    """The objects in the first lines."""
    first = itertools.islice(_objects(source, parse), SAMPLE)
    return [value for _, value in first if value]


def _objects(source, parse) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """The object of each line that is not empty; None where it holds none."""
    with source.lines() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = parse(line)
            except (ValueError, RecursionError):
                value = None
            yield f'line {number}', value if isinstance(value, dict) else None


def _rows(value, exploded):
    """The rows that an object stands for, as text by name."""
    flat = flatten(value)
    if exploded and isinstance(parts := flat.pop(exploded, None), list):
        for part in parts:
            if isinstance(part, dict):
                inner = flat | flatten(part, f'{exploded}.')
                yield {name: _text(each) for name, each in inner.items()}
        return
    row = {}
    for name, part in flat.items():
        if isinstance(part, list) and part and isinstance(part[0], dict):
            row |= {key: _text(each) for key, each in flatten(part[0], f'{name}.').items()}
        else:
            row[name] = _text(part)
    yield row


def _text(value):
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _sql(name, exploded):
    value = 'line'
    if exploded and name.startswith(f'{exploded}.'):
        value, name = 'part', name[len(exploded) + 1 :]
    # A name may have dots of its own, so both readings of the path are tried.
    path = literal('$.' + '.'.join(f'"{part}"' for part in name.split('.')))
    found = f'json_extract_string({value}, {path})'
    if '.' not in name:
        return found
    whole = literal(f'$."{name}"')
    return f'coalesce({found}, json_extract_string({value}, {whole}))'
