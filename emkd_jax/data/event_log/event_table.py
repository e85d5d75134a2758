"""From the columns of a table, whatever file it is in, to events in an engine."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_collections

from emkd_jax.data.event_log import columns
from emkd_jax.data.event_log.columns import EventColumns
from emkd_jax.data.event_log.engine import Engine, literal
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import EventValues, store
from emkd_jax.data.event_log.times import TimeKind, time_kind
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

SAMPLE = 1000  # rows that tell how values are written
_MOST_KINDS = 20  # of events, that are listed


class EventTable(NamedTuple):
    """A table of events as an engine sees it.

    Attributes:
      names: the names of its columns.
      sql: SQL for the value of each column in `relation`, as text.
      relation: SQL.
      sample: some of the first rows, as text; None is a missing value.
      row: SQL for the number of the file's row, from 0; None: each row of `relation` is one.
      lists: SQL for the columns that hold lists, by their places.
      dates: places of the columns whose type is a date, which are text of ISO 8601.
      place: SQL by which events of the same user and time are ordered; None: the engine knows.
    """

    names: Sequence[str]
    sql: Sequence[str]
    relation: str
    sample: Sequence[Sequence[str | None]]
    row: str | None = None
    lists: Mapping[int, str] = MappingProxyType({})
    dates: frozenset[int] = frozenset()
    place: str | None = None


def typed_table(
    engine: Engine, relation: str, fields: Sequence[tuple[str, str, str]], **more: Any
) -> EventTable:
    """The events of a relation whose columns have types.

    Args:
      engine: what knows the relation.
      relation: SQL.
      fields: the name, SQL and SQL type of each column.
      **more: other attributes of the table.
    """
    names, columns, kinds = zip(*fields, strict=True)
    sql = [as_text(*pair) for pair in zip(columns, kinds, strict=True)]
    sample = engine.rows(f'SELECT {", ".join(sql)} FROM {relation} LIMIT {SAMPLE}')
    dates = (
        place for place, kind in enumerate(kinds) if kind.lower().startswith(('timestamp', 'date'))
    )
    return EventTable(names, sql, relation, sample, dates=frozenset(dates), **more)


def in_partitions(table: EventTable, source: Source) -> EventTable:
    """A file's events with the columns that the names of its folders hold beside them."""
    new = [(name, value) for name, value in source.partitions if name not in table.names]
    return table._replace(
        names=[*table.names, *(name for name, _ in new)],
        sql=[*table.sql, *(literal(value) for _, value in new)],
        sample=[[*row, *(value for _, value in new)] for row in table.sample],
    )


def fill(
    engine: Engine, table: EventTable, options: ml_collections.ConfigDict, path, report: Report
) -> None:
    """Fills the table `read` (see `rows.store`) and reports which columns were taken.

    Raises:
      UserError: the table lacks a column, or its times cannot be told.
    """
    found = columns.event_columns(table.names, options, path, table.sample)
    time, kind = None, None
    if found.sequence is not None:
        _store_sequences(engine, table, found, options, path, report)
    else:
        if found.time is not None:
            time, kind = _times(table, found, options, path)
        store(engine, table.relation, _event_values(table, found, time, kind, options, path))
    told = kind.pattern if kind is not None and not options.time_format else ''
    report.say_once(_shown_columns(table.names, found, told))
    kinds = columns.kind_of_event(table.names, found)
    if kinds is not None and not options.keep:
        values = sorted({row[kinds] or '' for row in table.sample if len(row) > kinds} - {''})
        if 1 < len(values) <= _MOST_KINDS:
            name = table.names[kinds]
            report.say_once(
                f'  {name} holds {", ".join(values)}: all are taken; '
                f"--config.data.keep='{name}={values[0]}' takes one kind"
            )


def _times(table, found, options, path):
    """SQL for the text of the times, and how they are written."""
    time = table.sql[found.time]
    sample = [row[found.time] or '' for row in table.sample if len(row) > found.time]
    if (clock := found.time_of_day) is not None:
        time = f"trim({time}) || ' ' || trim({table.sql[clock]})"
        sample = [f'{row[found.time]} {row[clock]}' for row in table.sample if len(row) > clock]
    if found.time in table.dates:
        return time, TimeKind()
    return time, time_kind(sample, options.time_format, path, table.names[found.time])


