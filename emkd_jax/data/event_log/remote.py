"""Parquet files at an address, such as `s3://bucket/log/*.parquet`, which DuckDB reads in place.

DuckDB needs an extension for this, which it never fetches by itself here. Keys are the secrets that
DuckDB keeps: https://duckdb.org/docs/stable/configuration/secrets_manager
"""

import contextlib
import pathlib
from collections.abc import Iterator

import duckdb
import ml_collections

from emkd_jax.data.event_log import formats
from emkd_jax.data.event_log.database import open_database, reason
from emkd_jax.data.event_log.engine import literal
from emkd_jax.data.event_log.event_table import fill
from emkd_jax.data.event_log.events import Events, collect
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import report_by_ids
from emkd_jax.data.event_log.tables import described_table
from emkd_jax.errors import UserError

_EXTENSIONS = {
    'file': '',
    's3': 'httpfs',
    'gs': 'httpfs',
    'https': 'httpfs',
    'az': 'azure',
    'abfss': 'azure',
}


def is_address(source: str) -> bool:
    """Whether the source is an address rather than a path."""
    return '://' in source


@contextlib.contextmanager
def opened_address(options: ml_collections.ConfigDict) -> Iterator[FoundLog]:
    """The log in the Parquet files at the address that `data.source` names.

    It counts as another log where the name, the size or the time of change of a file is another.

    Raises:
      UserError: DuckDB cannot read such an address, or nothing is there.
    """
    source = options.source
    path = pathlib.PurePath(source)
    with contextlib.closing(duckdb.connect()) as connection:
        _load(connection, source)
        try:
            files = connection.execute(
                'SELECT filename, size, last_modified FROM '
                f'read_blob({literal(source)}) ORDER BY filename'
            ).fetchall()
            why = 'there are no such files'
        except duckdb.Error as error:
            files, why = [], reason(error)
    if not files:
        raise UserError(
            f'{source} cannot be read ({why}); name Parquet files, such as '
            "--config.data.source='s3://bucket/log/*.parquet'."
        )

    def read(scratch: pathlib.Path, report: Report) -> Events:
        with open_database(scratch) as database:
            _load(database.connection, source)
            form = 'hive_partitioning=true, hive_types_autocast=false, union_by_name=true'
            try:
                table = described_table(database, f'read_parquet({literal(source)}, {form})')
                fill(database, table, options, path, report)
            except (duckdb.InvalidInputException, duckdb.IOException) as error:
                raise UserError(f'{source} cannot be read as Parquet ({reason(error)}).') from error
            report_by_ids(database, path, report)
            return collect(database, options, path, report)

    item_file = formats.item_file(options)
    yield FoundLog(path, '', [str(file) for file in files], item_file, read)


def _load(connection, source):
    """Loads the extension that the address needs."""
    extension = _EXTENSIONS.get(source.partition('://')[0])
    if extension is None:
        raise UserError(
            f'{source} begins with none of {", ".join(f"{name}://" for name in _EXTENSIONS)}; '
            'name a file, a folder, or one of these with --config.data.source.'
        )
    if not extension:
        return
    try:
        connection.load_extension(extension)
    except duckdb.Error as error:
        raise UserError(
            f"{source} needs DuckDB's extension {extension}, which is not here; get it once with "
            f'python -c "import duckdb; duckdb.connect().install_extension(\'{extension}\')".'
        ) from error
