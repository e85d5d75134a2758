"""What Spark and BigQuery have in common: logs that are read and sorted where they lie."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from emkd_jax.data.event_log import formats
from emkd_jax.data.event_log.engine import Engine
from emkd_jax.data.event_log.event_table import EventTable, fill
from emkd_jax.data.event_log.events import Events, collect
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import report_by_ids
from emkd_jax.errors import UserError

Functions = Mapping[str, Callable[[list[Any]], Any]]


def log_in_warehouse(
    engine: Engine,
    look: Callable[[], EventTable],
    digests: list[str],
    options: ml_collections.ConfigDict,
    report_damage: Callable[[Report], None] = lambda report: None,
) -> FoundLog:
    """The log in the table of an engine.

    Args:
      engine: what holds the table.
      look: a look at the table, which costs a query; taken when the log is read.
      digests: differ wherever the events differ.
      options: `config.data`.
      report_damage: says what of the table is no row of it.
    """
    path = pathlib.PurePath(options.source)

    def read(scratch: pathlib.Path, report: Report) -> Events:
        fill(engine, look(), options, path, report)
        report_damage(report)
        report_by_ids(engine, path, report)
        return collect(engine, options, path, report)

    return FoundLog(path, '', digests, formats.item_file(options), read)


def refuse_sequences(options: ml_collections.ConfigDict) -> None:
    """Rows that hold whole histories are read by DuckDB alone."""
    if options.sequence_column:
        raise UserError(
            'Rows that hold whole histories are read with data.engine=duckdb only; leave '
            f'data.sequence_column out, or make a row of each event with {options.engine}.'
        )


def refuse_missing_times(options: ml_collections.ConfigDict) -> None:
    """A table of a warehouse has no order that could stand for times."""
    if options.time_column == 'none':
        raise UserError(
            f'The rows of the table {options.source} have no order; name the column of their times '
            'with --config.data.time_column.'
        )


def translated(query: str, dialect: str, functions: Functions) -> str:
    """A query in another dialect than that of DuckDB.

    Args:
      query: SQL.
      dialect: as SQLGlot calls it.
      functions: what stands for a call of a function that SQLGlot does not translate, by its name;
        made of the list of its arguments, all as expressions of SQLGlot.
    """
    import sqlglot
    from sqlglot import expressions

    tree = sqlglot.parse_one(query, read='duckdb')
    for call in reversed(list(tree.find_all(expressions.Anonymous))):  # those within others first
        if made := functions.get(call.name.lower()):
            call.replace(made(call.expressions))
    return tree.sql(dialect)


def reason(error: Exception) -> str:
    """The first line of what an engine complains about."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip('.')
