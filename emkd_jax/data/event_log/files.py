"""Logs in files: one, or all of a folder or a pattern, which pass through DuckDB in their order."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from types import ModuleType

import ml_collections

from emkd_jax.data.event_log import formats
from emkd_jax.data.event_log.database import Database, open_database
from emkd_jax.data.event_log.events import Events, collect
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.rows import complain_of_other_times, report_by_ids
from emkd_jax.data.source import Source


@contextlib.contextmanager
def opened_files(options: ml_collections.ConfigDict) -> Iterator[FoundLog]:
    """The log in the file, the folder or the pattern that `data.source` names.

    Raises:
      UserError: there is none, or it is in no format that is known.
    """
    sources, module = formats.events(options)
    path = sources[0].path if len(sources) == 1 else pathlib.Path(options.source).expanduser()

    def read(scratch: pathlib.Path, report: Report) -> Events:
        with open_database(scratch) as database:
            if len(sources) == 1:
                module.read_events(OpenLog(database, sources[0], options, report))
            else:
                _read_all(database, sources, module, options, path, report)
            return collect(database, options, path, report)

    digests = [source.digest() for source in sources]
    if len(sources) > 1:  # names decide about the order, and may hold values
        digests += [str(source.path) for source in sources]
    item_file = formats.items(options, sources[0], module)
    yield FoundLog(path, formats.name_of(module), digests, item_file, read)


def _read_all(
    database: Database,
    sources: Sequence[Source],
    module: ModuleType,
    options: ml_collections.ConfigDict,
    path: pathlib.Path,
    report: Report,
) -> None:
    """Fills the table `read` with the events of all files, each read as if it were alone."""
    for number, source in enumerate(sources):
        module.read_events(OpenLog(database, source, options, report))
        good = 'SELECT * REPLACE (NULL::BIGINT AS row) FROM read WHERE complaint IS NULL'
        if number:
            database.connection.execute(f'INSERT INTO all_read {good}')
        else:
            database.keep('all_read', good)
    database.drop('read')
    database.connection.execute('ALTER TABLE all_read RENAME TO read')
    complain_of_other_times(database, 'time')
    report_by_ids(database, path, report)
    report.say(f'{len(sources):,} files, in the order of their names')
