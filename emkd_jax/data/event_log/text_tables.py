"""Tables kept as text: CSV, TSV and their kin. Events go to the database, other rows to Python."""

import csv
import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import duckdb
import ml_collections

from emkd_jax.data.event_log import columns
from emkd_jax.data.event_log.database import file_literal, reason
from emkd_jax.data.event_log.engine import literal
from emkd_jax.data.event_log.event_table import SAMPLE, EventTable, fill, in_partitions
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import bad_rows
from emkd_jax.data.event_log.times import are_times
from emkd_jax.data.source import Source, decoded
from emkd_jax.errors import UserError

DELIMITERS = '\t,;|'
_VALUE = re.compile(r'[+-]?\d+([.,]\d+)?$|\d{4}-\d\d-\d\d')  # no name of a column
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


def sniff(source: Source, options: ml_collections.ConfigDict, of_items: bool = False) -> TextTable:
    """How the table is written, told by its first line and the options.

    Args:
      source: the file.
      options: `config.data`; its `columns` are those of the events.
      of_items: whether it is an item table, which must have a line of names.

    Raises:
      UserError: the first line is no list of names, and `data.columns` gives none.
    """
    lines = [line for line in source.first_lines() if line.strip()]
    header = lines[0]
    delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))
    quote = {'auto': '' if delimiter == '\t' else '"', 'none': ''}.get(options.quote, options.quote)
    cells = _cells(header, delimiter, quote)
    if options.columns and not of_items:
        names = tuple(name.strip() for name in options.columns.split(','))
        if len(names) != len(cells) or columns.has_usual_names(cells):
            raise UserError(
                f"{source.path} begins with '{_shown(header)}', which is no row of "
                f'{len(names)} values as data.columns={options.columns} has it; give a name for '
                'each column (_ for one that is not needed), or leave data.columns out if the '
                'file has a line of names.'
            )
        return TextTable(names, delimiter, quote, header_lines=0)
    if len(cells) < 2:
        if columns.has_usual_names([part.split(':')[0] for part in header.split()]):
            raise UserError(
                f"{source.path} is a table whose columns are separated by blanks ('"
                f"{_shown(header)}'), which is not read; separate them by commas or tabs."
            )
        raise UserError(
            f"{source.path} does not begin with a line of column names: '{_shown(header)}'; add "
            'one, or say what the file is with --config.data.format.'
        )
    if not decoded(header) or (
        not columns.has_usual_names(cells) and any(_VALUE.match(cell) for cell in cells)
    ):
        begins = f"{source.path} has no line of column names: it begins with '{_shown(header)}'"
        if of_items:
            raise UserError(
                f'{begins}; add one, such as item,category,title, or name another file with '
                '--config.data.attributes.'
            )
        raise UserError(
            f'{begins}. Add one, or name its {len(cells)} columns with '
            f'--config.data.columns={",".join(_guessed_names(cells))} (time for the times, _ for a '
            'column that is not needed).'
        )
    return TextTable(cells, delimiter, quote)


def _guessed_names(cells):
    """An example of names: a time if one cell reads as it, and the ids in the first others."""
    times = [place for place, cell in enumerate(cells) if are_times([cell])]
    names = ['_'] * len(cells)
    if len(times) == 1 and len(cells) > 2:
        names[times[0]] = 'time'
    free = [place for place, name in enumerate(names) if name == '_']
    for place, name in zip(free, ('user', 'item'), strict=False):
        names[place] = name
    return names


def _cells(line, delimiter, quote):
    if not quote:
        return tuple(cell.strip() for cell in line.split(delimiter))
    reader = csv.reader([line], delimiter=delimiter, quotechar=quote)
    return tuple(cell.strip() for cell in next(reader))


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


def read_table(log: OpenLog, table: TextTable) -> None:
    """Fills the table `read` with the rows of a text file whose form is known."""

    def events_of(relation: str) -> EventTable:
        sample = [row for _, row in itertools.islice(records(log.source, table), SAMPLE) if row]
        fields = [f'c{place}' for place in range(len(table.names))]
        return EventTable(table.names, fields, relation, sample)

    fill_from_text(log, table, events_of)


def fill_from_text(log: OpenLog, table: TextTable, events_of: Callable[[str], EventTable]) -> None:
    """`event_table.fill` for a text file, with complaints that name lines.

    Args:
      log: the file.
      table: its form.
      events_of: the events of a relation whose columns c0, c1, ... are the fields of the text.
    """
    database, source, options, report = log
    # A line may have an error for each of its fields.
    most_errors = _ERRORS_KEPT + len(table.names) * report.max_bad_lines
    relation = f'read_csv({_csv_arguments(source, table, most_errors)})'
    try:
        events = in_partitions(events_of(relation), source)
        fill(database, events, options, source.path, report)
    except duckdb.InvalidInputException as error:
        raise UserError(
            f'{source.path} cannot be read as a table: {reason(error)} (are its line ends and '
            'quotes the same throughout?).'
        ) from error
    rejected = _rejected(database, table)
    database.drop('reject_errors', 'reject_scans')  # those of another file will follow
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


def _csv_arguments(source, table, most_errors):
    named = ', '.join(f"'c{place}': 'VARCHAR'" for place in range(len(table.names)))
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
    errors = database.rows(
        'SELECT line, error_type, csv_line, error_message FROM reject_errors '
        'ORDER BY line, column_idx'
    )
    first = {}
    for record, *error in errors:  # what the database calls a line is a record
        first.setdefault(record - 1 - table.header_lines, error)
    return [(place, _complaint(table, *error)) for place, error in first.items()]


def _complaint(table, kind, text, message):
    text = text or ''
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
