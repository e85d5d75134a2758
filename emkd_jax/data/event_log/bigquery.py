"""BigQuery as the engine of a log: for tables that lie there. Only the finished histories leave it.

Its SQL was evaluated by the reference implementation of GoogleSQL, but never by BigQuery itself.
The client finds its project and its credentials as all clients of Google's cloud do.
https://cloud.google.com/bigquery/docs/authentication
"""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
import pyarrow

from emkd_jax.data.event_log.database import ISO
from emkd_jax.data.event_log.engine import Engine, quoted
from emkd_jax.data.event_log.event_table import typed_table
from emkd_jax.data.event_log.events import Events
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.event_log.warehouse import (
    log_in_warehouse,
    reason,
    refuse_missing_times,
    refuse_sequences,
    translated,
)
from emkd_jax.errors import UserError, install_command

# Types of columns that have a text, as `typed_table` calls them.
_TYPES = {
    **dict.fromkeys(('FLOAT', 'FLOAT64'), 'DOUBLE'),
    **dict.fromkeys(('TIMESTAMP', 'DATETIME', 'DATE'), 'TIMESTAMP'),
    **dict.fromkeys(('BOOLEAN', 'BOOL', 'STRING', 'TIME'), 'VARCHAR'),
    **dict.fromkeys(('INTEGER', 'INT64', 'NUMERIC', 'BIGNUMERIC'), 'NUMERIC'),
}
# Dates as `database.ISO` has them, in the one form that BigQuery reads.
_ISO_STEPS = (
    (' ?(UTC|GMT|Z)$', 'Z'),
    ('(:[0-9.]+) ([+-])', r'\1\2'),
    ('([T ][0-9]{1,2})$', r'\1:00'),  # hours alone
    ('([T ][0-9]{1,2}:[0-9]{1,2})(Z|[+-].*)?$', r'\1:00\2'),  # a zone follows seconds only
    (r'(\.[0-9]{6})[0-9]+', r'\1'),
)


class BigQuery(Engine):
    """The engine whose tables are temporary ones of a session. Names are their own keys.

    Attributes:
      bytes_processed: by all queries so far, which is what BigQuery charges for.
    """

    number = 'name'
    place = 'place'

    def __init__(self, client: Any, location: str):
        """Takes a `google.cloud.bigquery.Client`, and where its queries run."""
        self.bytes_processed = 0
        self._client, self._location = client, location
        self._session: list[Any] = []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """See `Engine`."""
        return [row.values() for row in self.run(_translated(query))]

    def keep(self, table: str, query: str) -> None:
        """See `Engine`."""
        self.run(f'CREATE OR REPLACE TEMP TABLE {table} AS {_translated(query)}')

    def drop(self, *tables: str) -> None:
        """See `Engine`."""
        for table in tables:
            self.run(f'DROP TABLE {table}')

    def batches(self, query: str) -> Iterator[pyarrow.RecordBatch]:
        """See `Engine`."""
        yield from self.run(_translated(query)).to_arrow_iterable()

    def run(self, statement: str) -> Any:
        """The `RowIterator` of a statement in BigQuery's own SQL."""
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(
            create_session=not self._session, connection_properties=self._session
        )
        job = self._client.query(statement, job_config=config, location=self._location)
        result = job.result()
        if not self._session:
            self._session = [bigquery.ConnectionProperty('session_id', job.session_info.session_id)]
        self.bytes_processed += job.total_bytes_processed or 0
        return result

    def close(self) -> None:
        """Ends the session, and with it all its tables."""
        if self._session:
            self.run('CALL BQ.ABORT_SESSION()')


