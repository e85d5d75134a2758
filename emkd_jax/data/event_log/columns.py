"""Which column of a table is which: by option, by a usual name, or by its values."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from emkd_jax.data.event_log.times import are_times, are_times_of_day
from emkd_jax.errors import UserError

# Names known without an option: lower case, letters and digits alone. The first line of a role has
# the ids, which are taken before the second line's.
_USUAL: dict[str, tuple[str, str]] = {
    'user': (
        'userid reviewerid customerid visitorid sessionid uid memberid clientid accountid buyerid '
        'shopperid playerid',
        'user username customer visitor session reviewer member client buyer',
    ),
    'item': (
        'itemid asin productid movieid articleid sku aid iid trackid songid bookid gameid '
        'businessid newsid videoid',
        'item product movie article',
    ),
    'time': (
        'timestamp time datetime date unixreviewtime eventtime createdat tdat ts unixtime',
        '',
    ),
    'rating': ('rating overall score stars userrating', ''),
    'title': ('title movietitle name productname itemname', ''),
}
_ROLES = ('user', 'item', 'time')
_TIME_WORDS = ('timestamp', 'stamp', 'datetime', 'time', 'date', 'at', 'ts')  # that end a name
ATTRIBUTES = frozenset(
    ['attributes', 'categories', 'category', 'genres', 'genre', 'brand', 'store', 'class', 'tags']
)
_KINDS_OF_EVENT = ('event', 'eventtype', 'action', 'actiontype', 'behavior', 'behaviortype', 'type')
_MOST_LISTED = 30
NONE = 'none'  # of an option that names a column: there is none


class EventColumns(NamedTuple):
    """Places of an event table's columns; None: there is none.

    `time_of_day` is the column with the time of day where `time` has the day alone.
    """

    user: int | None
    item: int | None
    time: int | None
    rating: int | None
    time_of_day: int | None = None
    sequence: int | None = None


def normalised(name: str) -> str:
    """A column's name as it is compared with the usual ones."""
    return re.sub(r'[\W_]', '', name.lower())


def has_usual_names(names: Sequence[str]) -> bool:
    """Whether a user, an item or a time is among the names of some columns."""
    return any(_usual_role(name) for name in names)


def has_ratings(names: Sequence[str]) -> bool:
    """Whether a column has a usual name of ratings."""
    return any(normalised(name) in _USUAL['rating'][0].split() for name in names)


def event_columns(
    names: Sequence[str],
    options: ml_collections.ConfigDict,
    path,
    sample: Sequence[Sequence[str | None]] = (),
) -> EventColumns:
    """Finds the columns of the event table `path`.

    Args:
      names: the names of its columns.
      options: `config.data`.
      path: the file, for complaints.
      sample: some rows, by which a column of times without a usual name is found.

    Raises:
      UserError: there is no such column, or more than one may be it.
    """
    sequence = None
    if options.sequence_column:
        sequence = _named(names, 'sequence_column', options.sequence_column, path)
    user = find_column(names, 'user', options.user_column, path)
    item = find_column(names, 'item', options.item_column, path)
    if sequence is None:
        for role, place in (('user', user), ('item', item)):
            if place is None:
                raise missing(names, role, path)
    if user is not None and user == item:
        raise UserError(
            f'{path} has one column, {names[user]}, for both the users and the items; name two '
            'with --config.data.user_column and --config.data.item_column.'
        )
    time = time_of_day = None
    if sequence is None:
        time, time_of_day = _time(names, options, path, sample, {user, item})
    elif options.split == 'time':
        raise missing(names, 'time', path, 'data.split=time needs it: ')
    rating = None
    if options.min_rating:  # what nothing is filtered by is not read, so that it may be anything
        rating = find_column(names, 'rating', options.rating_column, path)
        if rating is None:
            raise missing(names, 'rating', path, f'data.min_rating={options.min_rating} needs it: ')
    return EventColumns(user, item, time, rating, time_of_day, sequence)


