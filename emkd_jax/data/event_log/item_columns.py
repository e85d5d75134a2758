"""Which columns of an item table are taken: the ids, the titles and the attributes."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from emkd_jax.data.event_log import columns
from emkd_jax.data.event_log.report import Report
from emkd_jax.errors import UserError

_MOST_SHOWN = 10  # columns that are not used


class ItemColumns(NamedTuple):
    """Places of an item table's columns; `title` is None where there is none."""

    item: int
    attributes: list[int]
    title: int | None


def item_columns(
    names: Sequence[str],
    usual: Sequence[str],
    options: ml_collections.ConfigDict,
    path,
    report: Report,
) -> ItemColumns:
    """Finds the columns of the item table `path`, and reports which were taken.

    Args:
      names: the names of its columns.
      usual: those that hold attributes where no option names any.
      options: `config.data`.
      path: the file, for complaints.
      report: what was read, left out and assumed.

    Raises:
      UserError: there is no column of the items, or none that an option names.
    """
    # The events' name for the items need not be this table's, whose rows are items.
    named = options.item_key or (options.item_column if options.item_column in names else '')
    item = columns.find_column(names, 'item', named, path, 'item_key')
    if item is None:
        ids = [place for place, name in enumerate(names) if columns.normalised(name) == 'id']
        if len(ids) != 1:
            raise columns.missing(names, 'item', path, option='item_key')
        (item,) = ids
    title = columns.find_column(names, 'title', options.title_column, path)
    wanted = [name for part in options.attribute_columns.split(',') if (name := part.strip())]
    for name in wanted:
        if name not in names:
            raise UserError(
                f"{path} has no column '{name}', which --config.data.attribute_columns names; its "
                f'columns are {columns.listed(names)}.'
            )
    chosen = [names.index(name) for name in wanted or usual]
    taken = ItemColumns(item, [p for p in chosen if wanted or p not in (item, title)], title)
    report.say(_shown(names, taken))
    return taken


def _shown(names, taken):
    """What was taken for what, and what was left."""
    item, attributes, title = taken
    titles = columns.NONE if title is None else names[title]
    described = ' and '.join(names[place] for place in attributes) or columns.NONE
    unused = [name for place, name in enumerate(names) if place not in {item, title, *attributes}]
    shown = ', '.join(unused[:_MOST_SHOWN]) + (', ...' if len(unused) > _MOST_SHOWN else '')
    hint = f'; not used: {shown} (data.attribute_columns can name them)' if unused else ''
    return (
        f'columns of the items: item = {names[item]}, title = {titles}, '
        f'attributes = {described}{hint}'
    )