@contextlib.contextmanager
def opened_table(options: ml_collections.ConfigDict) -> Iterator[FoundLog]:
    """The log in the table or view of BigQuery that `data.source` names.

    Raises:
      UserError: BigQuery cannot be reached or fails, or there is no such table.
    """
    refuse_sequences(options)
    refuse_missing_times(options)
    try:
        import google.api_core.exceptions
        import google.auth.exceptions
        import requests
        import sqlglot  # noqa: F401
        from google.cloud import bigquery
    except ImportError as error:
        raise UserError(
            f'data.engine=bigquery needs its client ({error}); install it with: '
            f'{install_command("[bigquery]")}'
        ) from error
    failures = (
        google.api_core.exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        requests.RequestException,
        OSError,
    )
    try:
        client = bigquery.Client()
        table = client.get_table(options.source)
    except ValueError as error:
        raise UserError(
            f"data.source is '{options.source}'; name a table of BigQuery as project.dataset.table."
        ) from error
    except failures as error:
        raise UserError(
            f'BigQuery does not give the table {options.source} ({reason(error)}); log in with '
            '"gcloud auth application-default login", or name a key file in '
            'GOOGLE_APPLICATION_CREDENTIALS, and look whether the table is there.'
        ) from error
    engine = BigQuery(client, table.location)
    try:
        name = '.'.join(map(quoted, (table.project, table.dataset_id, table.table_id)))
        look = functools.partial(typed_table, engine, name, _fields(table.schema))
        log = log_in_warehouse(engine, look, _digests(engine, table), options)

        def read(scratch: pathlib.Path, report: Report) -> Events:
            events = log.read(scratch, report)
            report.say(f'  BigQuery processed {engine.bytes_processed / 1e9:.2f} GB')
            return events

        yield log._replace(read=read)
    except failures as error:
        raise UserError(
            f'BigQuery cannot read or sort {options.source} ({reason(error)}).'
        ) from error
    finally:
        with contextlib.suppress(*failures):
            engine.close()


def _fields(schema, path=()):
    """(name, SQL, type) of the columns that have a text; those of a record have a path as name."""
    found = []
    for field in schema:
        names = (*path, field.name)
        if field.mode == 'REPEATED':
            continue
        if field.field_type in ('RECORD', 'STRUCT'):
            found += _fields(field.fields, names)
        elif field.field_type in _TYPES:
            found.append(('.'.join(names), '.'.join(map(quoted, names)), _TYPES[field.field_type]))
    return found


def _digests(engine, table):
    """What tells whether a log is another one; of a plain table BigQuery knows it at no cost."""
    facts = [field.to_api_repr() for field in table.schema]
    if table.table_type == 'TABLE' and table.streaming_buffer is None:
        return [str(facts), str(table.num_rows), table.modified.isoformat()]
    ((count, total),) = engine.run(
        'SELECT COUNT(*), SUM(CAST(FARM_FINGERPRINT(TO_JSON_STRING(log)) AS NUMERIC)) '
        f'FROM `{table.project}`.`{table.dataset_id}`.`{table.table_id}` AS log'
    )
    return [str(facts), str(count), str(total)]


def _translated(query):
    from sqlglot import expressions, parse_one

    def function(name):
        return lambda arguments: expressions.Anonymous(this=name, expressions=arguments)

    def iso_microseconds(arguments):
        text = arguments[0].sql('bigquery')
        date = f"REPLACE(REPLACE({text}, '/', '-'), ',', '.')"
        for pattern, replacement in _ISO_STEPS:
            date = f"REGEXP_REPLACE({date}, r'{pattern}', r'{replacement}')"
        return parse_one(
            f"CASE WHEN REGEXP_CONTAINS({text}, r'^({ISO})$') "
            f'THEN UNIX_MICROS(SAFE_CAST({date} AS TIMESTAMP)) END',
            read='bigquery',
        )

    functions = {
        'epoch_us': function('UNIX_MICROS'),
        # Its second argument is the pattern, which BigQuery wants first.
        'try_strptime': lambda both: function('SAFE.PARSE_TIMESTAMP')(both[::-1]),
        'iso_microseconds': iso_microseconds,
    }
    return translated(query, 'bigquery', functions)
