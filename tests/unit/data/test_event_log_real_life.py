"""Files as they are in real life, after public bug reports: read right, or a clear sentence."""

import datetime
import json

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from emkd_jax.errors import UserError
from tests.support.custom_data import attributes, histories, load


@pytest.fixture
def read(tmp_path):
    """Reads a log from text, or from a table as Parquet: the data by original ids."""

    def read(content, name='log.csv', **changes):
        source = tmp_path / name
        if isinstance(content, str):
            source.write_text(content)
        else:
            pyarrow.parquet.write_table(pyarrow.table(content), source)
        return load(source, **changes)

    return read


def rows(header, *lines):
    return '\n'.join([header, *lines, ''])


@pytest.mark.parametrize(
    ('times', 'changes'),
    [
        (['1111', '0829', '0915'], {}),
        (['2031-12-09 20', '2031-12-05 11', '2031-12-06 02'], {}),
        (['2031/12/9', '2031/1/5', '2031/2/6 7:05'], {}),
        (['2031-01-09 10:00:00 UTC', '2031-01-09 10:00:00+02:00', '2031-01-09T09:00:00Z'], {}),
        (['20310109', '20301231', '20310101'], {}),
        (['09.01.2031 10:00', '31.12.2030 11:00', '01.01.2031 00:00'], {}),
        (['9 Jan 2031', '31 Dec 2030', '1 Jan 2031'], {}),
        (['09/01/2031', '12/12/2030', '01/01/2031'], {'time_format': '%d/%m/%Y'}),
        (['09/01/2031', '31/12/2030', '01/01/2031'], {}),
        (['1-9-2031 16:05', '12-31-2030 23:10', '1-1-2031 0:00'], {}),
        (['1/1/2031 3:05:00 PM', '12/31/2030 11:10:00 PM', '1/1/2031 12:01:00 AM'], {}),
        (['2031-01-09 10:00:00 +0200', '2031-01-09 07:59:59 Z', '2031-01-09 13:29:59 +05:30'], {}),
        (['1700000000.25', '1700000000.125', '1700000000.2'], {}),
        (['1700000000000000002', '1700000000000000000', '1700000000000001000'], {}),
        ([' 1700000003', '1700000001 ', '1700000002'], {}),
    ],
)
def test_times_as_people_write_them(read, times, changes):
    """The items are in the order c, a, b in the file and in time after a, b, c."""
    lines = [f'u,{item},"{time}"' for item, time in zip('cab', times, strict=True)]
    expected = ['a', 'b', 'c']
    if (
        times[0] == '1700000000000000002'
    ):  # nanoseconds within one microsecond keep the file's order
        expected = ['c', 'a', 'b']
    assert histories(read(rows('user,item,time_stamp', *lines), **changes)) == {'u': expected}


def test_how_dates_were_read_is_said(read):
    days = rows('user,item,date', 'u,a,01/02/2031', 'u,b,13/02/2031')
    assert 'time = date (read as %d/%m/%Y),' in read(days).notes
    assert 'time = date,' in read(days, time_format='%d/%m/%Y').notes
    with pytest.raises(UserError, match="'%d/%m/%Y %I:%M %p' or '%m/%d/%Y %I:%M %p'"):
        read(rows('user,item,date', 'u,a,01/02/2031 1:00 PM', 'u,b,02/02/2031 2:00 PM'))


def test_a_fraction_beyond_the_first_rows_counts(read):
    lines = [f'u{row},i,{1700000000 + row}' for row in range(1000)]
    lines += ['z,c,1700002000.75', 'z,a,1700002000.25', 'z,b,1700002000.5']
    assert histories(read(rows('user,item,timestamp', *lines)))['z'] == ['a', 'b', 'c']


def test_times_without_a_usual_name_are_told_by_their_values(read):
    log = rows('user,item,price,bought', 'u,b,3,2031-01-02', 'u,a,9,2031-01-01')
    data = read(log)
    assert histories(data) == {'u': ['a', 'b']}
    assert 'time = bought,' in data.notes and '2031-01-01 .. 2031-01-02' in data.notes


