"""Logs that are more than one file: folders, patterns, partitions and databases."""

import sqlite3

import duckdb
import numpy as np
import pandas as pd
import pytest

from emkd_jax.errors import UserError
from tests.support.custom_data import histories, load


def made_up(seed, events=600):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            'user': random.integers(0, 30, events),
            'item': random.integers(0, 20, events).astype(float),
            'timestamp': 1_400_000_000 + random.integers(0, 100, events),
        }
    )


def write(frame, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.parquet':
        frame.to_parquet(path)
    elif path.suffix == '.jsonl':
        frame.to_json(path, orient='records', lines=True)
    else:
        frame.to_csv(path, index=False)


@pytest.mark.parametrize('suffix', ['.parquet', '.csv', '.csv.gz', '.jsonl'])
def test_parts_are_one_log_in_the_order_of_their_names(tmp_path, suffix):
    frame = made_up(0)
    write(frame, tmp_path / f'whole{suffix}')
    parts = tmp_path / 'parts'
    for part in range(3):
        write(frame.iloc[part * 200 : (part + 1) * 200], parts / f'part-{part}{suffix}')
    (parts / '_SUCCESS').touch()
    (parts / '.part.crc').write_text('no events')
    (parts / f'empty{suffix}').touch()
    whole = load(tmp_path / f'whole{suffix}', k_core=3)
    for source in (parts, f'{parts}/part*', f'{tmp_path}/**/part-[0-2]{suffix}'):
        data = load(source, tmp_path / 'prepared', k_core=3)
        assert data.fingerprint == whole.fingerprint
    assert '3 files, in the order of their names' in data.notes
    assert data.notes.count('columns: ') == 1


def test_names_are_ordered_as_text(tmp_path):
    for number, folder in enumerate(['a-b', 'a', 'a b']):
        write(
            made_up(number)[:1].assign(user=1, item=number, timestamp=7),
            tmp_path / f'log/{folder}/x.csv',
        )
    assert histories(load(tmp_path / 'log')) == {1: [2, 0, 1]}  # a blank, a dash, a slash


def test_folders_name_the_values_of_a_partitioned_log(tmp_path):
    frame = made_up(1)
    for part, country in enumerate(['de', 'fr', 'the%20Netherlands']):
        into = tmp_path / 'log' / f'country={country}'
        write(frame.iloc[part * 200 : (part + 1) * 200], into / 'part.parquet')
    write(frame.iloc[200:], tmp_path / 'some.parquet')
    some = load(tmp_path / 'log', keep='country=fr,the Netherlands')
    assert some.fingerprint == load(tmp_path / 'some.parquet').fingerprint


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        (
            ['a.csv', 'b.parquet', 'user_item.txt'],
            'holds files of several kinds: .*a.csv.*table.*s3',
        ),
        ([], 'holds no files'),
    ],
)
def test_a_folder_that_is_no_log(tmp_path, files, expected):
    folder = tmp_path / 'log'
    folder.mkdir()
    for name in files:
        write(made_up(2), folder / name)
    if 'user_item.txt' in files:
        (folder / 'user_item.txt').write_text('1 2 3\n2 3 4 5\n')
    with pytest.raises(UserError, match=expected):
        load(folder)
    with pytest.raises(UserError, match='holds no files .*; correct --config.data.source'):
        load(f'{folder}/*.orc', tmp_path / 'prepared')


def test_what_is_wrong_with_a_part_names_the_part(tmp_path):
    write(made_up(3), tmp_path / 'log/a.csv')
    (tmp_path / 'log/b.csv').write_text('user,item,timestamp\n1,2,1400000000\n1,,1400000000\n')
    with pytest.raises(UserError, match=r'b.csv, line 3: the item is empty'):
        load(tmp_path / 'log')
    data = load(tmp_path / 'log', max_bad_lines=1)
    assert 'b.csv: left out 1 bad lines' in data.notes
    (tmp_path / 'log/b.csv').write_text('who,what,timestamp\n1,2,1400000000\n')
    with pytest.raises(UserError, match=r'b.csv has no column that is known to hold the user'):
        load(tmp_path / 'log')
    (tmp_path / 'log/b.csv').write_text('user,item,timestamp\n1,2,14000000\n')
    with pytest.raises(UserError, match="log, a row of user '1' and item '2': .* decades apart"):
        load(tmp_path / 'log')


