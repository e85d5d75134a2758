"""RecBole's atomic files: tab-separated tables whose header names types, `user_id:token`.

https://recbole.io/docs/user_guide/data/atomic_files.html. The items are in NAME.item beside
NAME.inter; tokens are attributes, `token_seq` columns hold several between blanks.
"""

import pathlib
import re
from collections.abc import Iterator, Sequence

import ml_collections

from emkd_jax.data.event_log import columns, text_tables
from emkd_jax.data.event_log.item_columns import item_columns
from emkd_jax.data.event_log.items import Item, name_attributes
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

_FIELD = re.compile(r'([^:]+):(token|token_seq|float|float_seq)')


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """A header of names with types."""
    return all(_FIELD.fullmatch(field) for field in lines[0].split('\t'))


recognises_items = recognises


def events_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The event files of a folder."""
    return sorted(folder.glob('*.inter'))


def items_beside(source: Source) -> pathlib.Path:
    """The item file that goes with the event file."""
    return source.path.with_suffix('.item')


def read_events(log: OpenLog) -> None:
    """Fills the table `read`."""
    table, types = _table(log.source)
    if not log.options.sequence_column:  # an augmented file: `item_id_list` beside `item_id`
        item = columns.find_column(table.names, 'item', log.options.item_column, log.source.path)
        lists = [
            name
            for name, kind in zip(table.names, types, strict=True)
            if kind == 'token_seq' and item is not None and name == f'{table.names[item]}_list'
        ]
        if lists:
            named = log.options.to_dict() | {'sequence_column': lists[0]}
            log = log._replace(options=ml_collections.ConfigDict(named))
    text_tables.read_table(log, table)


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The items of a `.item` file."""
    table, types = _table(source)
    tokens = [name for name, kind in zip(table.names, types, strict=True) if 'token' in kind]
    item, attributes, title = item_columns(table.names, tokens, options, source.path, report)
    for place, row in text_tables.whole_rows(source, table, report):
        values = [
            (table.names[column], part)
            for column in attributes
            for part in (row[column].split(' ') if types[column] == 'token_seq' else [row[column]])
            if part
        ]
        yield Item(
            place,
            row[item].strip(),
            name_attributes(values, len(attributes)),
            row[title] if title is not None else '',
        )


def _table(source):
    """The table and the types of its columns."""
    fields = [_FIELD.fullmatch(field) for field in source.first_lines()[0].split('\t')]
    if not all(fields):
        raise UserError(
            f'{source.path} does not begin with a header like user_id:token, as an atomic file '
            'does; mend it, or leave data.format=auto.'
        )
    names = tuple(field[1] for field in fields)
    return text_tables.TextTable(names, '\t', quote=''), [field[2] for field in fields]