@pytest.mark.parametrize('name', ['watched_at', 'watchedAt', 'WATCH_DATE', 'watchTime', 'event ts'])
def test_a_name_whose_last_word_is_a_time_is_one(read, name):
    data = read(rows(f'user,item,runtime,update,{name}', 'u,b,90,yes,2', 'u,a,95,no,1'))
    assert histories(data) == {'u': ['a', 'b']}
    assert f'time = {name},' in data.notes


@pytest.mark.parametrize('name', ['runtime', 'update', 'last_update', 'format', 'flat', 'time2'])
def test_a_name_that_ends_in_the_letters_of_a_time_is_none(read, name):
    with pytest.raises(UserError, match='no column that is known to hold the times'):
        read(rows(f'user,item,{name}', 'u,b,90', 'u,a,95'))


def test_the_day_and_the_time_of_day_belong_together(read):
    log = rows(
        'user,item,date,time',
        'u,b,2031-01-02,09:30',
        'u,c,2031-01-02,10:00',
        'u,a,2031-01-01,11:00',
    )
    data = read(log)
    assert histories(data) == {'u': ['a', 'b', 'c']}
    assert 'time = date and time,' in data.notes


def test_a_day_with_a_type_of_its_own_and_the_time_of_day_belong_together(read):
    day, clock = datetime.date, datetime.time
    log = {
        'user': ['u', 'u', 'u'],
        'item': ['b', 'c', 'a'],
        'date': [day(2031, 1, 2), day(2031, 1, 2), day(2031, 1, 1)],
        'time': [clock(10, 0, 5), clock(10, 0, 6, 500), clock(11, 0)],
    }
    backwards = {name: values[::-1] for name, values in log.items()}
    for table in (log, backwards):
        assert histories(read(table, 'log.parquet')) == {'u': ['a', 'b', 'c']}


def test_a_time_of_day_may_say_that_it_is_utc(tmp_path):
    """As Parquet files have it that older versions of Arrow wrote."""
    source = tmp_path / 'log.parquet'
    duckdb.sql(f"""
        COPY (
            SELECT 'u' AS user, item, DATE '2031-01-02' AS date, time::TIMETZ AS time
            FROM (VALUES ('b', '10:00:05.5+00'), ('c', '10:00:06+00'), ('a', '09:00:00+00'))
                AS log(item, time)
        ) TO '{source}'
    """)
    assert histories(load(source, k_core=0)) == {'u': ['a', 'b', 'c']}


def test_ratings_that_are_not_used_are_said_to_be_there(read):
    log = rows('user,item,timestamp,rating', 'u,a,1,5', 'u,b,2,1')
    assert 'rating = not used (data.min_rating is 0)' in read(log).notes
    assert 'rating = rating' in read(log, min_rating=1.0).notes
    assert 'rating = none' in read(rows('user,item,timestamp', 'u,a,1')).notes


def test_one_unit_a_column(read):
    log = rows(
        'user,item,timestamp',
        *(f'a,{item},170000000{item}000' for item in range(4)),
        'c,1,1700007200',
    )
    with pytest.raises(UserError, match=r'line 6: the timestamp lies decades apart'):
        read(log)
    assert set(histories(read(log, max_bad_lines=1))) == {'a'}


@pytest.mark.parametrize('missing', ['nan', 'NaN', 'NULL', 'None', ''])
def test_missing_ids_are_not_users(read, missing):
    log = rows('user,item,timestamp', '1,101,1', f'{missing},102,2', '1,103,3')
    with pytest.raises(UserError, match='line 3: the user is (missing|empty)'):
        read(log)
    assert histories(read(log, max_bad_lines=1)) == {1: [101, 103]}


def test_whole_floats_of_parquet_are_whole_numbers(read, tmp_path):
    items = tmp_path / 'items.csv'
    items.write_text('item_id,title,category\n101,Kettle,kitchen\n102,Lamp,light\n')
    log = {
        'user_id': [1.0, 1.0, np.nan],
        'item_id': [101.0, 102.0, 102.0],
        'timestamp': [1.0, 2.0, 3.0],
    }
    data = read(log, 'log.parquet', max_bad_lines=1, attributes=str(items))
    assert histories(data) == {1: [101, 102]}
    assert data.titles == ('Kettle', 'Lamp')


