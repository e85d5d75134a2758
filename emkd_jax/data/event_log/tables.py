"""Event tables and item tables as CSV, TSV or Parquet, with a header and any column names."""

from collections.abc import Iterator, Sequence

import duckdb
import ml_collections
import pyarrow
import pyarrow.parquet

from emkd_jax.data.event_log import columns, items, text_tables
from emkd_jax.data.event_log.database import bad_rows, file_literal, store
from emkd_jax.data.event_log.items import Item
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

_ROWS = 10_000  # of a Parquet item table in memory at a time
_SAMPLE = 1000


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """Parquet, or a first line with a delimiter in it."""
    return source.parquet or any(mark in lines[0] for mark in text_tables.DELIMITERS)


recognises_items = recognises


def read_events(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    options: ml_collections.ConfigDict,
    report: Report,
) -> None:
    """Fills the table `read`."""
    if source.parquet:
        _read_parquet_events(database, source, options, report)
    else:
        text_tables.read_events(database, source, text_tables.sniff(source), options, report)


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The items of a table; a cell may hold a list, or parts between `attribute_delimiter`."""
    if source.parquet:
        names, rows = _parquet_rows(source)
    else:
        table = text_tables.sniff(source)
        names, rows = table.names, text_tables.whole_rows(source, table, report)
    item, attributes, title = _item_columns(names, options, source.path)
    for place, row in rows:
        values = [
            (names[column], value)
            for column in attributes
            for value in _values(row[column], options)
        ]
        yield Item(
            place,
            _text(row[item]),
            items.name_attributes(values, len(attributes)),
            _text(row[title]) if title is not None else '',
        )


def _item_columns(names, options, path):
    # The events' name for the items need not be this table's.
    named = options.item_column if options.item_column in names else ''
    item = columns.find_column(names, 'item', named, path)
    if item is None:
        raise columns.missing(names, 'item', path)
    title = columns.find_column(names, 'title', options.title_column, path)
    if options.attribute_columns:
        wanted = [name.strip() for name in options.attribute_columns.split(',')]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise UserError(
                f"{path} has no column '{missing[0]}', which --config.data.attribute_columns "
                f'names; its columns are {", ".join(names)}.'
            )
    else:
        wanted = [name for name in names if name.lower() in columns.ATTRIBUTES]
    if not wanted and title is None:
        raise UserError(
            f'{path} has no column that is known to hold attributes; its columns are '
            f'{", ".join(names)}: name some with --config.data.attribute_columns=A,B.'
        )
    return item, [names.index(name) for name in wanted], title


def _values(cell, options):
    """The attributes in a cell: a list, a list written as JSON or as Python's, or delimited."""
    written = isinstance(cell, str) and cell.startswith('[') and cell.endswith(']')
    parts = items.literal(cell) if written else cell
    if not isinstance(parts, list):
        parts = _text(cell).split(options.attribute_delimiter)
    return [text for part in parts if (text := _text(part).strip())]


def _text(value):
    return '' if value is None else str(value)


def _read_parquet_events(database, source, options, report):
    relation = f'read_parquet({file_literal(source.path)})'
    try:
        described = database.execute(f'DESCRIBE SELECT * FROM {relation}').fetchall()
        names, types = [row[0] for row in described], [row[1] for row in described]
        found = columns.event_columns(names, options, source.path)
        quoted = [column and f'"{column.replace(chr(34), chr(34) * 2)}"' for column in names]
        time = None
        if found.time is not None:
            kind = _parquet_time(database, relation, quoted[found.time], types[found.time], source)
            time = kind.microseconds(f'TRY_CAST({quoted[found.time]} AS {kind.sql_type})')
        store(
            database,
            relation,
            user=quoted[found.user],
            item=quoted[found.item],
            time=time,
            rating=None if found.rating is None else f'TRY_CAST({quoted[found.rating]} AS DOUBLE)',
        )
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.BinderException) as error:
        raise UserError(
            f'{source.path} cannot be read as Parquet ({str(error).splitlines()[0]}).'
        ) from error
    if bad := bad_rows(database):
        report.bad_lines(source.path, f'row {bad.first + 1}', bad.complaint, bad.count)


def _parquet_time(database, relation, column, kind, source):
    if kind.startswith(('TIMESTAMP', 'DATE')):
        return columns.TimeKind('TIMESTAMPTZ')
    sample = database.execute(
        f'SELECT {column}::VARCHAR FROM {relation} WHERE {column} IS NOT NULL LIMIT {_SAMPLE}'
    ).fetchall()
    return columns.time_kind([value for (value,) in sample], source.path, column)


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
