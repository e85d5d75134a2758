"""How a column writes its times, and the SQL that reads them."""

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

import duckdb

from emkd_jax.data.event_log.database import Database
from emkd_jax.data.event_log.engine import literal
from emkd_jax.data.event_log.rows import MISSING
from emkd_jax.errors import UserError

_LAST = int(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()) * 10**6
# Units of a second, told by size: seconds until the year 2286, then milliseconds, and so on.
_UNITS = ((10**10, 1), (10**13, 10**3), (10**16, 10**6), (10**30, 10**9))
_NUMBER = re.compile(r'[+-]?\d{1,30}(\.\d*)?([eE][+-]?\d{1,2})?')
_TIME_OF_DAY = re.compile(r'\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?')
# Other usual forms, none of which can be taken for another one.
_FORMATS = (
    '%Y.%m.%d',
    '%Y.%m.%d %H:%M:%S',
    '%d.%m.%Y',
    '%d.%m.%Y %H:%M',
    '%d.%m.%Y %H:%M:%S',
    '%d %b %Y',
    '%d %B %Y',
    '%b %d, %Y',
    '%B %d, %Y',
    '%d-%b-%Y',
    '%d %b %Y %H:%M:%S',
    '%d-%b-%Y %H:%M:%S',
    '%d/%b/%Y:%H:%M:%S %z',
    '%a %b %d %H:%M:%S %Y',
    '%a %b %d %H:%M:%S %z %Y',
    '%a, %d %b %Y %H:%M:%S %z',
)
# Dates whose day and month stand before the year, and the times of day that may follow them.
_DAY_AND_MONTH = re.compile(r'(\d{1,2})([/-])(\d{1,2})\2\d{4}\b')
_CLOCKS = ('', ' %H:%M', ' %H:%M:%S', ' %I:%M %p', ' %I:%M:%S %p')
_FIRST_YEAR = 1990  # of a column that is taken for a time by its values alone


class TimeKind(NamedTuple):
    """How the times of a column are written.

    Attributes:
      units: how many units of numbers are a second; 0: they are dates.
      pattern: the format of the dates as `strptime` writes it; '' is ISO 8601.
    """

    units: int = 0
    pattern: str = ''

    def microseconds(self, text: str) -> str:
        """SQL for microseconds since 1970 of the SQL `text`; NULL where it is no such time.

        A time before 1970 or after 2099 gives -1.
        """
        text = f'trim({text})'
        if self.units:
            number = f'TRY_CAST({text} AS DECIMAL(38, 9))'
            limit = _LAST // 10**6 * self.units
            factor = 10**6 // self.units if self.units <= 10**6 else 10**6 / self.units
            return (
                f'CASE WHEN {number} IS NULL THEN NULL '
                f'WHEN {number} >= 0 AND {number} < {limit} '
                f'THEN CAST(floor({number} * {factor}) AS BIGINT) ELSE -1 END'
            )
        if self.pattern:
            time = f'epoch_us(try_strptime({text}, {literal(self.pattern)})::TIMESTAMPTZ)'
        else:
            time = f'iso_microseconds({text})'
        return (
            f'CASE WHEN {time} IS NULL THEN NULL WHEN {time} >= 0 AND {time} < {_LAST} '
            f'THEN {time} ELSE -1 END'
        )


_DATES = [TimeKind(), *(TimeKind(pattern=pattern) for pattern in _FORMATS)]
_COMPACT = [TimeKind(pattern=pattern) for pattern in ('%Y%m%d', '%Y%m%d%H%M%S')]  # digits alone