def test_whole_numbers_with_a_fraction_as_pandas_writes_them(read):
    log = rows('user,item,timestamp', '1.0,7.0,1', '1.0,8.0,2')
    assert histories(read(log)) == {1: [7, 8]}
    log = rows('user,item,timestamp', '1.0,7.5,1', '1.0,8.0,2')
    assert histories(read(log)) == {1: ['7.5', '8.0']}


def test_blanks_around_values_and_names(read):
    log = rows('user, item, time', '01, a, 1', '01,b , 2')
    assert histories(read(log)) == {'01': ['a', 'b']}


def test_missing_times_of_parquet(read):
    log = {'user': ['a'] * 3, 'item': ['x', 'y', 'z'], 'ts': [1.5e9, np.nan, 1.5e9 - 1]}
    with pytest.raises(UserError, match='row 2: the ts is missing'):
        read(log, 'log.parquet')
    assert histories(read(log, 'log.parquet', max_bad_lines=1)) == {'a': ['z', 'x']}


def test_an_id_is_taken_before_a_name(read):
    log = rows('user_id,user,item_id,item,time', '1,Ann,10,Kettle,2', '1,Ann,11,Kettle,1')
    data = read(log)
    assert histories(data) == {1: [11, 10]}
    assert 'columns: user = user_id, item = item_id, time = time' in data.notes


def test_a_file_without_column_names(read):
    log = '1,2031-04-07T10:54:09.277Z,9002,0\n1,2031-04-07T10:51:09.277Z,9001,0\n'
    with pytest.raises(
        UserError, match=r'no line of column names.*data\.columns=user,time,item,_ '
    ):
        read(log)
    assert histories(read(log, columns='user,time,item,_')) == {1: [9001, 9002]}


@pytest.mark.parametrize(
    ('cells', 'name'),
    [
        ({'items': [['a', 'b'], ['c']]}, 'log.parquet'),
        ('user;items\nu;a b\nv;c\n', 'log.csv'),
        ('user;items\nu;["a", "b"]\nv;["c"]\n', 'log.csv'),
        ("user;items\nu;['a', 'b']\nv;['c']\n", 'log.csv'),
        ('{"user": "u", "items": ["a", "b"]}\n{"user": "v", "items": ["c"]}\n', 'log.jsonl'),
    ],
)
def test_rows_that_hold_a_history(read, cells, name):
    data = read(cells, name, sequence_column='items')
    assert list(histories(data).values()) == [['a', 'b'], ['c']]
    # Without users, each row is a session of its own.
    assert list(histories(data)) == ([1, 2] if isinstance(cells, dict) else ['u', 'v'])


def test_columns_beside_a_history_may_have_any_names(read):
    log = {'user': ['u', 'v'], 'items': [['a', 'b'], ['c']], 'item': ['x', 'y'], 'number': [7, 8]}
    found = histories(read(log, 'log.parquet', sequence_column='items'))
    assert found == {'u': ['a', 'b', 'x'], 'v': ['c', 'y']}


def test_recbole_files_with_a_list_of_the_items_before(read):
    log = rows(
        'session_id:token\titem_id_list:token_seq\titem_id:token', '1\t2\t3', '1\t2 3\t4', '2\t4\t5'
    )
    assert histories(read(log, 'log.inter')) == {1: [2, 3, 4], 2: [4, 5]}
    log += '2\t9\t6\n'
    with pytest.raises(UserError, match='row 4: its sequence .*begins nor continues'):
        read(log, 'log.inter')


def test_json_lines_of_2023_reviews(read, tmp_path):
    review = {'asin': 'B0Ax', 'user_id': 'U', 'rating': 5.0, 'title': 'fine', 'images': []}
    log = ''.join(
        json.dumps(review | {'parent_asin': item, 'timestamp': time}) + '\n'
        for item, time in [('B0B', 1588687729923), ('B0A', 1588687728923)]
    )
    product = {'main_category': 'Toys', 'store': 'Acme', 'categories': ['Toys', 'Blocks']}
    meta = tmp_path / 'meta.jsonl'
    meta.write_text(json.dumps(product | {'title': 'A', 'parent_asin': 'B0A'}) + '\n')
    data = read(log, 'reviews.jsonl', attributes=str(meta))
    assert histories(data) == {'U': ['B0A', 'B0B']}
    assert attributes(data) == {'B0A': {1, 2}, 'B0B': set()}  # Acme, Blocks
    assert data.titles == ('A', '')


