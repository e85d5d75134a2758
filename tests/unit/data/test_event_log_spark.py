"""A log through Spark, against the same log through DuckDB."""

import os
import re
import shutil
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest

from emkd_jax.data.event_log.database import Database
from emkd_jax.data.event_log.spark import Spark
from emkd_jax.errors import UserError, install_command
from tests.support.custom_data import histories, load, times_of_dates

pyspark = pytest.importorskip('pyspark')
if shutil.which('java') is None:
    pytest.skip('Spark needs a Java runtime', allow_module_level=True)

TWO_WORKERS = (
    '--master local[2] --conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false '
    '--conf spark.sql.shuffle.partitions=2 --conf spark.driver.host=127.0.0.1 '
    '--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN '
    '--conf spark.sql.warehouse.dir={} pyspark-shell'
)


@pytest.fixture(scope='module', autouse=True)
def session(tmp_path_factory):
    """The session that the engine will find, with two workers; it ends with the module."""
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp('spark')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYSPARK_SUBMIT_ARGS', TWO_WORKERS.format(folder))
        patch.setenv('PYSPARK_PYTHON', sys.executable)
        found = SparkSession.builder.getOrCreate()
        yield found
        found.stop()


def made_up(seed, events=2000):
    """Popular items, few times, so that events tie and repeat; in every column something odd."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            'user_id': random.integers(0, 100, events).astype(str),
            'item_id': (40 * random.random(events) ** 2).astype(int).astype(float),  # '7.0'
            'timestamp': 1_400_000_000 + random.integers(0, 500, events),
            'rating': random.choice([1.0, 3.0, 4.5, np.nan], events),
            'kind': random.choice(['view', 'buy', None], events),
        }
    )


def write_parts(folder, frame, parts=3):
    """A folder as a cluster leaves it, with partitions and marks of its own."""
    for part in range(parts):
        rows = frame.iloc[part * len(frame) // parts : (part + 1) * len(frame) // parts]
        into = folder / f'day={part}'
        into.mkdir(parents=True)
        rows.to_parquet(into / f'part-{part}.parquet')
    (folder / '_SUCCESS').touch()
    return folder


def same(source, tmp_path, **changes):
    """The fingerprint of both engines, which must be the same, and the notes of each."""
    data = [
        load(source, tmp_path / engine, engine=engine, **changes) for engine in ('duckdb', 'spark')
    ]
    assert data[0].fingerprint == data[1].fingerprint
    for one, other in zip(*(histories(each).items() for each in data), strict=True):
        assert one == other
    return data


@pytest.mark.parametrize(
    'changes',
    [
        {'k_core': 5},
        {'min_rating': 3.0, 'min_length': 3, 'keep': 'day=0,2'},
        {'split': 'time', 'cuts': '60%,80%', 'k_core': 2, 'keep': 'kind=buy'},
    ],
    ids=['core', 'rated', 'by time'],
)
def test_a_folder_gives_the_same_data(tmp_path, changes):
    source = write_parts(tmp_path / 'log', made_up(0))
    one, other = same(source, tmp_path, **changes)
    assert len(one.histories.values) > 100
    left_out = [
        [line for line in data.notes.splitlines() if 'left out' in line] for data in (one, other)
    ]
    assert left_out[0] == left_out[1]


def test_text_with_dates_of_all_forms_gives_the_same_data(tmp_path):
    dates = [
        '2031-01-09',
        '2031-01-09 10:00:00',
        '2031/1/9 10:00',
        '2031-01-09T10',
        '2031-01-09T10:00:00.123456Z',
        '2031-01-09 10:00:00,5',
        '2031-01-09 10:00:01+02:00',
        '2031-01-09 10:00:02 UTC',
        '2031-01-09T10:00:03+0530',
        '2031-01-09T10:00:04-08',
        '2031-13-09',
        'never',
        '',
    ]
    rows = [f'"u, {place % 3}",i{place:02d},{date}' for place, date in enumerate(dates)]
    source = tmp_path / 'log.csv'
    source.write_text('\n'.join(['user,item,date', *rows, 'short line', 'a,line,2031-01-09,long']))
    # A decimal comma is a field more in CSV.
    one, _ = same(source, tmp_path, max_bad_lines=7)
    assert len(one.histories.values) == 9
    with pytest.raises(UserError, match=r"a line: it is no row of the table: '.* 2 more bad lines"):
        load(source, engine='spark')


def test_engines_agree_about_every_form_of_a_date(session):
    times = times_of_dates(Spark(session.newSession()))
    assert times == times_of_dates(Database(duckdb.connect()))
    assert 40 < sum(time is not None for time in times.values()) < 150


def test_other_dates_are_read_by_their_form(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_text(
        'user,item,date\na,x,09.01.2031 10:00\na,y,9.1.2031 9:30\nb,x,10.01.2031 00:01\n'
    )
    one, _ = same(source, tmp_path)
    assert histories(one) == {'a': ['y', 'x'], 'b': ['x']}


def test_a_table_of_the_catalogue(tmp_path, session):
    """Its ties are ordered by item, and a column may lie within another one."""
    session.sql("""
        CREATE TABLE shop_events USING parquet AS
        SELECT user, struct(item AS id) AS product, timestamp_seconds(time) AS at FROM VALUES
            ('b', 'y', 20), ('b', 'x', 20), ('b', 'z', 10), ('a', 'z', 30), ('a', 'x', 30)
            AS rows(user, item, time)
    """)
    session.sparkContext.setCheckpointDir(str(tmp_path / 'kept'))
    options = {'engine': 'spark', 'item_column': 'product.id'}
    data = load('shop_events', tmp_path, **options)
    assert list((tmp_path / 'kept').rglob('part-*'))
    assert histories(data) == {'a': ['x', 'z'], 'b': ['z', 'x', 'y']}
    assert 'time = at' in data.notes
    folders = list((tmp_path / 'emkd_custom').iterdir())
    load('shop_events', tmp_path, **options)
    assert list((tmp_path / 'emkd_custom').iterdir()) == folders  # it was there
    session.sql("INSERT INTO shop_events VALUES ('a', struct('y'), timestamp_seconds(5))")
    assert histories(load('shop_events', tmp_path, **options))['a'] == ['y', 'x', 'z']
    with pytest.raises(UserError, match=r"no column 'who'.* its columns are user, product.id, at"):
        load('shop_events', tmp_path, **options, user_column='who')
    with pytest.raises(UserError, match='rows of the table shop_events have no order'):
        load('shop_events', tmp_path, **options, time_column='none')
    with pytest.raises(UserError, match='whole histories are read with data.engine=duckdb only'):
        load('shop_events', tmp_path, **options, sequence_column='user')


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='Spark cannot read or sort nowhere .*nowhere.*cannot be'):
        load('nowhere', tmp_path, engine='spark')
    with pytest.raises(UserError, match='Spark cannot read or sort .*PATH_NOT_FOUND'):
        load(tmp_path / 'none.parquet', tmp_path, engine='spark')
    monkeypatch.setitem(sys.modules, 'sqlglot', None)
    with pytest.raises(UserError, match=re.escape(install_command('[spark]'))):
        load('nowhere', tmp_path, engine='spark')


def test_without_java_a_sentence(tmp_path):
    command = [sys.executable, 'launch.py', 'prepare', '--config=custom']
    done = subprocess.run(
        [*command, '--config.data.engine=spark', '--config.data.source=shop'],
        env=os.environ | {'JAVA_HOME': str(tmp_path), 'TFDS_DATA_DIR': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'Spark cannot be reached' in done.stderr and 'Traceback' not in done.stderr
