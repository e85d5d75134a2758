"""Attributes and titles of items, whatever file they come from."""

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from emkd_jax.data.dataset import attribute_table
from emkd_jax.data.event_log.ids import ordered
from emkd_jax.data.event_log.report import Report

_MOST_ATTRIBUTES = 1024  # of one item
_MANY_JOINED = 0.3  # of the attributes have a mark in them


class Item(NamedTuple):
    """A row of an item table; `attributes` and `title` may be empty."""

    place: str  # in its file: 'line 3'
    item_id: str
    attributes: Sequence[str]
    title: str = ''


def name_attributes(values: Sequence[tuple[str, str]], num_columns: int) -> list[str]:
    """Attributes of (column, value) pairs: the same value in two columns is two attributes."""
    return [f'{column}={value}' if num_columns > 1 else value for column, value in values]


def literal(text: str) -> Any:
    """The value that JSON or a Python literal says; None if it is neither. Nothing is evaluated."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


class ItemTable(NamedTuple):
    """`attributes` as `Dataset.item_attributes`; `titles[i - 1]` is item i's.

    `names[a - 1]` is the name of attribute a.
    """

    attributes: Int32[np.ndarray, 'items_and_padding most']
    num_attributes: int
    titles: list[str]
    names: list[str]


def gather(rows: Iterable[Item], numbers: Mapping[str, int], path, report: Report) -> ItemTable:
    """Attributes, numbered from 1, and titles of the items in `numbers` (original id: number).

    Attributes are numbered in the order of their names, as `ids.ordered` has it, among those that a
    known item has; an item's repeats are left out, and its rows are joined.
    """
    attributes = [{} for _ in range(len(numbers) + 1)]
    titles = [''] * len(numbers)
    unknown, known = [], set()
    for row in rows:
        number = numbers.get(row.item_id)
        if number is None:
            unknown.append(row.item_id)
            continue
        known.add(number)
        attributes[number].update(dict.fromkeys(row.attributes))
        titles[number - 1] = titles[number - 1] or row.title
        if len(attributes[number]) > _MOST_ATTRIBUTES:
            report.bad_lines(
                path, row.place, f'the item has more than {_MOST_ATTRIBUTES} attributes'
            )
            attributes[number].clear()
    names = ordered({name for row in attributes for name in row})
    number_of = {name: number for number, name in enumerate(names, 1)}
    without = sum(not row for row in attributes[1:])
    report.say(
        f'{path.name}: {len(names):,} attributes; {without:,} of {len(numbers):,} items have none'
    )
    report.left_out(len(unknown), 'rows of items that no event knows')
    if len(known) < len(numbers) / 2:
        others = [name for name, number in numbers.items() if number not in known]
        report.warn(
            f'{path.name} describes {len(known):,} of the {len(numbers):,} items of the events; '
            f'the events name items such as {_examples(others)}, and this file '
            f'{_examples(unknown) or "no others"}'
        )
    _say_if_joined(names, report)
    if len(names) > len(numbers):
        report.warn(
            'there are more attributes than items, so most tell nothing; choose columns with '
            '--config.data.attribute_columns'
        )
    table = attribute_table([[0], *([number_of[name] for name in row] for row in attributes[1:])])
    return ItemTable(table, len(names), titles if any(titles) else [], names)


def _say_if_joined(names, report):
    """Says if attributes seem to be several, with a mark between them that nobody named."""
    for mark in ',;/':
        joined = [name for name in names if mark in name]
        parts = {part.strip() for name in names for part in name.split(mark)}
        if len(joined) > _MANY_JOINED * len(names) and len(parts) < len(names):
            report.say(
                f'  attributes such as {joined[0]!r} are taken as one; if they are several, say so '
                f"with --config.data.attribute_delimiter='{mark}'"
            )


def _examples(names):
    return ', '.join(map(repr, names[:3]))


def without_file(num_items: int) -> ItemTable:
    """What stands for an item table where there is none."""
    return ItemTable(attribute_table([[0], *([] for _ in range(num_items))]), 0, [], [])
