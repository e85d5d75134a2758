"""Requests for recommendations: users of the data, or histories that the model has never seen.

JSON lines: `{"user": ID}` asks for a user of the data, and `{"history": [ID, ...]}` for any
history, the oldest item first, with any "user" as its label. CSV or TSV with a header: the column
`user` alone asks for users of the data; the columns `user` and `item`, and `timestamp` if there are
times, list the events of anybody. The columns may have the names that they have in the event log,
or other usual names. An id a line, without a header, asks for users of the data.
"""

import contextlib
import csv
import datetime
import io
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Int

from emkd_jax.data import source
from emkd_jax.data.event_log.columns import role_of
from emkd_jax.errors import UserError
from emkd_jax.serving.ids import IdIndex, Unknown

_FOR_ALL = {'k', 'exclude_seen', 'network', 'only', 'exclude'}  # what options say for all requests
_HISTORY = {'history', 'histories', 'sequence', 'items'}  # columns that are no identifiers of users
_Lines = Iterator[tuple[int, str]]  # numbered from 1


class Request(NamedTuple):
    """A request.

    Attributes:
      user: the label of the answer.
      history: items 1..V, the oldest first.
    """

    user: Any
    history: Int[np.ndarray, ' length']


def read_requests(
    path: str, ids: IdIndex, unknown: Unknown, options: ml_collections.ConfigDict | None = None
) -> Iterator[Request]:
    """Reads requests one by one.

    Args:
      path: the file; '-' for standard input, and '' for a request for every user of the data.
      ids: the users and items of the data.
      unknown: counts unknown users and items.
      options: `config.data`, which may name the columns of the event log.

    Raises:
      UserError: the file cannot be read, or a line makes no sense.
    """
    if not path:
        for row, user in enumerate(ids.dataset.user_ids.tolist()):
            yield Request(user, ids.dataset.histories[row])
        return
    options = options or ml_collections.ConfigDict()
    reader = _Reader('standard input' if path == '-' else path, ids, unknown, options)
    with _open(path) as file:
        lines = reader.checked(file)
        first = next(((number, line) for number, line in lines if line.strip()), None)
        if first is None:
            raise UserError(f'{reader.name} is empty; it needs users or histories.')
        if first[1].lstrip().startswith('[{'):
            raise UserError(
                f'{reader.name} is one JSON list; write each request on a line of its own.'
            )
        read = reader.json if first[1].lstrip().startswith('{') else reader.table
        yield from read(itertools.chain([first], lines))


def read_item_file(
    path: str, option: str, ids: IdIndex, unknown: Unknown
) -> Int[np.ndarray, ' items'] | None:
    """The numbers of the items in a file of ids, one a line; None if `path` is ''."""
    if not path:
        return None
    with source.find(path, f'--config.{option}').lines() as file:
        found = [
            ids.items([line.strip()], unknown, f'{path}, line {number}')
            for number, line in enumerate(file, 1)
            if line.strip()
        ]
    return np.concatenate([np.empty(0, np.int32), *found])


def _open(path: str) -> contextlib.AbstractContextManager[Iterable[str]]:
    if path != '-':
        return source.find(path, '--requests').lines()
    # Standard input is decoded as files are; `_Reader.checked` refuses what is not UTF-8.
    how: Any = {'encoding': 'utf-8-sig', 'errors': 'surrogateescape', 'newline': ''}
    return contextlib.nullcontext(io.TextIOWrapper(sys.stdin.buffer, **how))


