"""The scratch database that events pass through: on disk, within bounded memory."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import duckdb

from emkd_jax.errors import UserError

_MEMORY = '2GB'  # beyond it, the database works on disk
_MOST_THREADS = 8  # each takes its share of that memory
_LONGEST_ID = 256  # characters


@contextlib.contextmanager
def open_database(folder: pathlib.Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database whose files live in `folder`, and are gone with it.

    Raises:
      UserError: the disk is full, or memory does not suffice.
    """
    database = duckdb.connect(
        str(folder / 'events.duckdb'),
        config={
            'memory_limit': _MEMORY,
            'threads': min(os.cpu_count() or 1, _MOST_THREADS),
            'temp_directory': str(folder / 'spilled'),
            'autoinstall_known_extensions': 'false',
        },
    )
    try:
        # Jupyter without ipywidgets has no progress bar, and DuckDB then refuses to set it.
        with contextlib.suppress(duckdb.InvalidInputException):
            database.execute('SET enable_progress_bar = false')
        database.execute("SET TimeZone = 'UTC'")
        yield database
    except duckdb.Error as error:
        raise UserError(
            f'The events cannot be sorted in {folder.parent} ({reason(error)}); make room, or set '
            'TFDS_DATA_DIR to a folder that has more.'
        ) from error
    finally:
        database.close()


def store(
    database: duckdb.DuckDBPyConnection,
    relation: str,
    user: str,
    item: str,
    time: str | None,
    rating: str | None,
) -> None:
    """Puts the rows of the SQL `relation` into the table `read`, in their order.

    `read` has the columns user_name, item_name (text), time (microseconds since 1970, NULL: there
    are none), rating (NULL: none) and complaint (NULL: the row is fine). The other arguments are
    SQL for the four values.
    """
    complaints = [
        f"WHEN {name} IS NULL OR {name} = '' THEN 'the {name[:4]} is empty' "
        f"WHEN length({name}) > {_LONGEST_ID} THEN 'the {name[:4]} is longer than {_LONGEST_ID} "
        f"characters' WHEN contains({name}, chr(0)) THEN 'the {name[:4]} has a NUL character'"
        for name in ('user_name', 'item_name')
    ]
    if time:
        complaints.append(
            "WHEN time IS NULL THEN 'the timestamp is missing or cannot be read' "
            "WHEN time < 0 THEN 'the timestamp lies before 1970 or after 2099'"
        )
    database.execute(f"""
        CREATE TABLE read AS
        SELECT *, CASE {' '.join(complaints)} END AS complaint
        FROM (
            SELECT {user}::VARCHAR AS user_name, {item}::VARCHAR AS item_name,
                {time or 'NULL::BIGINT'} AS time, {rating or 'NULL'}::DOUBLE AS rating
            FROM {relation}
        )
    """)


class BadRows(NamedTuple):
    """How many rows have a complaint, and of the first: its number from 0, and its complaint."""

    count: int
    first: int
    complaint: str


def bad_rows(database: duckdb.DuckDBPyConnection) -> BadRows | None:
    """The rows of `read` that are no good; None: all are fine."""
    found = BadRows(
        *database.execute(
            'SELECT count(*), min(rowid), arg_min(complaint, rowid) FROM read '
            'WHERE complaint IS NOT NULL'
        ).fetchall()[0]
    )
    return found if found.count else None


def literal(value: str) -> str:
    """The SQL text of a string."""
    text = value.replace("'", "''")
    return f"'{text}'"


def file_literal(path: pathlib.Path) -> str:
    """The SQL text of a file's name, in which the database would take some marks for a pattern."""
    return literal(re.sub(r'[*?[]', r'[\g<0>]', str(path)))


def reason(error: duckdb.Error) -> str:
    """The first line of what the database complains about, without its kind."""
    return str(error).splitlines()[0].split(': ', 1)[-1].rstrip('.')