def write_database(frame, path, kind):
    """Writes a database file with the table `orders`."""
    if kind == 'sqlite':
        connection = sqlite3.connect(path)
        frame.to_sql('orders', connection, index=False)
    else:
        connection = duckdb.connect(str(path))
        connection.execute('CREATE TABLE orders AS FROM frame')
    connection.close()


@pytest.mark.parametrize('kind', ['sqlite', 'duckdb'])
def test_a_table_of_a_database(tmp_path, kind):
    frame = made_up(4)
    write(frame, tmp_path / 'whole.parquet')
    expected = load(tmp_path / 'whole.parquet', k_core=3)
    source = tmp_path / 'shop.db'
    write_database(frame, source, kind)
    assert load(source, k_core=3).fingerprint == expected.fingerprint
    connection = sqlite3.connect(source) if kind == 'sqlite' else duckdb.connect(str(source))
    connection.execute('CREATE TABLE customers (user INTEGER, name VARCHAR)')
    connection.execute('CREATE VIEW late AS SELECT * FROM orders WHERE timestamp >= 1400000050')
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match='holds customers, late, orders; name the table'):
        load(source)
    with pytest.raises(UserError, match='but not sales; name the table .* --config.data.table'):
        load(source, table='sales')
    assert load(source, table='orders', k_core=3).fingerprint == expected.fingerprint
    write(frame[frame['timestamp'] >= 1400000050], tmp_path / 'late.parquet')
    assert histories(load(source, table='late')) == histories(load(tmp_path / 'late.parquet'))


@pytest.mark.parametrize('kind', ['sqlite', 'duckdb'])
def test_a_folder_of_databases(tmp_path, kind):
    frame = made_up(6)
    write(frame, tmp_path / 'whole.parquet')
    (tmp_path / 'log').mkdir()
    for number in range(3):
        part = frame.iloc[number * 200 : (number + 1) * 200]
        write_database(part, tmp_path / f'log/{number}.db', kind)
    data = load(tmp_path / 'log', k_core=3)
    assert data.fingerprint == load(tmp_path / 'whole.parquet', k_core=3).fingerprint


@pytest.mark.parametrize('start', [b'SQLite format 3\0', b'8 bytes.DUCK'])
def test_a_damaged_database(tmp_path, start):
    (tmp_path / 'shop.db').write_bytes(start + bytes(5000))
    with pytest.raises(UserError, match='shop.db cannot be read as a database'):
        load(tmp_path / 'shop.db')


def test_files_at_an_address_are_read_as_those_of_a_folder(tmp_path):
    frame = made_up(5)
    for part, day in enumerate(['01', '02', '03']):
        into = tmp_path / f'log/day={day}'
        write(frame.iloc[part * 200 : (part + 1) * 200], into / 'part.parquet')
    address = f'file://{tmp_path}/log/*/*.parquet'
    for changes in ({'k_core': 3}, {'keep': 'day=01,03'}):
        data = load(address, tmp_path / 'prepared', **changes)
        assert data.fingerprint == load(tmp_path / 'log', **changes).fingerprint
    frame.loc[300, 'user'] = np.nan
    write(frame, tmp_path / 'log/day=02/part.parquet')
    with pytest.raises(UserError, match=r"a row of user None and item '.*': the user is empty"):
        load(address, tmp_path / 'prepared', k_core=3)


@pytest.mark.parametrize(
    ('address', 'expected'),
    [
        ('s3://bucket/*.parquet', "needs DuckDB's extension httpfs, .*install_extension"),
        ('ftp://host/log.parquet', 'ftp://host/log.parquet begins with none of file://, s3://'),
        ('file:///nowhere/*.parquet', 'file:///nowhere/.* cannot be read .*; name Parquet files'),
    ],
)
def test_an_address_that_cannot_be_read(tmp_path, monkeypatch, address, expected):
    monkeypatch.setenv('HOME', str(tmp_path))  # where extensions would lie
    with pytest.raises(UserError, match=expected):
        load(address, tmp_path)