def test_json_lines_with_lists_of_events(read):
    log = (
        '{"session": 1, "events": [{"aid": 12, "ts": 1930000000378, "type": "carts"}, '
        '{"aid": 11, "ts": 1930000000278, "type": "clicks"}]}\n'
        '{"session": 2, "events": [{"aid": 12, "ts": 1930000000478, "type": "clicks"}]}\n'
    )
    with pytest.raises(UserError, match=r'columns are session, events\.aid, events\.ts'):
        read(log, 'log.jsonl')
    named = {'item_column': 'events.aid', 'time_column': 'events.ts'}
    assert histories(read(log, 'log.jsonl', **named)) == {1: [11, 12], 2: [12]}
    kept = read(log, 'log.jsonl', **named, keep='events.type=clicks')
    assert histories(kept) == {1: [11], 2: [12]}


def test_bad_lines_of_json(read):
    log = '{"user": 1, "item": 2, "time": 1}\n\n{"user": 1, "item": \n{"user": 1, "time": 3}\n'
    with pytest.raises(UserError, match=r'line 3: the user is empty \(and 1 more'):
        read(log, 'log.jsonl')


def test_quotes_in_files_with_tabs_are_letters(read, tmp_path):
    items = tmp_path / 'items.tsv'
    items.write_text('item\ttitle\tcategory\nA\t"Rain" (live)\tRock\nB\t"Snow\tRock\n')
    log = rows('user\titem\ttimestamp', 'u\tA\t1', 'u\tB\t2', 'u\t"C\t3', 'u\tD\t4')
    data = read(log, 'log.tsv', attributes=str(items))
    assert histories(data) == {'u': ['A', 'B', '"C', 'D']}
    assert data.titles == ('', '"Rain" (live)', '"Snow', '')
    log = rows('user\titem\ttimestamp', 'u\t"A"\t1')
    assert histories(read(log, 'log.tsv', quote='"')) == {'u': ['A']}


def test_kinds_of_events_are_mentioned_and_kept(read):
    log = rows('user,item,event_type,timestamp', 'u,a,view,1', 'u,b,buy,2', 'u,c,cart,3')
    notes = read(log).notes
    assert 'event_type holds buy, cart, view: all are taken' in notes
    assert histories(read(log, keep='event_type=buy, cart')) == {'u': ['b', 'c']}


def test_rows_of_sequences_that_are_left_out_are_counted(read):
    log = rows('items,kind', 'a b,cart', '"[a, b",view', 'c d,cart')
    named = {'sequence_column': 'items', 'time_column': 'none'}
    kept = read(log, **named, keep='kind=cart')
    assert histories(kept) == {1: ['a', 'b'], 3: ['c', 'd']}
    log = rows('items,kind', 'a b,view', '"[a, b",cart', 'c d,cart')
    with pytest.raises(UserError, match='row 2: its sequence cannot be read'):
        read(log, **named, keep='kind=cart')


def test_an_item_table_of_other_items_is_warned_of(read, tmp_path):
    items = tmp_path / 'items.csv'
    items.write_text('item,brand\nb-1,Acme\nb-2,Acme\n')
    notes = read(rows('user,item,time', 'u,1,1', 'u,2,2'), attributes=str(items)).notes
    assert 'WARNING: items.csv describes 0 of the 2 items of the events' in notes
    assert "such as '1', '2', and this file 'b-1', 'b-2'" in notes


def test_no_genres_listed_is_no_genre(read, tmp_path):
    items = tmp_path / 'movies.csv'
    items.write_text('movieId,title,genres\n10,A,Comedy|Drama\n20,B,(no genres listed)\n')
    log = rows('userId,movieId,rating,timestamp', '1,10,4.0,2', '1,20,0.5,1')
    assert attributes(read(log, attributes=str(items))) == {10: {1, 2}, 20: set()}
