"""Who asks for recommendations.

JSON lines: `{"user": ID}` asks for a user of the data, `{"history": [ID, ...]}` for anybody, oldest
item first, with any "user" as a label. CSV with a header: the column user alone asks for users of
the data; user and item, best with a timestamp, are the events of anybody.
"""

import contextlib
import csv
import datetime
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from emkd_jax.data import source
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError

_COLUMNS = ('user', 'item', 'timestamp')


class Request(NamedTuple):
    """`user` is whatever the answer shall say; `history` has items 1..V, oldest first."""

    user: Any
    history: Int[np.ndarray, ' length']


class Unknown:
    """Users and items that the data does not have: skipped and counted, or an error."""

    def __init__(self, strict: bool):
        self._strict = strict
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: str, place: str) -> None:
        """One more `kind` (user or item), found at `place`.

        Raises:
          UserError: if strict.
        """
        if self._strict:
            raise UserError(
                f"{place}: {kind} '{name[:80]}' is not in the data; without --strict it is skipped."
            )
        count, first = self._found.get(kind, (0, f"'{name[:80]}' at {place}"))
        self._found[kind] = count + 1, first

    def report(self) -> None:
        """Says on standard error what was skipped."""
        for kind, (count, first) in self._found.items():
            print(
                f'Skipped {count:,} unknown {kind}{"s" * (count > 1)}, the first {first}.',
                file=sys.stderr,
            )


def read_requests(path: str, data: Dataset, unknown: Unknown) -> Iterator[Request]:
    """Reads the file at `path` ('-': standard input; '': all users of the data) as it is asked.

    Raises:
      UserError: the file cannot be read, or a line makes no sense.
    """
    if not path:
        for user, history in zip(data.user_ids.tolist(), data.histories, strict=True):
            yield Request(user, history)
        return
    reader = _Reader(path, data, unknown)
    with reader.open() as file:
        lines = reader.checked(file)
        head = list(_until_filled(lines))
        if not head or not head[-1].strip():
            raise UserError(f'{reader.name} is empty; give it users or histories.')
        read = reader.json if head[-1].lstrip().startswith('{') else reader.table
        yield from read(itertools.chain(head, lines))


def read_ids(path: str, option: str, data: Dataset, unknown: Unknown) -> Int[np.ndarray, ' items']:
    """Numbers of the items whose ids stand in the file at `path`, one a line."""
    numbers = _numbers(data.item_ids, 1)
    found = []
    with source.find(path, f'--config.{option}').lines() as file:
        for line, text in enumerate(file, 1):
            if name := text.strip():
                if name in numbers:
                    found.append(numbers[name])
                else:
                    unknown.add('item', name, f'{path}, line {line}')
    return np.array(found, np.int64)


class _Reader:
    def __init__(self, path, data, unknown):
        self.name = 'standard input' if path == '-' else path
        self._path, self._data, self._unknown = path, data, unknown
        self._users = _numbers(data.user_ids, 0)
        self._items = _numbers(data.item_ids, 1)

    def open(self) -> contextlib.AbstractContextManager[Iterable[str]]:
        if self._path == '-':
            # As files are read: any bytes, which `checked` then judges.
            sys.stdin.reconfigure(encoding='utf-8-sig', errors='surrogateescape', newline='')
            return contextlib.nullcontext(sys.stdin)
        return source.find(self._path, '--requests').lines()

    def checked(self, file: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            if not source.decoded(line):
                raise UserError(f'{self.name}, line {number} is not UTF-8; convert the file.')
            yield line

    def json(self, lines: Iterable[str]) -> Iterator[Request]:
        for number, line in enumerate(lines, 1):
            place = f'{self.name}, line {number}'
            if not line.strip():
                continue
            try:
                asked = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f'{place} is not JSON ({error}); mend it.') from error
            if type(asked) is not dict or not asked.keys() & {'user', 'history'}:
                raise UserError(
                    f'{place} is neither {{"user": ID}} nor {{"history": [ID, ...]}}; mend it.'
                )
            if 'history' in asked:
                if type(asked['history']) is not list:
                    raise UserError(f'{place}: the history is not a list of items; mend it.')
                yield Request(asked.get('user', number), self._history(asked['history'], place))
            else:
                yield from self._known(asked['user'], place)

    def table(self, lines: Iterable[str]) -> Iterator[Request]:
        rows = self._rows(lines)
        columns = next(rows)[1]
        if 'item' not in columns:
            for place, row in rows:
                yield from self._known(row['user'], place)
            return
        events = {}  # of everybody: a person's lines need not stand together
        for place, row in rows:
            time = _time(row['timestamp'], place) if 'timestamp' in row else 0
            events.setdefault(row['user'], []).append((time, row['item'], place))
        for user, history in events.items():
            if 'timestamp' in columns:  # the same event again is one event, as in preparation
                history = list({event[:2]: event for event in reversed(history)}.values())[::-1]
            history.sort(key=lambda event: event[0])
            found = [item for _, name, place in history for item in self._history([name], place)]
            yield Request(user, np.array(found, np.int32))

    def _rows(self, lines):
        """(place, {column: value}) of every row, the header's first."""
        header_lines, header = next(
            (number, line) for number, line in enumerate(lines, 1) if line.strip()
        )
        mark = '\t' if '\t' in header else ','
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=mark))]
        if 'user' not in names:
            raise UserError(
                f"{self.name} begins with '{header.strip()[:60]}'; it needs lines of JSON, or a "
                'header with the column user, or with user, item and timestamp.'
            )
        for name in names:
            if name not in _COLUMNS or names.count(name) > 1:
                raise UserError(
                    f"{self.name} has a column '{name[:40]}', and requests have one user, item and "
                    'timestamp each; leave it out, or name it so.'
                )
        if 'item' not in names and 'timestamp' in names:
            raise UserError(
                f'{self.name} has timestamps and no column item; give it one, or the users alone.'
            )
        yield self.name, dict.fromkeys(names, '')
        reader = csv.reader(lines, delimiter=mark, strict=True)
        while True:
            place = f'{self.name}, line {header_lines + reader.line_num + 1}'
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    f'{place} or one after it has quotes that do not fit ({error}); mend it.'
                ) from error
            if row is None:
                return
            if row and len(row) != len(names):
                raise UserError(f'{place} has {len(row)} fields, not {len(names)}; mend it.')
            if row:
                yield place, dict(zip(names, row, strict=True))

    def _known(self, user, place):
        row = self._users.get(str(user))
        if row is None:
            self._unknown.add('user', str(user), place)
        else:
            yield Request(user, self._data.histories[row])

    def _history(self, names, place):
        found = []
        for name in names:
            item = self._items.get(str(name))
            if item is None:
                self._unknown.add('item', str(name), place)
            else:
                found.append(item)
        return np.array(found, np.int32)


def _numbers(ids, first):
    return {str(name): number for number, name in enumerate(ids.tolist(), first)}


def _time(text, place):
    try:
        seconds = float(text)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{place}: the timestamp '{text[:40]}' is neither a number nor an ISO date; mend it."
        ) from error
    return date.replace(tzinfo=date.tzinfo or datetime.UTC).timestamp()


def _until_filled(lines):
    for line in lines:
        yield line
        if line.strip():
            return