def _event_values(table, found, time, kind, options, path):
    return EventValues(
        user=table.sql[found.user],
        item=table.sql[found.item],
        time=time,
        microseconds=kind and kind.microseconds(f'({time})'),
        rating=None if found.rating is None else table.sql[found.rating],
        time_name='' if found.time is None else table.names[found.time],
        rating_name='' if found.rating is None else table.names[found.rating],
        kept=_kept(table, options, path),
        row=table.row,
        place=table.place,
    )


def as_text(column: str, kind: str) -> str:
    """SQL for a column of an SQL type as text; whole numbers have no fraction, NaN is missing."""
    if kind.upper() == 'TIME WITH TIME ZONE':  # of a day whose zone is not known
        return f'{column}::TIME::VARCHAR'
    if kind.upper() not in ('FLOAT', 'DOUBLE'):
        return f'{column}::VARCHAR'
    return (
        f'CASE WHEN isnan({column}) THEN NULL WHEN {column} = floor({column}) '
        f'AND abs({column}) < 9e15 THEN TRY_CAST({column} AS BIGINT)::VARCHAR '
        f'ELSE {column}::VARCHAR END'
    )


def _kept(table, options, path):
    """SQL for whether `data.keep` keeps a row."""
    if not options.keep:
        return None
    name, mark, values = options.keep.partition('=')
    name = name.strip()
    if not mark or name not in table.names:
        raise UserError(
            f"data.keep is '{options.keep}', but {path} has the columns "
            f'{columns.listed(table.names)}; give it as column=value, or column=value,value.'
        )
    wanted = ', '.join(literal(value.strip()) for value in values.split(','))
    return f'trim({table.sql[table.names.index(name)]}) IN ({wanted})'


def _store_sequences(engine, table, found, options, path, report):
    """Stores the events of a table whose rows hold whole histories.

    A row whose history begins a longer one of the same user is a step on the way to it, as in the
    augmented files of RecBole; the longest is taken.
    """
    cell = table.sql[found.sequence]
    items = table.lists.get(
        found.sequence,
        f"""CASE WHEN starts_with(trim({cell}), '[') THEN
            TRY(from_json(replace({cell}, chr(39), chr(34)), '["VARCHAR"]'))
        ELSE string_split_regex(trim({cell}), '[\\s,;|]+') END""",
    )
    if found.item is not None and found.item != found.sequence:
        items = f'list_append({items}, {table.sql[found.item]})'
    number = 'number_of_the_row'  # counted before rows are left out, so that it is the file's
    user = f'{number}::VARCHAR' if found.user is None else f'trim({table.sql[found.user]})'
    engine.keep(
        'rows',
        f"""
        SELECT {number} - 1 AS number, {user} AS user, {items} AS items
        FROM (SELECT *, row_number() OVER () AS {number} FROM {table.relation})
        WHERE {_kept(table, options, path) or 'true'}
    """,
    )
    engine.keep(
        'histories',
        """
        SELECT user, arg_max(items, len(items)) AS items, min(number) AS number
        FROM rows GROUP BY user ORDER BY number
    """,
    )
    ((count, first),) = engine.rows("""
        SELECT count(*), min(rows.number) FROM rows JOIN histories USING (user)
        WHERE rows.items <> histories.items[1:len(rows.items)] OR rows.items IS NULL
    """)
    if count:
        report.bad_lines(
            path,
            f'row {first + 1}',
            'its sequence cannot be read, or neither begins nor continues the others of its user',
            count,
        )
    store(
        engine,
        '(SELECT user, unnest(items) AS item, number FROM histories WHERE items IS NOT NULL)',
        EventValues(user='user', item='item', row='number'),
    )
    engine.drop('rows', 'histories')


def _shown_columns(names, found: EventColumns, pattern: str):
    """The line that says which columns were taken, and how dates were taken to be written."""
    parts = [
        f'{role} = {columns.NONE if place is None else names[place]}'
        for role, place in zip(('user', 'item'), found[:2], strict=True)
    ]
    if found.sequence is not None:
        parts.append(f'sequence = {names[found.sequence]}')
    if found.time is None:
        parts.append(f'time = {columns.NONE} (the order of the file)')
    else:
        clock = '' if found.time_of_day is None else f' and {names[found.time_of_day]}'
        form = pattern and f' (read as {pattern})'
        parts.append(f'time = {names[found.time]}{clock}{form}')
    if found.rating is not None:
        parts.append(f'rating = {names[found.rating]}')
    else:
        unused = columns.has_ratings(names)
        parts.append(f'rating = {"not used (data.min_rating is 0)" if unused else columns.NONE}')
    return f'columns: {", ".join(parts)}'