def time_kind(sample: Sequence[str], pattern: str, path, name: str) -> TimeKind:
    """Tells from some values of column `name` how its times are written.

    Numbers count seconds, milliseconds, microseconds or nanoseconds since 1970, told by the size of
    the middle one. All else must be dates, UTC where no offset is given. Of two numbers before the
    year, the one that exceeds 12 somewhere is the day.

    Args:
      sample: some values.
      pattern: the format that `data.time_format` gives, or ''.
      path: the file, for the complaint.
      name: the column, for the complaint.

    Raises:
      UserError: they are neither, or of a form with two readings.
    """
    if pattern:
        return TimeKind(pattern=pattern)
    filled = _filled(sample)
    numbers = sorted(float(value) for value in filled if _NUMBER.fullmatch(value))
    if len(numbers) > len(filled) / 2 or not filled:
        kind, count = _best(filled, _COMPACT)
        if filled and count == len(filled):
            return kind
        return _of_numbers(numbers)
    kind, count = _best(filled, _DATES)
    if count > len(filled) / 2:
        return kind
    odd = next(value for value in filled if not _NUMBER.fullmatch(value))
    if match := _DAY_AND_MONTH.match(odd):
        kind, count = _of_day_and_month(filled, match[2], path, name)
        if count > len(filled) / 2:
            return kind
    raise UserError(
        f"{path} has '{odd[:40]}' in column {name}, which is neither a number since 1970 nor a "
        'date of a usual form; mend it, say how the dates are written with '
        "--config.data.time_format='%Y-%m-%d', or name another column with "
        '--config.data.time_column.'
    )


def are_times(sample: Sequence[str]) -> bool:
    """Whether all values are times between 1990 and 2099, in any form; those missing do not count.

    Numbers that count other things are rarely that large; dates have marks between their parts.
    """
    filled = _filled(sample)
    if not filled:
        return False
    if all(_NUMBER.fullmatch(value) for value in filled):
        kinds = [_of_numbers(sorted(map(float, filled)))]
    else:
        kinds = _DATES
    first = datetime.datetime(_FIRST_YEAR, 1, 1, tzinfo=datetime.UTC).timestamp() * 10**6
    return any(
        all(time is not None and time >= first for time in times) for times in _read(filled, kinds)
    )


def are_times_of_day(sample: Sequence[str]) -> bool:
    """Whether all values are times of a day, such as 16:05."""
    filled = _filled(sample)
    return bool(filled) and all(_TIME_OF_DAY.fullmatch(value) for value in filled)


def _filled(sample):
    """The values that are not missing, without blanks around them."""
    texts = [(value or '').strip() for value in sample]
    return [text for text in texts if text and text not in MISSING]


def _of_numbers(numbers):
    """The kind of ascending numbers, by the size of the middle one."""
    middle = abs(numbers[len(numbers) // 2]) if numbers else 0
    return TimeKind(next((units for least, units in _UNITS if middle < least), 10**9))


def _of_day_and_month(values, mark, path, name):
    """The kind of dates whose day and month stand before the year, and how many it reads."""
    dates = [match for value in values if (match := _DAY_AND_MONTH.match(value))]
    is_day = [max(int(match[place]) for match in dates) > 12 for place in (1, 3)]
    forms = [
        _best(values, [TimeKind(pattern=f'{order}{clock}') for clock in _CLOCKS])
        for order in (f'%d{mark}%m{mark}%Y', f'%m{mark}%d{mark}%Y')
    ]
    if is_day[0] == is_day[1]:
        shown = ' or '.join(f"'{kind.pattern}'" for kind, _ in forms)
        raise UserError(
            f"{path} has '{dates[0].string[:40]}' in column {name}, where the day and the month "
            'may stand in either order; say how the dates are written with '
            f'--config.data.time_format, such as {shown}.'
        )
    return forms[is_day[1]]


def _best(values, kinds):
    """The kind that reads the most values, and how many it reads."""
    counts = [
        sum(time is not None and time >= 0 for time in times) for times in _read(values, kinds)
    ]
    return kinds[counts.index(max(counts))], max(counts)


def _read(values, kinds):
    """The microseconds of all values, by kind."""
    columns = ', '.join(f'list({kind.microseconds("value")} ORDER BY place)' for kind in kinds)
    with duckdb.connect() as connection:
        Database(connection)  # which teaches it the functions that the queries call
        (found,) = connection.execute(
            f'SELECT {columns} FROM (SELECT unnest(?::VARCHAR[]) AS value, '
            'generate_subscripts(?::VARCHAR[], 1) AS place)',
            [list(values), list(values)],
        ).fetchall()
    return [times or [] for times in found]
