"""Tables in memory, which are read from a temporary Parquet file like any other log."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from emkd_jax.errors import UserError


@contextmanager
def as_file(table: Any, name: str) -> Iterator[str]:
    """The path of a table: itself if it is one, otherwise that of a temporary Parquet file.

    Args:
      table: a path or a table.
      name: what it holds ('events' or 'items'), for messages.

    Raises:
      UserError: it is no table. What is found wrong in a table, while its file is open, is told
        with the name of the table and not with that of the file.
    """
    if isinstance(table, str | os.PathLike):
        yield os.fspath(table)
        return
    rows = _arrow_table(table, name)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/{name}.parquet'
        pyarrow.parquet.write_table(rows, path)
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(path, f'The table of {name}')) from error


def _with_plain_types(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with types that Arrow knows: periods begin at a time, and 7 beside 'x' is '7'.

    Two columns may have one name, of which Arrow complains.
    """
    changed = {}
    for name, column in frame.items() if frame.columns.is_unique else ():
        if isinstance(column.dtype, pd.PeriodDtype):
            changed[name] = column.dt.to_timestamp()
        elif pd.api.types.infer_dtype(column) == 'mixed-integer':
            changed[name] = column.map(str, na_action='ignore')
    return frame.assign(**changed) if changed else frame


def _arrow_table(table: Any, name: str) -> pyarrow.Table:
    try:
        if isinstance(table, pd.DataFrame):
            named = [level for level in table.index.names if level and level not in table]
            table = table.reset_index(level=named) if named else table
            return pyarrow.Table.from_pandas(_with_plain_types(table), preserve_index=False)
        if hasattr(table, 'to_arrow'):  # Polars, whose stream has texts that Parquet may not have
            return table.to_arrow()
        if hasattr(table, '__arrow_c_stream__'):  # Arrow, DuckDB and others
            return pyarrow.table(table)
    except (TypeError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f'The table of {name} cannot be read ({error}); mend it.') from error
    raise UserError(
        f'The {name} are a {type(table).__name__}, which is no table; give a path, a pandas or '
        'polars DataFrame, or an Arrow table.'
    )
