"""Event tables and item tables with any column names: CSV, TSV, JSON lines and Parquet."""

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import ml_collections
import pyarrow
import pyarrow.parquet

from emkd_jax.data.event_log import columns, items, json_lines, text_tables
from emkd_jax.data.event_log.database import Database, file_literal
from emkd_jax.data.event_log.engine import quoted
from emkd_jax.data.event_log.event_table import EventTable, fill, in_partitions, typed_table
from emkd_jax.data.event_log.item_columns import item_columns
from emkd_jax.data.event_log.items import Item
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import MISSING, report_by_numbers
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

_ROWS = 10_000  # of a Parquet item table in memory at a time
_NO_ATTRIBUTES = frozenset((*MISSING, '(no genres listed)'))


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """Parquet, a JSON object, a first line with a delimiter in it, or one of usual names."""
    return (
        source.parquet
        or _is_json(lines)
        or any(mark in lines[0] for mark in text_tables.DELIMITERS)
        or columns.has_usual_names([name.split(':')[0] for name in lines[0].split()])
    )


recognises_items = recognises


def read_events(log: OpenLog) -> None:
    """Fills the table `read`."""
    if log.source.parquet:
        _read_parquet_events(log)
    elif _is_json(log.source.first_lines()):
        json_lines.read_events(log)
    else:
        table = text_tables.sniff(log.source, log.options)
        text_tables.read_table(log, table)


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The items of a table; a cell may hold a list, or parts between `attribute_delimiter`."""
    if source.parquet:
        names, rows = _parquet_rows(source)
    elif _is_json(source.first_lines()):
        objects = list(json_lines.read_items(source, report))
        names = list(dict.fromkeys(name for _, row in objects for name in row))
        rows = ((place, [row.get(name) for name in names]) for place, row in objects)
    else:
        table = text_tables.sniff(source, options, of_items=True)
        names, rows = table.names, text_tables.whole_rows(source, table, report)
    usual = [name for name in names if columns.normalised(name) in columns.ATTRIBUTES]
    item, attributes, title = item_columns(names, usual, options, source.path, report)
    if not attributes and title is None:
        raise UserError(
            f'{source.path} has no column that is known to hold attributes; its columns are '
            f'{columns.listed(names)}: name some with --config.data.attribute_columns=A,B.'
        )
    for place, row in rows:
        values = [
            (names[column], value)
            for column in attributes
            for value in _values(row[column], options)
        ]
        yield Item(
            place,
            value_text(row[item]).strip(),
            items.name_attributes(values, len(attributes)),
            _present(row[title]) if title is not None else '',
        )


def _values(cell, options):
    """The attributes in a cell: a list, a list written as JSON or as Python's, or delimited.

    Of an object in a list, as in `[{"id": 28, "name": "Action"}]`, the name counts, or else its
    first value.
    """
    written = isinstance(cell, str) and cell.startswith('[') and cell.endswith(']')
    parts = items.literal(cell) if written else cell
    if not isinstance(parts, list):
        parts = value_text(cell).split(options.attribute_delimiter)
    named = (
        part.get('name', next(iter(part.values()), '')) if isinstance(part, dict) else part
        for part in parts
    )
    return [text for part in named if (text := _present(part))]


def value_text(value: Any) -> str:
    """A value as the user writes it: whole numbers have no fraction, whatever their type."""
    if value is None or value != value:  # NaN
        return ''
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _present(value):
    """The text of a value, '' if it stands for a missing one."""
    text = value_text(value).strip()
    return '' if text in _NO_ATTRIBUTES else text


def _is_json(lines):
    return next((line for line in lines if line.strip()), '').lstrip().startswith('{')


def described_table(database: Database, relation: str) -> EventTable:
    """The events of a relation of DuckDB, which knows the names and types of its columns."""
    described = database.rows(f'DESCRIBE SELECT * FROM {relation}')
    fields = [(name, quoted(name), kind) for name, kind, *_ in described]
    lists = {
        place: f'{column}::VARCHAR[]'
        for place, (_, column, kind) in enumerate(fields)
        if kind.endswith('[]')
    }
    return typed_table(database, relation, fields, lists=lists)


def _read_parquet_events(log):
    database, source, options, report = log
    try:
        table = described_table(
            database, f'read_parquet({file_literal(source.path)}, hive_partitioning=false)'
        )
        fill(database, in_partitions(table, source), options, source.path, report)
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.BinderException) as error:
        raise UserError(
            f'{source.path} cannot be read as Parquet ({str(error).splitlines()[0]}).'
        ) from error
    report_by_numbers(database, source.path, report)


def _parquet_rows(source):
    try:
        file = pyarrow.parquet.ParquetFile(source.path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f'{source.path} cannot be read as Parquet ({error}).') from error
    names = file.schema_arrow.names

    def rows():
        place = 0
        for batch in file.iter_batches(_ROWS):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                place += 1
                yield f'row {place}', row

    return names, rows()
