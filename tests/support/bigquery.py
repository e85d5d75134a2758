"""A client of BigQuery whose tables lie in DuckDB: SQLGlot translates the SQL back."""

import datetime
from types import SimpleNamespace

import duckdb
import sqlglot
from google.api_core.exceptions import BadRequest, NotFound
from google.cloud import bigquery
from sqlglot import expressions

END = 'CALL BQ.ABORT_SESSION()'
_KINDS = {'BIGINT': 'INTEGER', 'DOUBLE': 'FLOAT', 'VARCHAR': 'STRING', 'TIMESTAMP': 'TIMESTAMP'}


class FakeClient:
    """Knows one table, `shop.web.events`; all statements must be of one session.

    Attributes:
      statements: all that were run, in BigQuery's SQL.
    """

    def __init__(self, frame):
        """Takes the events as a table of pandas."""
        self.statements = []
        self._in_session = False
        self._database = duckdb.connect()
        self._database.execute("SET TimeZone = 'UTC'")
        self._database.execute('CREATE TABLE log AS SELECT * FROM frame')
        columns = self._database.execute('DESCRIBE log').fetchall()
        self.schema = [
            bigquery.SchemaField(name, _KINDS[kind.split(' ')[0].split('_')[0]])
            for name, kind, *_ in columns
        ]

    def get_table(self, name):
        """What BigQuery knows of a table."""
        project, dataset, table = name.split('.')
        if name != 'shop.web.events':
            raise NotFound(f'Not found: Table {name}')
        return SimpleNamespace(
            project=project,
            dataset_id=dataset,
            table_id=table,
            location='EU',
            schema=self.schema,
            table_type='TABLE',
            streaming_buffer=None,
            num_rows=self._database.execute('SELECT count(*) FROM log').fetchall()[0][0],
            modified=datetime.datetime(2031, 1, 9, tzinfo=datetime.UTC),
        )

    def query(self, statement, job_config, location):
        """Runs a statement."""
        assert location == 'EU'
        session = [one.value for one in job_config.connection_properties or ()]
        assert (session, job_config.create_session) == (
            (['the session'], False) if self._in_session else ([], True)
        )
        self._in_session = statement != END
        self.statements.append(statement)
        return SimpleNamespace(
            result=lambda: self.run(statement),
            session_info=SimpleNamespace(session_id='the session'),
            total_bytes_processed=10**9,
        )

    def run(self, statement):
        """The rows of a statement."""
        if statement == END:
            return None
        try:
            return _Rows(self._database.sql(_back(statement)))
        except duckdb.Error as error:
            raise BadRequest(str(error)) from error


class _Rows:
    """Stands for a `RowIterator`."""

    def __init__(self, relation):
        self._relation = relation

    def __iter__(self):
        names = {name: place for place, name in enumerate(self._relation.columns)}
        return (bigquery.table.Row(row, names) for row in self._relation.fetchall())

    def to_arrow_iterable(self):
        """In batches of a few rows."""
        return iter(self._relation.to_arrow_reader(100))


def _back(statement):
    """BigQuery's SQL in DuckDB's."""
    statement = statement.replace('`shop`.`web`.`events`', 'log')
    tree = sqlglot.parse_one(statement, read='bigquery')
    for call in list(tree.find_all(expressions.SafeFunc)):
        time = call.this
        call.replace(
            expressions.Anonymous(this='try_strptime', expressions=[time.this, time.args['format']])
        )
    # NUMERIC has 38 digits, 9 of them after the point, where DECIMAL has fewer.
    return tree.sql('duckdb').replace('AS DECIMAL)', 'AS DECIMAL(38, 9))')
