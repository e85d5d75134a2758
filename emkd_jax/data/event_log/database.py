"""DuckDB as the engine of a log: a database on disk, within bounded memory."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow

from emkd_jax.data.event_log.engine import Engine, literal
from emkd_jax.errors import UserError

_MEMORY = '2GB'  # beyond it, the database works on disk
_MOST_THREADS = 8  # each takes its share of that memory
_ROWS = 500_000  # fetched at a time
# A date as ISO 8601 writes it; also with slashes, one-digit months, 'UTC', hours alone, and a blank
# before the offset.
ISO = (
    r'\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d{1,2}(:\d{1,2}(:\d{1,2}([.,]\d+)?)?)?)?'
    r'( ?(Z|UTC|GMT)| ?[+-]\d{2}(:?\d{2})?)?'
)


class Database(Engine):
    """The engine whose tables lie in a file of DuckDB.

    Files are read into it through its connection.
    """

    number = '(row_number() OVER ())::INTEGER'
    place = 'rowid'

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        """Takes over the connection to an empty database."""
        self.connection = connection
        # Jupyter without ipywidgets has no progress bar, and DuckDB then refuses to set it.
        with contextlib.suppress(duckdb.InvalidInputException):
            connection.execute('SET enable_progress_bar = false')
        connection.execute("SET TimeZone = 'UTC'")
        zone = "regexp_replace(replace(text, ',', '.'), ' ?(UTC|GMT|Z)$', 'Z')"
        zone = rf"regexp_replace({zone}, '(:\d{{1,2}}(\.\d+)?) ([+-])', '\1\3')"
        date = (
            f'CASE WHEN regexp_full_match(text, {literal(ISO)}) THEN coalesce('
            f'TRY_CAST({zone} AS TIMESTAMPTZ), '
            f"try_strptime(text, ['%Y-%m-%d %H', '%Y/%m/%d %H', '%Y-%m-%dT%H'])::TIMESTAMPTZ"
            ') END'
        )
        connection.execute(f'CREATE MACRO iso_microseconds(text) AS epoch_us({date})')

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """See `Engine`."""
        return self.connection.execute(query).fetchall()

    def keep(self, table: str, query: str) -> None:
        """See `Engine`."""
        self.connection.execute(f'CREATE TABLE replacement AS {query}')
        self.connection.execute(f'DROP TABLE IF EXISTS {table}')
        self.connection.execute(f'ALTER TABLE replacement RENAME TO {table}')

    def drop(self, *tables: str) -> None:
        """See `Engine`."""
        for table in tables:
            self.connection.execute(f'DROP TABLE {table}')

    def batches(self, query: str) -> Iterator[pyarrow.RecordBatch]:
        """See `Engine`."""
        yield from self.connection.sql(query).to_arrow_reader(_ROWS)


@contextlib.contextmanager
def open_database(scratch: pathlib.Path) -> Iterator[Database]:
    """A database whose files live in a folder beneath `scratch`, which is gone when this ends.

    Raises:
      UserError: the disk is full, or memory does not suffice.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        connection = duckdb.connect(
            f'{folder}/events.duckdb',
            config={
                'memory_limit': _MEMORY,
                'threads': min(os.cpu_count() or 1, _MOST_THREADS),
                'temp_directory': f'{folder}/spilled',
                'autoinstall_known_extensions': 'false',
            },
        )
        try:
            yield Database(connection)
        except duckdb.Error as error:
            raise UserError(
                f'The events cannot be sorted in {scratch} ({reason(error)}); make room, or set '
                'TFDS_DATA_DIR to a folder that has more.'
            ) from error
        finally:
            connection.close()


def file_literal(path: pathlib.Path) -> str:
    """The SQL text of a file's name, in which the database would take some marks for a pattern."""
    return literal(re.sub(r'[*?[]', r'[\g<0>]', str(path)))


def reason(error: duckdb.Error) -> str:
    """The first line of what the database complains about, without its kind."""
    return str(error).splitlines()[0].split(': ', 1)[-1].rstrip('.')
