"""A log through BigQuery's SQL, against the same log through DuckDB."""

import re
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest

from emkd_jax.data.event_log.bigquery import BigQuery
from emkd_jax.data.event_log.database import Database
from emkd_jax.errors import UserError, install_command
from tests.support.custom_data import histories, load, times_of_dates

bigquery = pytest.importorskip('google.cloud.bigquery')
from tests.support.bigquery import END, FakeClient  # noqa: E402

TABLE = 'shop.web.events'


def made_up(times):
    """Popular items, few times, so that events tie and repeat; in every column something odd."""
    random = np.random.default_rng(0)
    events = len(times)
    return pd.DataFrame(
        {
            'user_id': random.integers(0, 100, events).astype(str),
            'item_id': (40 * random.random(events) ** 2).astype(int).astype(float),  # '7.0'
            'timestamp': times,
            'rating': random.choice([1.0, 3.0, 4.5, np.nan], events),
            'kind': random.choice(['view', 'buy', None], events),
        }
    )


SECONDS = 1_400_000_000 + np.random.default_rng(1).integers(0, 500, 2000)
CASES = {
    'core': (SECONDS, {'k_core': 5}),
    'rated': (pd.to_datetime(SECONDS, unit='s', utc=True), {'min_rating': 3.0, 'min_length': 3}),
    'by time': (
        pd.to_datetime(SECONDS, unit='s').strftime('%d.%m.%Y %H:%M'),
        {'split': 'time', 'cuts': '60%,80%', 'k_core': 2, 'keep': 'kind=buy'},
    ),
}


@pytest.fixture
def connect(monkeypatch):
    """connect(frame) is a client that knows the frame as TABLE, and is the one that is found."""

    def connect(frame):
        client = FakeClient(frame)
        monkeypatch.setattr(bigquery, 'Client', lambda: client)
        return client

    return connect


@pytest.mark.parametrize('case', CASES)
def test_a_table_gives_the_same_data(tmp_path, connect, case):
    times, changes = CASES[case]
    # A warehouse has no order of rows: events of the same time are in the order of their items.
    frame = made_up(times).sort_values('item_id', key=lambda item: item.astype(str))
    frame.to_parquet(tmp_path / 'log.parquet')
    client = connect(frame)
    one = load(tmp_path / 'log.parquet', tmp_path / 'duckdb', **changes)
    other = load(TABLE, tmp_path / 'bigquery', engine='bigquery', **changes)
    assert len(one.histories.values) > 100
    assert one.fingerprint == other.fingerprint
    assert histories(one) == histories(other)
    assert 'BigQuery processed' in other.notes
    assert client.statements[-1] == END


def test_dates_are_read_as_duckdb_reads_them():
    client = FakeClient(pd.DataFrame({'user': ['a']}))
    assert times_of_dates(BigQuery(client, 'EU')) == times_of_dates(Database(duckdb.connect()))


def test_the_prepared_data_is_kept_until_the_table_changes(tmp_path, connect):
    frame = made_up(SECONDS)
    client = connect(frame)
    load(TABLE, tmp_path, engine='bigquery')
    statements = len(client.statements)
    load(TABLE, tmp_path, engine='bigquery')
    assert len(client.statements) == statements
    longer = connect(pd.concat([frame, frame.iloc[:1]]))
    load(TABLE, tmp_path, engine='bigquery')
    assert len(longer.statements) > 10


@pytest.mark.parametrize(
    'source, changes, sentence',
    [
        ('shop.web.other', {}, 'BigQuery does not give the table shop.web.other .*Not found'),
        ('events', {}, "data.source is 'events'; name a table of BigQuery as project.dataset"),
        (TABLE, {'time_column': 'none'}, 'have no order; name the column of their times'),
        (TABLE, {'sequence_column': 'kind'}, 'make a row of each event with bigquery'),
        (TABLE, {'user_column': 'who'}, 'who'),
        (TABLE, {'max_bad_lines': 0}, "a row of user '.*' and item None: the item is empty"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, connect, source, changes, sentence):
    frame = made_up(SECONDS)
    frame.loc[3, 'item_id'] = np.nan
    connect(frame)
    with pytest.raises(UserError, match=sentence):
        load(source, tmp_path, engine='bigquery', **changes)


def test_a_failing_query_is_told(tmp_path, connect):
    client = connect(made_up(SECONDS))
    client.schema[0] = bigquery.SchemaField('nobody', 'STRING')
    with pytest.raises(UserError, match=r'BigQuery cannot read or sort shop.web.events \(.*nobody'):
        load(TABLE, tmp_path, engine='bigquery')


def test_without_the_client_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'google.cloud', None)
    with pytest.raises(UserError, match=re.escape(install_command('[bigquery]'))):
        load(TABLE, tmp_path, engine='bigquery')
