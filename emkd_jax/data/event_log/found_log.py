"""A log that was found, wherever it is: what tells it apart, and how its events are read."""

import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from emkd_jax.data.event_log.events import Events
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source

ItemFile = tuple[Source, ModuleType]


class FoundLog(NamedTuple):
    """A log, before its events are read.

    Attributes:
      path: of the file, the folder or the table, for people to read.
      file_format: as `data.format` has it; '' where that plays no part.
      digests: differ wherever the events differ.
      item_file: the attributes and titles of the items, and their format; None: there are none.
      read: reads and filters the events, with the help of a folder for files that do not stay.
    """

    path: pathlib.PurePath
    file_format: str
    digests: list[str]
    item_file: ItemFile | None
    read: Callable[[pathlib.Path, Report], Events]
