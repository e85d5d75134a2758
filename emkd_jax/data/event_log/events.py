"""From the rows read to numbered histories: filters and order, in the engine that holds them.

The order of a user's events is that of their timestamps; events with the same timestamp, and all of
them where there are none, keep the order of the file. Users and items are numbered in the order of
their ids (by value if all are whole numbers, by code point otherwise), whatever that of the rows.
"""

import datetime
from typing import NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Int8, Int64, Shaped

from emkd_jax.data.dataset import Ragged
from emkd_jax.data.event_log import ids
from emkd_jax.data.event_log.cuts import Cuts, find_cuts
from emkd_jax.data.event_log.engine import Engine
from emkd_jax.data.event_log.report import Report
from emkd_jax.errors import UserError

_MANY_TIES = 0.1  # of the events share user and timestamp with the one before: worth a warning


class Events(NamedTuple):
    """The events that are left, of every user in the order of their times.

    Attributes:
      histories: the items of every user, numbered from 1.
      times: of every event, in seconds since 1970; None where the log has no times.
      periods: of every event: 0 is training, 1 validation, 2 test; all 0 where `cuts` is None.
      trained: indices, ascending, of the users who are left in the training period.
      user_ids, item_ids: the ids of the log.
      cuts: where validation and test begin; None: leave one out.
    """

    histories: Ragged
    times: Int64[np.ndarray, ' events'] | None
    periods: Int8[np.ndarray, ' events']
    trained: Shaped[np.ndarray, ' trained']
    user_ids: Shaped[np.ndarray, ' users']
    item_ids: Shaped[np.ndarray, ' items']
    cuts: Cuts | None


def collect(engine: Engine, options: ml_collections.ConfigDict, path, report: Report) -> Events:
    """Filters the table `read`, which came from `path`, and fetches what is left.

    With a split by time the k-core is that of the training period, so that the future decides
    nothing about training: which items there are, and which users are trained on.

    Raises:
      UserError: nothing is left, or more items than `data.max_items`.
    """
    _number(engine)
    _say_what_was_read(engine, path, report)
    _drop_low_ratings(engine, options, report)
    _drop_repeats(engine, report)
    cuts = find_cuts(engine, options.cuts) if options.split == 'time' else None
    _find_core(engine, options, cuts, report)
    num_items = _count(engine, 'known_items')
    if num_items > options.max_items:
        raise UserError(
            f'{path} has {num_items:,} items after filtering, more than data.max_items='
            f'{options.max_items:,}; raise data.k_core, or data.max_items if the memory is there: '
            'every item costs each network two rows of model.hidden_dim weights and two Adam '
            'moments of each.'
        )
    _keep_known(engine, cuts, report)
    return _fetch(engine, cuts, report)


def _count(engine, table):
    return engine.rows(f'SELECT count(*) FROM {table}')[0][0]


def _number(engine):
    """Tables users and items (name, number), and events by number."""
    for role in ('user', 'item'):
        engine.keep(
            f'{role}s',
            f"""
            SELECT name, {engine.number} AS number
            FROM (SELECT DISTINCT {role}_name AS name FROM read WHERE complaint IS NULL AND kept)
            """,
        )
    engine.keep(
        'events',
        f"""
        SELECT users.number AS user_number, items.number AS item_number, time, rating,
            read.{engine.place} AS place
        FROM read JOIN users ON user_name = users.name JOIN items ON item_name = items.name
        WHERE complaint IS NULL AND kept
        """,
    )
    engine.drop('read')


def _say_what_was_read(engine, path, report):
    users, items, events = (_count(engine, table) for table in ('users', 'items', 'events'))
    if not events:
        raise UserError(f'{path} holds no events that can be read; name another data.source.')
    first, last = engine.rows('SELECT min(time), max(time) FROM events')[0]
    span = '' if first is None else f', {_day(first)} .. {_day(last)}'
    report.say(f'{path.name}: {events:,} events of {users:,} users on {items:,} items{span}')


