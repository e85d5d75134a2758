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
_SHOWN = 60  # characters of a bad value
_DECADES = 30 * 365 * 86400 * 10**6  # microseconds
# What programs write where there is nothing.
MISSING = ('nan', 'NaN', 'NAN', 'NA', 'N/A', '<NA>', 'NULL', 'null', 'None', 'NaT', '\\N')
_MISSING_SQL = '(' + ', '.join(f"'{word}'" for word in MISSING) + ')'


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


class EventValues(NamedTuple):
    """SQL for the values of an event, as text, and the columns that they are from.

    Attributes:
      user, item, time, rating: SQL; None: there is none.
      microseconds: SQL for microseconds since 1970, made of `time`; NULL where the time cannot be
        read, and -1 where it lies before 1970 or after 2099.
      time_name, rating_name: the names of their columns.
      kept: SQL for whether the event is taken; None: all are.
      row: SQL for the number, from 0, of the row of the file; None: each row is an event.
    """

    user: str
    item: str
    time: str | None = None
    microseconds: str | None = None
    rating: str | None = None
    time_name: str = 'timestamp'
    rating_name: str = 'rating'
    kept: str | None = None
    row: str | None = None


def store(database: duckdb.DuckDBPyConnection, relation: str, values: EventValues) -> None:
    """Puts the rows of the SQL `relation` into the table `read`, in their order.

    `read` has the columns user_name, item_name (text, without blanks around it), time (microseconds
    since 1970, NULL: there are none), rating (NULL: none), kept, row (of the file; NULL: that of
    the table), and complaint (NULL: the row is fine, or is not kept).
    """
    complaints = ['WHEN NOT kept THEN NULL']
    for role in ('user', 'item'):
        name = f'{role}_name'
        complaints.append(
            f"WHEN {name} IS NULL OR {name} = '' THEN 'the {role} is empty' "
            f"WHEN {name} IN {_MISSING_SQL} THEN 'the {role} is missing (' || {name} || ')' "
            f"WHEN length({name}) > {_LONGEST_ID} THEN 'the {role} is longer than {_LONGEST_ID} "
            f"characters' WHEN contains({name}, chr(0)) THEN 'the {role} has a NUL character' "
            f"WHEN regexp_matches({name}, '[\\t\\r\\n]') "
            f"THEN 'the {role} has a tab or a line break in it'"
        )
    if values.time:
        name = values.time_name
        complaints.append(
            f"WHEN time_text IS NULL OR time_text = '' OR time_text IN {_MISSING_SQL} "
            f'THEN {literal(f"the {name} is missing")} '
            f'WHEN time IS NULL THEN {_unread("time_text", name)} '
            f'WHEN time < 0 THEN {literal(f"the {name} (")} || left(time_text, {_SHOWN}) '
            "|| ') lies before 1970 or after 2099'"
        )
    if values.rating:
        complaints.append(
            f"WHEN rating IS NULL AND rating_text <> '' AND rating_text NOT IN {_MISSING_SQL} "
            f'THEN {_unread("rating_text", values.rating_name)}'
        )
    database.execute(f"""
        CREATE TABLE read AS
        SELECT user_name, item_name, time, rating, kept, row,
            CASE {' '.join(complaints)} END AS complaint
        FROM (
            SELECT {_trimmed(values.user)} AS user_name, {_trimmed(values.item)} AS item_name,
                {_trimmed(values.time)} AS time_text,
                {values.microseconds or 'NULL::BIGINT'} AS time,
                {_trimmed(values.rating)} AS rating_text,
                TRY_CAST({_trimmed(values.rating)} AS DOUBLE) AS rating,
                coalesce({values.kept or 'true'}, false) AS kept,
                {values.row or 'NULL::BIGINT'} AS row
            FROM {relation}
        )
    """)
    for role in ('user', 'item'):
        _drop_fractions(database, f'{role}_name')
    if values.time:
        # Such times are in another unit, or stand for times that nobody knows.
        database.execute(f"""
            UPDATE read SET complaint = {literal(f'the {values.time_name} lies decades apart')} ||
                ' from the others'
            WHERE complaint IS NULL AND kept AND abs(time - (
                SELECT approx_quantile(time, 0.5) FROM read WHERE complaint IS NULL AND kept
            )) > {_DECADES}
        """)


def _drop_fractions(database, name):
    """Makes '7.0' the id '7', as pandas writes whole numbers beside missing ones, if all are so."""
    fraction = "'-?[0-9]+\\.0'"
    first = database.execute(f"""
        SELECT regexp_full_match({name}, {fraction}) FROM read WHERE complaint IS NULL LIMIT 1
    """).fetchall()
    if not first or not first[0][0]:  # the usual case, which needs no look at all rows
        return
    if database.execute(f"""
        SELECT bool_and(regexp_full_match({name}, {fraction})) FROM read WHERE complaint IS NULL
    """).fetchall()[0][0]:
        database.execute(f"UPDATE read SET {name} = regexp_replace({name}, '\\.0$', '')")


def _trimmed(text):
    return f"trim(({text or 'NULL'})::VARCHAR, ' ' || chr(9) || chr(10) || chr(13))"


def _unread(text, name):
    quote = literal("'")
    return (
        f'{quote} || left({text}, {_SHOWN}) || {literal(chr(39) + f" cannot be read as a {name}")}'
    )


class BadRows(NamedTuple):
    """How many rows have a complaint, and of the first: its number from 0, and its complaint."""

    count: int
    first: int
    complaint: str


def bad_rows(database: duckdb.DuckDBPyConnection) -> BadRows | None:
    """The rows of `read` that are no good; None: all are fine."""
    found = BadRows(
        *database.execute(
            'SELECT count(*), min(coalesce(row, rowid)), '
            'arg_min(complaint, coalesce(row, rowid)) FROM read WHERE complaint IS NOT NULL'
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
