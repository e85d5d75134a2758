"""Which column of a table is which, and what its timestamps are."""

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from emkd_jax.errors import UserError

# Names known without an option, the likeliest first; compared in lower case.
_USUAL = {
    'user': (
        'user',
        'user_id',
        'userid',
        'reviewerid',
        'customer',
        'customer_id',
        'customerid',
        'visitorid',
        'session_id',
        'sessionid',
    ),
    'item': (
        'item',
        'item_id',
        'itemid',
        'asin',
        'product',
        'product_id',
        'productid',
        'movie_id',
        'movieid',
        'article_id',
        'sku',
    ),
    'time': (
        'timestamp',
        'time',
        'datetime',
        'date',
        'unixreviewtime',
        'event_time',
        'created_at',
        't_dat',
        'ts',
    ),
    'rating': ('rating', 'overall', 'score', 'stars'),
    'title': ('title', 'movie_title', 'name', 'product_name', 'item_name'),
}
ATTRIBUTES = ('attributes', 'categories', 'category', 'genres', 'genre', 'brand', 'class', 'tags')

LAST_TIME = int(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()) * 10**6
# Units of a second, told by size: seconds until the year 2286, then milliseconds, and so on.
_UNITS = ((10**10, 1), (10**13, 10**3), (10**16, 10**6), (10**30, 10**9))


class EventColumns(NamedTuple):
    """Places of an event table's columns; None: there is none."""

    user: int
    item: int
    time: int | None
    rating: int | None


def event_columns(names: Sequence[str], options: ml_collections.ConfigDict, path) -> EventColumns:
    """Finds the columns of the event table `path` by option or by their usual names.

    Raises:
      UserError: there is no such column.
    """
    user, item, time, rating = (
        find_column(names, role, options[f'{role}_column'], path)
        for role in ('user', 'item', 'time', 'rating')
    )
    for role, place in (('user', user), ('item', item)):
        if place is None:
            raise missing(names, role, path)
    if rating is None and options.min_rating:
        raise missing(names, 'rating', path, f'data.min_rating={options.min_rating} needs it: ')
    if time is None and options.split == 'time':
        raise missing(names, 'time', path, 'data.split=time needs it: ')
    # What nothing is filtered by is not read, so that it may be anything.
    return EventColumns(user, item, time, rating if options.min_rating else None)


def find_column(names: Sequence[str], role: str, named: str, path) -> int | None:
    """The place of the column that the option named, else of one with a usual name."""
    if named:
        places = [place for place, name in enumerate(names) if name == named]
        if len(places) != 1:
            raise UserError(
                f"{path} has {'no' if not places else 'more than one'} column '{named}', which "
                f'--config.data.{role}_column names; its columns are {", ".join(names)}.'
            )
        return places[0]
    lower = [name.lower() for name in names]
    return next((lower.index(usual) for usual in _USUAL[role] if usual in lower), None)


def missing(names: Sequence[str], role: str, path, why: str = '') -> UserError:
    """The complaint that a table lacks the column of a role."""
    return UserError(
        f'{why}{path} has no column that is known to hold the {role}; its columns are '
        f'{", ".join(names)}: name one with --config.data.{role}_column.'
    )


class TimeKind(NamedTuple):
    """How a timestamp column is written: `sql_type`, and for numbers the units of a second."""

    sql_type: str
    units: int = 1

    def microseconds(self, column: str) -> str:
        """SQL for microseconds since 1970; -1 where that is before 1970 or after 2099."""
        if self.sql_type == 'TIMESTAMPTZ':
            value = f'epoch_us({column})'
        elif self.sql_type == 'DOUBLE':
            value = f'{column} * {10**6 / self.units!r}'
        elif self.units <= 10**6:
            value = f'{column}::HUGEINT * {10**6 // self.units}'
        else:
            value = f'{column} // {self.units // 10**6}'
        fine = f'{value} >= 0 AND {value} < {LAST_TIME}'
        return (
            f'CASE WHEN {column} IS NULL THEN NULL WHEN {fine} THEN CAST({value} AS BIGINT) '
            'ELSE -1 END'
        )


def time_kind(sample: Sequence[str], path, name: str) -> TimeKind:
    """Tells from some values of column `name` how its timestamps are written.

    Whole or fractional numbers count seconds, milliseconds, microseconds or nanoseconds since 1970,
    told by the size of the middle one; all else must be ISO dates, UTC where no offset is given.

    Raises:
      UserError: they are neither.
    """
    filled = [value for value in sample if value]
    numbers = sorted(float(value) for value in filled if _NUMBER.fullmatch(value))
    if len(numbers) > len(filled) / 2 or not filled:
        whole = all(_WHOLE.fullmatch(value) for value in filled if _NUMBER.fullmatch(value))
        middle = abs(numbers[len(numbers) // 2]) if numbers else 0
        units = next(units for least, units in _UNITS if middle < least or units == 10**9)
        return TimeKind('BIGINT' if whole else 'DOUBLE', units)
    if sum(map(_is_date, filled)) > len(filled) / 2:
        return TimeKind('TIMESTAMPTZ')
    odd = next(value for value in filled if not _is_date(value))
    raise UserError(
        f"{path} has '{odd[:40]}' in column {name}, which is neither a number since 1970 nor a "
        'date like 2014-07-23 or 2014-07-23T10:00:00; mend it, or name another column with '
        '--config.data.time_column.'
    )


_WHOLE = re.compile(r'[+-]?\d{1,30}')
_NUMBER = re.compile(r'[+-]?\d{1,30}(\.\d*)?([eE][+-]?\d{1,2})?')


def _is_date(value):
    try:
        datetime.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
