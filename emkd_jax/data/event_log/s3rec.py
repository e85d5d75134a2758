"""S3-Rec's text: a line per user, 'user item item ...', oldest first; and its attribute JSON.

The form of https://github.com/RUCAIBox/CIKM2020-S3Rec: attributes are in NAME_item2attributes.json
beside NAME.txt, `{item: [attribute, ...]}`, where a list may name an attribute twice.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence

import ml_collections
import pyarrow

from emkd_jax.data.event_log.items import Item, literal
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import EventValues, store
from emkd_jax.data.source import Source, decoded
from emkd_jax.errors import UserError

_EVENTS = 500_000  # in memory at a time
_LISTS = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[')  # the beginning of an object of lists


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """Words between blanks, two or more a line, and not as many on each: that is a table."""
    lengths = [len(line.split()) for line in lines]
    return min(lengths) > 1 and (len(lines) < 3 or len(set(lengths)) > 1)


def items_beside(source: Source) -> pathlib.Path:
    """The attribute file that goes with the text file."""
    stem = source.path.name.split('.')[0]
    return source.path.with_name(f'{stem}_item2attributes.json')


def recognises_items(source: Source, lines: Sequence[str]) -> bool:
    """One JSON object of lists, and not JSON lines, which have an object each."""
    return bool(_LISTS.match(''.join(lines))) and not (
        len(lines) > 1 and literal(lines[0]) is not None
    )


def read_events(log: OpenLog) -> None:
    """Fills the table `read`."""
    if log.options.split == 'time' or log.options.min_rating:
        option = 'data.split=time' if log.options.split == 'time' else 'data.min_rating'
        raise UserError(
            f'{log.source.path} is a list of items by user, without timestamps or ratings, so '
            f'{option} makes no sense with it; leave that option out.'
        )
    connection = log.database.connection
    connection.execute('CREATE TABLE pairs (user_id VARCHAR, item_id VARCHAR)')
    for users, items in _pairs(log.source, log.report):
        connection.register('batch', pyarrow.table({'user_id': users, 'item_id': items}))
        connection.execute('INSERT INTO pairs SELECT * FROM batch')
        connection.unregister('batch')
    store(log.database, 'pairs', EventValues(user='user_id', item='item_id'))
    log.database.drop('pairs')


def _pairs(source, report):
    users, items, seen = [], [], {}
    with source.lines() as file:
        for number, line in enumerate(file, 1):
            user, *rest = line.split() or ('',)
            if not user:
                continue
            fault = None
            if not rest:
                fault = f"user '{user[:40]}' has no items"
            elif not decoded(line):
                fault = 'it is not UTF-8'
            elif seen.setdefault(user, number) != number:
                fault = f"user '{user[:40]}' already stands on line {seen[user]}"
            if fault:
                report.bad_lines(source.path, f'line {number}', fault)
                continue
            users += [user] * len(rest)
            items += rest
            if len(items) >= _EVENTS:
                yield users, items
                users, items = [], []
    if items:
        yield users, items


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The items of an attribute file."""
    try:
        with source.lines() as file:
            lists = json.load(file)
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{source.path} is not JSON ({error}); mend data.attributes.') from error
    if type(lists) is not dict:
        raise UserError(f'{source.path} is not a JSON object of items; mend data.attributes.')
    for item, attributes in lists.items():
        if type(attributes) is not list:
            raise UserError(
                f"{source.path} does not give item '{item[:40]}' a list; mend data.attributes."
            )
        yield Item(f'item {item}', item, [str(attribute) for attribute in attributes])