def _day(microseconds):
    return datetime.datetime.fromtimestamp(microseconds // 10**6, datetime.UTC).date()


def _replace(engine, table, query):
    """Puts what `query` selects in the place of `table`; returns how many rows fewer that is."""
    before = _count(engine, table)
    engine.keep(table, query)
    return before - _count(engine, table)


def _drop_low_ratings(engine, options, report):
    if not options.min_rating:
        return
    dropped = _replace(
        engine,
        'events',
        f"""
        SELECT * FROM events WHERE rating >= {options.min_rating!r} AND NOT isnan(rating)
    """,
    )
    report.left_out(dropped, f'events rated below {options.min_rating} or not at all')


def _drop_repeats(engine, report):
    """The same user, item and timestamp again is the same event."""
    if not engine.rows('SELECT count(time) FROM events')[0][0]:
        return
    dropped = _replace(
        engine,
        'events',
        """
        SELECT user_number, item_number, time, min(place) AS place FROM events
        GROUP BY user_number, item_number, time
    """,
    )
    report.left_out(dropped, 'events that repeat one of the same user, item and timestamp')


def _find_core(engine, options, cuts, report):
    """Tables known_users and known_items: the largest sets with enough events among one another.

    Such a set is unique (a k-core), so the order of removals makes no difference.
    """
    least = {'user': max(options.k_core, options.min_length, 1), 'item': max(options.k_core, 1)}
    in_training = 'true' if cuts is None else f'time < {cuts.validation}'
    engine.keep('core', f'SELECT * FROM events WHERE {in_training}')
    before = _count(engine, 'core')
    enough = ' AND '.join(
        f'{role}_number IN (SELECT {role}_number FROM core GROUP BY {role}_number '
        f'HAVING count(*) >= {count})'
        for role, count in least.items()
    )
    rounds = 1
    while _replace(engine, 'core', f'SELECT user_number, item_number FROM core WHERE {enough}'):
        rounds += 1
    left = _count(engine, 'core')
    rule = f'{least["user"]} events and every item {least["item"]}'
    if not left:
        period = '' if cuts is None else ' before the validation period'
        raise UserError(
            f'None of the {before:,} events{period} is left when every user must have {rule}; '
            'lower data.k_core or data.min_length.'
        )
    report.left_out(
        before - left, f'events so that every user has {rule} (k-core, {rounds} rounds)'
    )
    for role in least:
        engine.keep(
            f'known_{role}s', f'SELECT {role}_number AS number FROM core GROUP BY {role}_number'
        )
    engine.drop('core')


def _keep_known(engine, cuts, report):
    """Leaves the events on known items; of known users only, where the split is not by time."""
    users = 'AND user_number IN (SELECT number FROM known_users)' if cuts is None else ''
    dropped = _replace(
        engine,
        'events',
        f"""
        SELECT user_number, item_number, time, place FROM events
        WHERE item_number IN (SELECT number FROM known_items) {users}
    """,
    )
    if cuts is not None:
        report.left_out(dropped, 'events in all on items that training does not know')


def _rank(engine, role, kept):
    """Table {role}_ranks (number, rank from 0) in the order of the names of `kept`; these names."""
    these = f'{role}s WHERE number IN (SELECT number FROM {kept})'
    numeric = engine.rows(f'SELECT bool_and({ids.IS_NUMBER}) FROM {these}')[0][0]
    engine.keep(
        f'{role}_ranks',
        f"""
        SELECT number, name, row_number() OVER (
            ORDER BY {'name::BIGINT' if numeric else 'name'}
        )::INTEGER - 1 AS rank
        FROM {these}
        """,
    )
    return ids.as_array(_column(engine, f'SELECT name FROM {role}_ranks ORDER BY rank'))


def _column(engine, query):
    return [value for batch in engine.batches(query) for value in batch.column(0).to_pylist()]


def _fetch(engine, cuts, report):
    engine.keep('left_users', 'SELECT DISTINCT user_number AS number FROM events')
    user_ids = _rank(engine, 'user', 'left_users')
    item_ids = _rank(engine, 'item', 'known_items')
    trained = np.array(
        _column(
            engine, 'SELECT rank FROM user_ranks WHERE number IN (SELECT number FROM known_users)'
        ),
        np.int32,
    )
    trained.sort()
    count = _count(engine, 'events')
    values, periods = np.empty(count, np.int32), np.zeros(count, np.int8)
    times: np.ndarray | None = np.empty(count, np.int64)
    lengths = np.zeros(len(user_ids), np.int64)
    start, ties, last = 0, 0, None
    rows = engine.batches("""
        SELECT user_ranks.rank AS user, item_ranks.rank AS item, time
        FROM events JOIN user_ranks ON user_number = user_ranks.number
            JOIN item_ranks ON item_number = item_ranks.number
        ORDER BY user_ranks.rank, time, place
    """)
    for batch in rows:
        user, item = (batch.column(column).to_numpy() for column in range(2))
        values[start : start + len(user)] = item + 1
        lengths += np.bincount(user, minlength=len(lengths))
        if batch.column(2).null_count == 0:
            time = batch.column(2).to_numpy()
            same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
            ties += int(same.sum()) + ((user[0], time[0]) == last)
            last = user[-1], time[-1]
            if times is not None:
                times[start : start + len(user)] = time // 1_000_000
            if cuts is not None:
                periods[start : start + len(user)] = cuts.periods(time)
        else:
            times = None
        start += len(user)
    if ties > _MANY_TIES * count:
        report.warn(
            f'{ties:,} of {count:,} events share their timestamp with the one before of the same '
            'user; they keep the order of the file, and another order would change the results'
        )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Events(Ragged(values, offsets), times, periods, trained, user_ids, item_ids, cuts)
