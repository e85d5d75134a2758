"""From the rows of any relation to the table `read` of an engine, where bad ones are marked."""

import pathlib
from typing import NamedTuple

from emkd_jax.data.event_log.engine import Engine, literal
from emkd_jax.data.event_log.report import Report

_LONGEST_ID = 256  # characters
_SHOWN = 60  # characters of a bad value
_DECADES = 30 * 365 * 86400 * 10**6  # microseconds
# What programs write where there is nothing.
MISSING = ('nan', 'NaN', 'NAN', 'NA', 'N/A', '<NA>', 'NULL', 'null', 'None', 'NaT', '\\N')
_MISSING_SQL = '(' + ', '.join(f"'{word}'" for word in MISSING) + ')'
_COLUMNS = ('user_name', 'item_name', 'time', 'rating', 'kept', 'row', 'complaint')


class EventValues(NamedTuple):
    """SQL for the values of an event, as text, and the columns that they are from.

    Attributes:
      user, item, time, rating: SQL; None: there is none.
      microseconds: SQL for microseconds since 1970, made of `time`; NULL where the time cannot be
        read, and -1 where it lies before 1970 or after 2099.
      time_name, rating_name: the names of their columns.
      kept: SQL for whether the event is taken; None: all are.
      row: SQL for the number, from 0, of the row of the file; None: each row is an event.
      place: SQL by which events of the same user and time are ordered; None: the order of the rows
        where the engine knows it, and that of the items otherwise.
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
    place: str | None = None


def store(engine: Engine, relation: str, values: EventValues) -> None:
    """Puts the rows of the SQL `relation` into the table `read`, in their order.

    `read` has the columns user_name, item_name (text, without blanks around it), time (microseconds
    since 1970, NULL: there are none), rating (NULL: none), kept, row (of the file; NULL: that of
    the table), complaint (NULL: the row is fine, or is not kept), and place where it is given.
    """
    complaints = ['WHEN NOT kept THEN NULL']
    for role in ('user', 'item'):
        name = f'{role}_name'
        complaints.append(
            f"WHEN {name} IS NULL OR {name} = '' THEN 'the {role} is empty' "
            f"WHEN {name} IN {_MISSING_SQL} THEN 'the {role} is missing (' || {name} || ')' "
            f"WHEN length({name}) > {_LONGEST_ID} THEN 'the {role} is longer than {_LONGEST_ID} "
            f"characters' WHEN strpos({name}, chr(0)) > 0 THEN 'the {role} has a NUL character' "
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
    given = f', {values.place} AS place' if values.place else ''
    place = ''
    if engine.place == 'place':
        place = ', place' if values.place else ', item_name AS place'
    engine.keep(
        'read',
        f"""
        SELECT user_name, item_name, time, rating, kept, row,
            CASE {' '.join(complaints)} END AS complaint{place}
        FROM (
            SELECT {_trimmed(values.user)} AS user_name, {_trimmed(values.item)} AS item_name,
                {_trimmed(values.time)} AS time_text,
                {values.microseconds or 'NULL::BIGINT'} AS time,
                {_trimmed(values.rating)} AS rating_text,
                TRY_CAST({_trimmed(values.rating)} AS DOUBLE) AS rating,
                coalesce({values.kept or 'true'}, false) AS kept,
                {values.row or 'NULL::BIGINT'} AS row{given}
            FROM {relation}
        )
        """,
    )
    for role in ('user', 'item'):
        _drop_fractions(engine, f'{role}_name')
    if values.time:
        complain_of_other_times(engine, values.time_name)


def _drop_fractions(engine, name):
    """Makes '7.0' the id '7', as pandas writes whole numbers beside missing ones, if all are so."""
    is_fraction = f"regexp_matches({name}, '^-?[0-9]+\\.0$')"
    first = engine.rows(f'SELECT {is_fraction} FROM read WHERE complaint IS NULL LIMIT 1')
    if not first or not first[0][0]:  # the usual case, which needs no look at all rows
        return
    if engine.rows(f'SELECT bool_and({is_fraction}) FROM read WHERE complaint IS NULL')[0][0]:
        _change(engine, name, f"regexp_replace({name}, '\\.0$', '')")


def complain_of_other_times(engine: Engine, name: str) -> None:
    """Marks rows of `read` whose time, from the column `name`, lies decades from the middle one.

    Such times are in another unit, or stand for times that nobody knows.
    """
    middle = engine.rows(
        'SELECT approx_quantile(time, 0.5) FROM read WHERE complaint IS NULL AND kept'
    )[0][0]
    if middle is None:
        return
    far = f'complaint IS NULL AND kept AND abs(time - {int(middle)}) > {_DECADES}'
    if engine.rows(f'SELECT count(*) FROM read WHERE {far}')[0][0]:
        complaint = literal(f'the {name} lies decades apart from the others')
        _change(engine, 'complaint', f'CASE WHEN {far} THEN {complaint} ELSE complaint END')


def _change(engine, name, value):
    """Puts the SQL `value` in the place of a column of `read`."""
    columns = [*_COLUMNS, 'place'] if engine.place == 'place' else _COLUMNS
    selected = (f'{value} AS {name}' if column == name else column for column in columns)
    engine.keep('read', f'SELECT {", ".join(selected)} FROM read')


def _trimmed(text):
    return f"trim(({text or 'NULL'})::VARCHAR, ' ' || chr(9) || chr(10) || chr(13))"


def _unread(text, name):
    quote = literal("'")
    return (
        f'{quote} || left({text}, {_SHOWN}) || {literal(chr(39) + f" cannot be read as a {name}")}'
    )


def report_by_numbers(engine: Engine, path: pathlib.PurePath, report: Report) -> None:
    """Reports the rows of `read` that are no good, where it has them in order."""
    if bad := bad_rows(engine):
        report.bad_lines(path, f'row {bad.first + 1}', bad.complaint, bad.count)


def report_by_ids(engine: Engine, path: pathlib.PurePath, report: Report) -> None:
    """Reports the rows of `read` that are no good, where rows have no numbers."""
    ((count, user, item, complaint),) = engine.rows("""
        SELECT count(*), min_by(user_name, complaint), min_by(item_name, complaint), min(complaint)
        FROM read WHERE complaint IS NOT NULL
    """)
    if count:
        report.bad_lines(path, f'a row of user {user!r} and item {item!r}', complaint, count)


class BadRows(NamedTuple):
    """How many rows have a complaint, and of the first: its number from 0, and its complaint."""

    count: int
    first: int
    complaint: str


def bad_rows(engine: Engine) -> BadRows | None:
    """The rows of `read` that are no good, where it has them in order; None: all are fine."""
    place = f'coalesce(row, {engine.place})'
    ((count, first, complaint),) = engine.rows(
        f'SELECT count(*), min({place}), min_by(complaint, {place}) '
        'FROM read WHERE complaint IS NOT NULL'
    )
    return BadRows(count, first, complaint) if count else None
