"""Spark as the engine of a log: for what one machine cannot sort, and for tables that lie there.

The session is Spark's own: it is made by what the environment of Spark says (spark-defaults.conf,
PYSPARK_SUBMIT_ARGS, ...), and runs on this machine where that says nothing. Only the finished
histories leave it. https://spark.apache.org/docs/latest/configuration.html
"""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
import pyarrow
import pyarrow.ipc

from emkd_jax.data.event_log.database import ISO
from emkd_jax.data.event_log.engine import Engine, quoted
from emkd_jax.data.event_log.event_table import typed_table
from emkd_jax.data.event_log.found_log import FoundLog
from emkd_jax.data.event_log.warehouse import (
    log_in_warehouse,
    reason,
    refuse_missing_times,
    refuse_sequences,
    translated,
)
from emkd_jax.errors import UserError, install_command

_LOG = 'emkd_log'  # the view of the log as it lies there
_PLACE = '_emkd_place'  # where a row lies in the files
_DAMAGED = '_emkd_damaged'  # the text of a line that is no row of its table
_FORMATS = {'.csv': 'csv', '.tsv': 'csv', '.json': 'json', '.jsonl': 'json', '.orc': 'orc'}
# Dates as `database.ISO` has them, in the one form that Spark reads.
_ISO_STEPS = (
    (' ?(UTC|GMT|Z)$', 'Z'),
    ('(:[0-9.]+) ([+-])', '$1$2'),
    ('([T ][0-9]{1,2}:[0-9]{1,2})(Z|[+-].*)$', '$1:00$2'),  # a zone follows seconds only
)


class Spark(Engine):
    """The engine whose tables are views of a session of their own.

    Names are their own keys, and nothing depends on the order in which rows arrive: a part that is
    computed again after the loss of a worker is the same.
    """

    number = 'name'
    place = 'place'

    def __init__(self, session: Any):
        """Takes a `pyspark.sql.SparkSession`, whose temporary views are this engine's."""
        self.session = session
        session.conf.set('spark.sql.session.timeZone', 'UTC')
        session.conf.set('spark.sql.sources.partitionColumnTypeInference.enabled', 'false')
        # Otherwise what is wrong with a line depends on the columns that a query names.
        session.conf.set('spark.sql.csv.parser.columnPruning.enabled', 'false')
        date = "replace(replace(text, '/', '-'), ',', '.')"
        for pattern, replacement in _ISO_STEPS:
            date = f"regexp_replace({date}, '{pattern}', '{replacement}')"
        iso = ISO.replace('\\', '\\\\')
        session.sql(
            'CREATE OR REPLACE TEMPORARY FUNCTION iso_microseconds(text STRING) RETURNS BIGINT '
            f"RETURN CASE WHEN text RLIKE '^({iso})$' THEN unix_micros(TRY_CAST({date} AS "
            'TIMESTAMP)) END'
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """See `Engine`."""
        return [tuple(row) for row in self._frame(query).collect()]

    def keep(self, table: str, query: str) -> None:
        """See `Engine`.

        The rows go to the checkpoint folder of the session where it has one. Otherwise they stay on
        the disks of the workers, and the loss of one ends the reading with an error.
        """
        from pyspark import StorageLevel

        frame = self._frame(query)
        if self.session.sparkContext.getCheckpointDir():
            frame = frame.checkpoint()
        else:
            frame = frame.localCheckpoint(storageLevel=StorageLevel.DISK_ONLY)
        frame.createOrReplaceTempView(table)

    def drop(self, *tables: str) -> None:
        """See `Engine`."""
        for table in tables:
            self.session.catalog.dropTempView(table)

    def batches(self, query: str) -> Iterator[pyarrow.RecordBatch]:
        """See `Engine`."""
        # Runs on workers, which need not have this package; a lambda is sent as it is.
        packed = lambda batches: (
            pyarrow.record_batch(
                {
                    'columns': [batch.schema.serialize().to_pybytes()],
                    'values': [batch.serialize().to_pybytes()],
                }
            )
            for batch in batches
        )
        rows = self._frame(query).mapInArrow(packed, 'columns binary, values binary')
        for row in rows.toLocalIterator(prefetchPartitions=True):
            schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(row['columns']))
            yield pyarrow.ipc.read_record_batch(pyarrow.py_buffer(row['values']), schema)

    def _frame(self, query):
        return self.session.sql(_translated(query))


@contextlib.contextmanager
def opened_table(options: ml_collections.ConfigDict) -> Iterator[FoundLog]:
    """The log in the table or the files that `data.source` names, as Spark sees it.

    Raises:
      UserError: Spark is not there or fails, or the log is not there.
    """
    path = pathlib.PurePath(options.source)
    with _open_spark(options.source) as engine:
        look = _find(engine, options)
        yield log_in_warehouse(
            engine,
            look,
            _fingerprint(engine),
            options,
            lambda report: _report_damaged(engine, path, report),
        )


