"""Tables kept as text: CSV, TSV and their kin. Events go to the database, other rows to Python."""

import csv
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import duckdb
import ml_collections

from emkd_jax.data.event_log import columns
from emkd_jax.data.event_log.database import bad_rows, file_literal, literal, reason, store
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source, decoded
from emkd_jax.errors import UserError

DELIMITERS = '\t,;|'
_SAMPLE = 1000  # records that tell how timestamps are written
csv.field_size_limit(2**24)  # characters; a long description is no mistake
_ERRORS_KEPT = 10_000  # at least, to tell the first bad line and what it lacks


class TextTable(NamedTuple):
    """How a table is written; the defaults are CSV's.

    `quote` '' = fields are never quoted; `header_lines` come before the first row.
    """

    names: tuple[str, ...]
    delimiter: str = ','
    quote: str = '"'
    header_lines: int = 1
    encoding: str = 'utf-8'


def sniff(source: Source) -> TextTable:
    """A table with a header line, its delimiter told by that line.

    Raises:
      UserError: the header is no list of names.
    """
    header = source.first_lines()[0]
    delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))
    names = tuple(name.strip() for name in next(csv.reader([header], delimiter=delimiter)))
    if len(names) < 2 or not decoded(header):
        raise UserError(
            f"{source.path} does not begin with a line of column names: '{_shown(header)}'; add "
            'one, or say what the file is with --config.data.format.'
        )
    return TextTable(names, delimiter)


def records(source: Source, table: TextTable) -> Iterator[tuple[int, list[str]]]:
    """Every row with the number of the line it starts at; [] for an empty line.

    Raises:
      UserError: a row that no reader of such tables can take.
    """
    with source.lines(table.encoding) as file:
        lines = itertools.islice(file, table.header_lines, None)
        if not table.quote:
            for number, line in enumerate(lines, table.header_lines + 1):
                text = line.rstrip('\r\n')
                yield number, text.split(table.delimiter) if text else []
            return
        reader = csv.reader(lines, delimiter=table.delimiter, quotechar=table.quote)
        while True:
            line = table.header_lines + reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f'{source.path}, line {line}: {error}.') from error
            yield line, record


def whole_rows(source: Source, table: TextTable, report: Report) -> Iterator[tuple[str, list[str]]]:
    """Every row with its place ('line 3'), less those of another length or not in the encoding."""
    for line, row in records(source, table):
        if not row:
            continue
        if len(row) != len(table.names):
            fault = f'it has {len(row)} fields, not {len(table.names)}'
        elif not all(map(decoded, row)):
            fault = f'it is not {table.encoding.upper()}'
        else:
            yield f'line {line}', row
            continue
        report.bad_lines(source.path, f'line {line}', fault)


def read_events(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    table: TextTable,
    options: ml_collections.ConfigDict,
    report: Report,
) -> None:
    """Fills the table `read` (see `database.store`) with the rows of `source`."""
    found = columns.event_columns(table.names, options, source.path)
    types, time, rating = {}, None, None
    if found.time is not None:
        sample = itertools.islice(records(source, table), _SAMPLE)
        kind = columns.time_kind(
            [record[found.time] for _, record in sample if len(record) > found.time],
            source.path,
            table.names[found.time],
        )
        types[found.time] = kind.sql_type
        time = kind.microseconds(f'c{found.time}')
    if found.rating is not None:
        types[found.rating] = 'DOUBLE'
        rating = f'c{found.rating}'
    store_rows(
        database,
        source,
        table,
        report,
        types=types,
        user=f'c{found.user}',
        item=f'c{found.item}',
        time=time,
        rating=rating,
    )


def store_rows(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    table: TextTable,
    report: Report,
    relation: str = '{}',
    types: Mapping[int, str] | None = None,
    **values: str | None,
) -> None:
    """`database.store` for the rows of `source`, with complaints that name lines.

    Args:
      database, source, table, report: as everywhere.
      relation: SQL around the table, whose columns are c0, c1, ...
      types: SQL types of columns by place; text if not given.
      **values: SQL of user, item, time and rating.
    """
    # A line may have an error for each of its fields.
    most_errors = _ERRORS_KEPT + len(table.names) * report.max_bad_lines
    arguments = _csv_arguments(source, table, types or {}, most_errors)
    try:
        store(database, relation.format(f'read_csv({arguments})'), **values)
    except duckdb.InvalidInputException as error:
        raise UserError(
            f'{source.path} cannot be read as a table: {reason(error)} (are its line ends and '
            'quotes the same throughout?).'
        ) from error
    rejected = _rejected(database, table)
    if rejected:
        place, complaint = rejected[0]
        lines = (line for line, _ in records(source, table))
        line = next(itertools.islice(lines, place, None), '?')
        report.bad_lines(source.path, f'line {line}', complaint, len(rejected))
    if bad := bad_rows(database):
        gone = {place for place, _ in rejected}
        lines = (
            line
            for place, (line, row) in enumerate(records(source, table))
            if row and place not in gone
        )
        line = next(itertools.islice(lines, bad.first, None), '?')
        report.bad_lines(source.path, f'line {line}', bad.complaint, bad.count)


def _csv_arguments(source, table, types, most_errors):
    named = ', '.join(
        f"'c{place}': '{types.get(place, 'VARCHAR')}'" for place in range(len(table.names))
    )
    return ', '.join(
        [
            file_literal(source.path),
            'auto_detect=false',
            'header=false',
            f'skip={table.header_lines}',
            f'delim={literal(table.delimiter)}',
            f'quote={literal(table.quote)}',
            f'escape={literal(table.quote)}',
            f'columns={{{named}}}',
            f"compression='{'gzip' if source.gzipped else 'none'}'",
            f"encoding='{table.encoding}'",
            'store_rejects=true',
            f'rejects_limit={most_errors}',
        ]
    )


def _rejected(database, table):
    """(place among `records`, complaint) of the lines that are no rows of the table, in order."""
    errors = database.execute(
        'SELECT line, error_type, column_name, csv_line, error_message FROM reject_errors '
        'ORDER BY line, column_idx'
    ).fetchall()
    first = {}
    for record, *error in errors:  # what the database calls a line is a record
        first.setdefault(record - 1 - table.header_lines, error)
    return [(place, _complaint(table, *error)) for place, error in first.items()]


def _complaint(table, kind, column, text, message):
    text = text or ''
    name = column and table.names[int(column[1:])]
    if kind == 'CAST':
        value = message.split('string "', 1)[-1].rsplit('" to', 1)[0]
        return f"'{_shown(value)}' cannot be read as a {name}"
    if kind in ('MISSING COLUMNS', 'TOO MANY COLUMNS'):
        found = message.rsplit(' ', 1)[-1]
        return f"it has {found} fields, not {len(table.names)}: '{_shown(text)}'"
    if kind == 'INVALID ENCODING':
        return f'it is not {table.encoding.upper()}'
    if kind == 'UNQUOTED VALUE':
        return f"its quotes do not close: '{_shown(text)}'"
    return f"{kind.lower()}: '{_shown(text)}'"


def _shown(text):
    text = ' '.join(text.split())
    return text if len(text) <= 60 else f'{text[:60]}...'