def find_column(names: Sequence[str], role: str, named: str, path, option: str = '') -> int | None:
    """The place of the column `named` by an option, else of the one with a usual name.

    Args:
      names: the columns of a table.
      role: what the column holds.
      named: the value of the option.
      path: the file, for complaints.
      option: the option of `config.data`; empty: `<role>_column`.

    Raises:
      UserError: there is no column of the name, or more than one has a usual name.
    """
    option = option or f'{role}_column'
    if named:
        return None if named == NONE else _named(names, option, named, path)
    known = [normalised(name) for name in names]
    if role == 'item' and 'parentasin' in known:  # of variants that are one product
        return known.index('parentasin')
    for usual in _USUAL[role]:
        places = [place for place, name in enumerate(known) if name in usual.split()]
        if role == 'title' and places:
            return places[0]
        if len(places) > 1:
            raise _ambiguous(names, places, role, path, option)
        if places:
            return places[0]
    return None


def role_of(name: str, options: ml_collections.ConfigDict) -> str | None:
    """The role ('user', 'item' or 'time') of a column, by option or by a usual name; None: none."""
    for role in _ROLES:
        if name == options.get(f'{role}_column', ''):
            return role
    return _usual_role(name)


def _usual_role(name):
    return next(
        (role for role in _ROLES if normalised(name) in ' '.join(_USUAL[role]).split()), None
    )


def kind_of_event(names: Sequence[str], taken: EventColumns) -> int | None:
    """The column that tells kinds of events, such as views and sales, apart; None: there is none.

    Its name is a usual one.
    """
    for place, name in enumerate(names):
        if normalised(name) in _KINDS_OF_EVENT and place not in taken:
            return place
    return None


def _named(names, option, named, path):
    places = [place for place, name in enumerate(names) if name == named]
    if len(places) != 1:
        raise UserError(
            f"{path} has {'no' if not places else 'more than one'} column '{named}', which "
            f'--config.data.{option} names; its columns are {listed(names)}.'
        )
    return places[0]


def _time(names, options, path, sample, taken):
    """The places of the times, and of the times of day where days stand in a column of their own.

    Raises:
      UserError: there is none, or more than one may be it.
    """
    if options.time_column:
        if options.time_column == NONE:
            if options.split == 'time':
                raise missing(names, 'time', path, 'data.split=time needs it: ')
            return None, None
        return _named(names, 'time_column', options.time_column, path), None
    known = [normalised(name) for name in names]
    usual = _USUAL['time'][0].split()
    free = [place for place in range(len(names)) if place not in taken]
    columns = [[row[place] for row in sample if len(row) > place] for place in range(len(names))]
    places = [place for place in free if known[place] in usual]
    if not places:
        places = [place for place in free if _last_word(names[place]) in _TIME_WORDS]
    if not places:
        places = [place for place in free if are_times([value or '' for value in columns[place]])]
    if len(places) == 2:
        clocks = [p for p in places if are_times_of_day([value or '' for value in columns[p]])]
        if len(clocks) == 1:
            return next(place for place in places if place != clocks[0]), clocks[0]
    if len(places) > 1:
        raise _ambiguous(names, places, 'time', path, 'time_column')
    if places:
        return places[0], None
    if options.split == 'time':
        raise missing(names, 'time', path, 'data.split=time needs it: ')
    raise UserError(
        f'{path} has no column that is known to hold the times; its columns are '
        f'{listed(names)}: name one with --config.data.time_column, or give '
        f'--config.data.time_column={NONE} if the events of each user are in order.'
    )


def _last_word(name):
    """'date' of 'order_date' and 'orderDate', but 'update' of 'last_update'."""
    words = re.findall(r'[A-Z]?[a-z]+|[A-Z]+|\d+', name)
    return words[-1].lower() if words else ''


def _ambiguous(names, places, role, path, option):
    found = ' and '.join(names[place] for place in places)
    return UserError(
        f'{path} has more than one column that may hold the {role}s ({found}); name one with '
        f'--config.data.{option}.'
    )


def listed(names: Sequence[str]) -> str:
    """The names of columns for a message, some of very many."""
    more = ', ...' if len(names) > _MOST_LISTED else ''
    return ', '.join(names[:_MOST_LISTED]) + more


def missing(names: Sequence[str], role: str, path, why: str = '', option: str = '') -> UserError:
    """The complaint that a table lacks the column of a role; see `find_column`."""
    return UserError(
        f'{why}{path} has no column that is known to hold the {role}; its columns are '
        f'{listed(names)}: name one with --config.data.{option or role + "_column"}.'
    )
