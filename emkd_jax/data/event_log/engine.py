"""What filters and sorts a log: DuckDB on this machine, or Spark or BigQuery where the log is.

Everything that decides about a log (its filters, the k-core, the order and the numbers of users and
items) is written once, in SQL of DuckDB's dialect. An engine with another dialect has it translated
by SQLGlot. Engines differ only in what this class names.
"""

import abc
from collections.abc import Iterator
from typing import Any

import pyarrow


class Engine(abc.ABC):
    """Holds the tables of a log and answers queries.

    Besides what SQL has in common, queries may call `iso_microseconds(text)`: microseconds since
    1970 of a date in ISO 8601, UTC where it has no offset; NULL if it is none.

    Attributes:
      number: SQL of the key by which a user or an item with a `name` is joined.
      place: the column of the table `read` by which events of the same user and time are ordered.
    """

    number: str
    place: str

    @abc.abstractmethod
    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A result of a few rows."""

    @abc.abstractmethod
    def keep(self, table: str, query: str) -> None:
        """Computes a query and keeps the result as `table`, whose own rows it may read."""

    @abc.abstractmethod
    def drop(self, *tables: str) -> None:
        """Tables that are no longer needed."""

    @abc.abstractmethod
    def batches(self, query: str) -> Iterator[pyarrow.RecordBatch]:
        """A result of any size, in its order, a part at a time."""


def quoted(name: str) -> str:
    """The SQL text of the name of a column or a table."""
    text = name.replace('"', '""')
    return f'"{text}"'


def literal(value: str) -> str:
    """The SQL text of a string."""
    text = value.replace("'", "''")
    return f"'{text}'"