class _Reader:
    """Turns the lines of a file into requests; `name` is the file in messages."""

    def __init__(
        self, name: str, ids: IdIndex, unknown: Unknown, options: ml_collections.ConfigDict
    ):
        self.name, self._ids, self._unknown, self._options = name, ids, unknown, options

    def checked(self, file: Iterable[str]) -> _Lines:
        for number, line in enumerate(file, 1):
            if not source.decoded(line):
                raise UserError(f'{self.name}, line {number} is not UTF-8; convert the file.')
            yield number, line

    def json(self, lines: _Lines) -> Iterator[Request]:
        for number, line in lines:
            place = f'{self.name}, line {number}'
            if not line.strip():
                continue
            try:
                asked = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f'{place} is not JSON ({error}); correct it.') from error
            if type(asked) is not dict or not asked.keys() & {'user', 'history'}:
                raise UserError(
                    f'{place} is neither {{"user": ID}} nor {{"history": [ID, ...]}}; correct it.'
                )
            if given := sorted(_FOR_ALL & asked.keys()):
                raise UserError(
                    f"{place} has '{given[0]}', which is one for all requests; set "
                    f'--config.recommend.{given[0]} instead.'
                )
            if 'history' not in asked:
                yield from self._known(asked['user'], place)
            elif type(asked['history']) is list:
                history = self._ids.items(asked['history'], self._unknown, place)
                yield Request(asked.get('user', number), history)
            else:
                raise UserError(f'{place}: the history is not a list of items; correct it.')

    def table(self, lines: _Lines) -> Iterator[Request]:
        rows = self._rows(lines)
        first, header = next(rows)
        if len(header) == 1 and header[0].strip().lower() in _HISTORY:
            raise UserError(
                f'{self.name} has the column {header[0].strip()} alone; give histories as lines of '
                'JSON, {"history": [ID, ...]}, or as a table with the columns user and item.'
            )
        if len(header) == 1 and role_of(header[0].strip(), self._options) is None:
            for place, values in itertools.chain([(first, header)], rows):
                if len(values) != 1:
                    raise UserError(f'{place} has {len(values)} fields, not 1; correct it.')
                yield from self._known(values[0].strip(), place)
            return
        columns = self._columns(header)
        events: dict[str, list[tuple[float, str, str]]] = {}  # the events of a user may lie apart
        for place, values in rows:
            if len(values) != len(columns):
                raise UserError(
                    f'{place} has {len(values)} fields, not {len(columns)}; correct it.'
                )
            row = dict(zip(columns, map(str.strip, values), strict=True))
            if 'item' not in row:
                yield from self._known(row['user'], place)
                continue
            time = _time(row['time'], place) if 'time' in row else 0
            events.setdefault(row['user'], []).append((time, row['item'], place))
        for user, history in events.items():
            if 'time' in columns:  # preparation takes equal events for one event too
                history = list({event[:2]: event for event in reversed(history)}.values())[::-1]
            history.sort(key=lambda event: event[0])
            items = [self._ids.items([item], self._unknown, place) for _, item, place in history]
            yield Request(user, np.concatenate(items))

    def _rows(self, lines: _Lines) -> Iterator[tuple[str, list[str]]]:
        """Rows with the places where they begin, the header first."""
        offset, header = next(lines)
        mark = '\t' if '\t' in header else ','
        text = itertools.chain([header], (line for _, line in lines))
        reader = csv.reader(text, delimiter=mark, strict=True)
        while True:
            place = f'{self.name}, line {offset + reader.line_num}'
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    f'{place} or one after it has quotes that do not fit ({error}); correct it.'
                ) from error
            if row is None:
                return
            if row:
                yield place, row

    def _columns(self, header: list[str]) -> list[str]:
        roles = [role_of(name.strip(), self._options) for name in header]
        if 'user' not in roles:
            raise UserError(
                f"{self.name} begins with '{','.join(header).strip()[:60]}'; it needs lines of "
                'JSON, or a header with the column user, or with user, item and timestamp.'
            )
        for name, role in zip(header, roles, strict=True):
            if role is None or roles.count(role) > 1:
                raise UserError(
                    f"{self.name} has a column '{name.strip()[:40]}', and requests have one user, "
                    'item and timestamp each; leave it out, or name it so.'
                )
        if 'item' not in roles and 'time' in roles:
            raise UserError(
                f'{self.name} has timestamps and no column item; add it, or give users alone.'
            )
        return [role for role in roles if role is not None]

    def _known(self, user: Any, place: str) -> Iterator[Request]:
        row = self._ids.user(user, self._unknown, place)
        if row is not None:
            yield Request(user, self._ids.dataset.histories[row])


def _time(text: str, place: str) -> float:
    """Seconds from a number, or from an ISO date, which is taken for UTC if it has no zone."""
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(text)):
            return seconds
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{place}: the timestamp '{text[:40]}' is neither a number nor an ISO date; correct it."
        ) from error
    return date.replace(tzinfo=date.tzinfo or datetime.UTC).timestamp()