@contextlib.contextmanager
def _open_spark(source):
    """A session of Spark, which stays when this ends; its tables are gone."""
    try:
        import sqlglot  # noqa: F401
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(
            f'data.engine=spark needs Spark ({error}); install a Java runtime, and then Spark '
            f'with: {install_command("[spark]")}'
        ) from error
    import py4j.protocol

    failures = (PySparkException, py4j.protocol.Py4JError, OSError)
    try:
        whole = SparkSession.builder.appName('emkd_jax').getOrCreate()
        whole.sparkContext.setLogLevel('ERROR')
        logging.getLogger('SQLQueryContextLogger').disabled = True  # of errors that are told below
        engine = Spark(whole.newSession())
    except failures as error:
        raise UserError(
            f'Spark cannot be reached ({reason(error)}); it needs a Java runtime here, and finds '
            'its cluster by PYSPARK_SUBMIT_ARGS or spark-defaults.conf.'
        ) from error
    try:
        yield engine
    except failures as error:
        raise UserError(f'Spark cannot read or sort {source} ({reason(error)}).') from error
    finally:
        with contextlib.suppress(*failures):
            for view in engine.session.catalog.listTables():
                if view.isTemporary:
                    engine.drop(view.name)


def _find(engine, options):
    """Makes `data.source` the view `_LOG`; returns what makes an `EventTable` of it.

    A source with a slash in it is a file, a folder or a pattern, in any place that Spark reads;
    anything else is a table of its catalogue. Events of the same user and time keep the order of
    the files; in a table, which has no order, they are ordered by item.
    """
    from pyspark.sql import functions

    source = options.source
    refuse_sequences(options)
    is_path = '/' in source or pathlib.Path(source).exists()
    frame = _files(engine, source, options) if is_path else engine.session.table(source)
    fields = _fields(frame.schema)
    if is_path:
        file = functions.col('_metadata')
        place = functions.struct(
            file['file_path'], file['file_block_start'], functions.monotonically_increasing_id()
        )
        frame = frame.withColumn(_PLACE, place)
    else:
        refuse_missing_times(options)
    frame.createOrReplaceTempView(_LOG)
    relation = _LOG
    if _DAMAGED in frame.columns:
        relation = f'(SELECT * FROM {_LOG} WHERE {_DAMAGED} IS NULL)'
    place = _PLACE if is_path else None
    return functools.partial(typed_table, engine, relation, fields, place=place)


def _fingerprint(engine):
    """What tells whether a log is another one: its columns, and a sum over hashes of its rows."""
    from pyspark.sql import functions

    frame = engine.session.table(_LOG)
    columns = [name for name, kind in frame.dtypes if name != _PLACE and not kind.startswith('map')]
    digest = functions.xxhash64(*(functions.col(f'`{name}`') for name in columns))
    row = frame.select(
        functions.count(functions.lit(1)), functions.sum(digest.cast('decimal(38,0)'))
    ).first()
    return [str(frame.dtypes), *map(str, row)]


def _report_damaged(engine, path, report):
    frame = engine.session.table(_LOG)
    if _DAMAGED not in frame.columns:
        return
    # Spark does not answer queries about nothing but the damaged lines.
    ((count, first, _),) = engine.rows(
        f'SELECT count(*), min({_DAMAGED}), min({quoted(frame.columns[0])}) FROM {_LOG} '
        f'WHERE {_DAMAGED} IS NOT NULL'
    )
    if count:
        report.bad_lines(path, 'a line', f"it is no row of the table: '{first[:60]}'", count)


def _files(engine, source, options):
    from pyspark.sql.types import StringType, StructField, StructType

    suffixes = pathlib.PurePath(source).suffixes
    if suffixes[-1:] == ['.gz']:
        suffixes.pop()
    kind = _FORMATS.get(suffixes[-1] if suffixes else '', 'parquet')
    reader = engine.session.read
    if kind != 'csv':
        return reader.format(kind).load(source)
    header = not options.columns
    given = {'header': header, 'sep': '\t' if suffixes[-1] == '.tsv' else ',', 'escape': '"'}
    names = [name.strip() for name in options.columns.split(',')]
    if header:
        names = reader.options(**given).csv(source).columns
    # Spark fills short lines with nothing and cuts long ones, unless they are asked for.
    schema = StructType([StructField(name, StringType()) for name in (*names, _DAMAGED)])
    return reader.options(**given, columnNameOfCorruptRecord=_DAMAGED).schema(schema).csv(source)


def _fields(schema, path=()):
    """(name, SQL, type) of all columns; those within another one have a path for a name."""
    found = []
    for field in schema.fields:
        names = (*path, field.name)
        kind = field.dataType
        if kind.typeName() == 'struct':
            found += _fields(kind, names)
        elif field.name != _DAMAGED:
            found.append(('.'.join(names), '.'.join(map(quoted, names)), kind.simpleString()))
    return found


def _translated(query):
    from sqlglot import expressions

    def try_strptime(arguments):
        text, pattern = arguments
        # SQLGlot knows the form of Spark's patterns, but not the function that never fails.
        dated = expressions.StrToTime(this=expressions.Null(), format=pattern).sql('spark')
        pattern = expressions.Literal.string(dated.split("'")[1])
        return expressions.Anonymous(this='try_to_timestamp', expressions=[text, pattern])

    functions = {
        'epoch_us': lambda time: expressions.Anonymous(this='unix_micros', expressions=time),
        'try_strptime': try_strptime,
    }
    return translated(query, 'spark', functions)
