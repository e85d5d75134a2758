"""Event tables in a database file of DuckDB or SQLite.

DuckDB reads its own files in place. Tables of SQLite come through Python's own library, because
DuckDB has its reader of SQLite in an extension that must be downloaded.
"""

import contextlib
import sqlite3
from collections.abc import Sequence

import duckdb
import pyarrow

from emkd_jax.data.event_log.database import file_literal, reason
from emkd_jax.data.event_log.engine import quoted
from emkd_jax.data.event_log.event_table import SAMPLE, EventTable, fill
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.rows import report_by_numbers
from emkd_jax.data.event_log.tables import described_table, value_text
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

_ROWS = 100_000  # of SQLite in memory at a time


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """A database by the first bytes of its file."""
    return bool(source.database)


def read_events(log: OpenLog) -> None:
    """Fills the table `read` from the table that `data.table` names, or the only one."""
    path = log.source.path
    try:
        table = _duckdb_table(log) if log.source.database == 'duckdb' else _sqlite_table(log)
    except (sqlite3.Error, duckdb.Error) as error:
        why = reason(error) if isinstance(error, duckdb.Error) else error
        raise UserError(f'{path} cannot be read as a database ({why}).') from error
    fill(log.database, table, log.options, path, log.report)
    report_by_numbers(log.database, path, log.report)
    # Those of another file of the log may follow.
    log.database.connection.execute('DROP TABLE IF EXISTS copied')
    log.database.connection.execute('DETACH DATABASE IF EXISTS theirs')


def _duckdb_table(log):
    log.database.connection.execute(f'ATTACH {file_literal(log.source.path)} AS theirs (READ_ONLY)')
    tables = {
        name if schema == 'main' else f'{schema}.{name}': f'theirs.{quoted(schema)}.{quoted(name)}'
        for schema, name in log.database.rows(
            'SELECT schema_name, table_name FROM duckdb_tables() '
            "WHERE database_name = 'theirs' UNION ALL "
            'SELECT schema_name, view_name FROM duckdb_views() '
            "WHERE database_name = 'theirs' AND NOT internal ORDER BY ALL"
        )
    }
    return described_table(log.database, tables[_chosen(log, list(tables))])


def _sqlite_table(log):
    uri = f'{log.source.path.absolute().as_uri()}?mode=ro'
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        table = _chosen(log, [name for (name,) in found])
        rows = connection.execute(f'SELECT * FROM {quoted(table)}')
        names = [column[0] for column in rows.description]
        fields = [f'c{place}' for place in range(len(names))]
        database = log.database.connection
        database.execute(f'CREATE TABLE copied ({", ".join(f"{name} VARCHAR" for name in fields)})')
        while part := rows.fetchmany(_ROWS):
            columns = ([_text(value) for value in column] for column in zip(*part, strict=True))
            arrays = [pyarrow.array(column, pyarrow.string()) for column in columns]
            database.register('part', pyarrow.table(arrays, fields))
            database.execute('INSERT INTO copied SELECT * FROM part')
            database.unregister('part')
    sample = log.database.rows(f'SELECT * FROM copied LIMIT {SAMPLE}')
    return EventTable(names, fields, 'copied', sample)


def _chosen(log, tables):
    """The table that `data.table` names, else the only one."""
    wanted = log.options.table
    if wanted in tables or (not wanted and len(tables) == 1):
        return wanted or tables[0]
    listed = ', '.join(tables) or 'no tables'
    raise UserError(
        f'{log.source.path} holds {listed}'
        + (f', but not {wanted}' if wanted else '')
        + '; name the table of the events with --config.data.table.'
    )


def _text(value):
    if value is None:
        return None
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value_text(value)
