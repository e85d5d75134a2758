"""Filters, order, numbering and the split by time, against plain Python."""

import collections
import contextlib
import json

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow
import pyarrow.parquet
import pytest

from emkd_jax.data import event_log, read_events
from emkd_jax.data.cache import holds_dataset
from emkd_jax.data.event_log import files
from emkd_jax.data.histories import write_histories
from emkd_jax.errors import UserError
from tests.support.custom_data import histories, load, options, prepared_in


def write(folder, rows, header='user,item,rating,timestamp'):
    source = folder / 'log.csv'
    source.write_text('\n'.join([header, *(','.join(map(str, row)) for row in rows), '']))
    return source


def made_up(seed, users=30, items=20, events=300, times=1000):
    random = np.random.default_rng(seed)
    return [
        (
            f'u{random.integers(users)}',
            f'i{int(items * random.random() ** 2)}',
            int(random.integers(1, 6)),
            1_400_000_000 + int(random.integers(times)),
        )
        for _ in range(events)
    ]


def core(rows, k, min_length=1):
    """The k-core of (user, item, ...) rows, by removing until nothing is left to remove."""
    while True:
        users = collections.Counter(row[0] for row in rows)
        items = collections.Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= max(k, min_length) and items[row[1]] >= k]
        if len(kept) == len(rows):
            return kept
        rows = kept


def in_order(rows):
    """{user: [items]} by time; the sort is stable, so ties stay as in the file."""
    by_user = collections.defaultdict(list)
    for user, item, _, _ in sorted(rows, key=lambda row: row[3]):
        by_user[user].append(item)
    return dict(by_user)


def unrepeated(rows):
    first = {}
    for row in rows:
        first.setdefault((row[0], row[1], row[3]), row)
    return list(first.values())


@pytest.mark.parametrize(('k', 'min_length'), [(0, 1), (3, 1), (4, 6), (2, 4)])
def test_core_and_order_are_those_of_plain_python(tmp_path, k, min_length):
    rows = made_up(k, users=30, items=30)
    data = load(write(tmp_path, rows), k_core=k, min_length=min_length)
    kept = core(unrepeated(rows), k, min_length)
    assert len(kept) > 0 and (k < 3 or len(kept) < len(rows))
    assert histories(data) == in_order(kept)
    assert data.counts()['interactions'] == len(kept)


def test_equal_timestamps_keep_the_order_of_the_file(tmp_path):
    rows = made_up(1, times=2, items=2000)
    assert histories(load(write(tmp_path, rows))) == in_order(unrepeated(rows))


def test_low_ratings_are_left_out_before_the_core(tmp_path):
    rows = made_up(2)
    data = load(write(tmp_path, rows), min_rating=2.5, k_core=3)
    assert histories(data) == in_order(core(unrepeated([r for r in rows if r[2] >= 3]), 3))


def test_an_event_without_a_rating_is_left_out_only_where_ratings_matter(tmp_path):
    source = write(tmp_path, [('a', 'x', 3, 1), ('a', 'y', '', 2), ('a', 'z', 'nan', 3)])
    assert histories(load(source)) == {'a': ['x', 'y', 'z']}
    assert histories(load(source, min_rating=1.0)) == {'a': ['x']}


def test_numbers_follow_the_ids_not_the_rows(tmp_path):
    source = write(tmp_path, [(10, 'b', 1, 1), (9, 'a', 1, 1), (-1, 'B', 1, 1)])
    data = load(source)
    assert data.user_ids.tolist() == [-1, 9, 10]
    assert data.item_ids.tolist() == ['B', 'a', 'b']
    source = write(tmp_path, [('10', 'b', 1, 1), ('9', 'b', 1, 1), ('09', 'b', 1, 1)])
    assert load(source).user_ids.tolist() == ['09', '10', '9']


def test_ids_that_were_left_out_do_not_decide_the_order(tmp_path):
    source = write(tmp_path, [(10, 'a', 5, 1), (9, 'a', 5, 1), ('x', 'a', 1, 1)])
    assert load(source, min_rating=3.0).user_ids.tolist() == [9, 10]


def test_the_same_rows_in_another_order_are_the_same_data(tmp_path):
    rows = made_up(3, times=10**6)
    one = load(write(tmp_path, rows), k_core=2)
    other = load(write(tmp_path, rows[::-1]), k_core=2)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize('cuts', ['70%,85%', '2014-05-13T17:03:00,2014-05-13 17:06:30+00:00'])
def test_split_by_time(tmp_path, cuts):
    rows = unrepeated(made_up(4, users=60, events=600))
    times = sorted(row[3] for row in rows)
    begins = (
        [times[int(len(times) * share + 0.999) - 1] for share in (0.7, 0.85)]
        if '%' in cuts
        else [1400000580, 1400000790]
    )
    data = load(write(tmp_path, rows), split='time', cuts=cuts, k_core=3)
    trained = core([row for row in rows if row[3] < begins[0]], 3)
    items = {row[1] for row in trained}
    known = [row for row in rows if row[1] in items]
    original = lambda values: [data.item_ids[value - 1] for value in values]
    train = {
        user: original(row)
        for user, row in zip(data.user_ids, data.split.train, strict=True)
        if len(row)
    }
    assert train == in_order(trained)
    for name, begin, end in (('validation', begins[0], begins[1]), ('test', begins[1], 10**10)):
        before = in_order([row for row in known if row[3] < begin])
        period = in_order([row for row in known if begin <= row[3] < end])
        expected = {user: (before[user], period[user][0]) for user in period if user in before}
        held_out = getattr(data.split, name)
        found = {
            data.user_ids[user]: (original(held_out.histories[row]), *original([target]))
            for row, (user, target) in enumerate(zip(held_out.users, held_out.targets, strict=True))
        }
        assert found == expected and found


def test_training_does_not_know_the_future(tmp_path):
    rows = unrepeated(made_up(5, users=60, events=600))
    cuts = '2014-05-13T17:00:00,2014-05-13T17:05:00'
    whole = load(write(tmp_path, rows), split='time', cuts=cuts, k_core=3)
    future = [row for row in rows if row[3] >= 1400000400]
    past = [row for row in rows if row[3] < 1400000400]
    assert len(future) > 100
    other = [
        (user, f'new{item}' if place % 2 else item, 5, time)
        for place, (user, item, _, time) in enumerate(future)
    ]
    other_future = load(write(tmp_path, past + other), split='time', cuts=cuts, k_core=3)
    assert whole.item_ids.tolist() == other_future.item_ids.tolist()
    trained = lambda data: [row.tolist() for row in data.split.train if len(row)]
    assert trained(whole) == trained(other_future)
    assert whole.fingerprint != other_future.fingerprint


def test_report_says_what_was_left_out_and_why(tmp_path):
    rows = [
        *[('a', item, 5, 1) for item in 'wxyz'],
        ('a', 'w', 5, 1),
        ('b', 'x', 2, 1),
        ('c', 'x', 5, 2),
        ('d', 'only', 5, 3),
    ]
    source = write(tmp_path, [*rows, ('e', 'x', 5, 'never')])
    said = load(source, min_rating=3.0, k_core=1, min_length=2, max_bad_lines=1).notes
    assert '8 events of 4 users on 5 items' in said
    assert 'left out 1 events rated below 3.0' in said
    assert 'left out 1 events that repeat' in said
    assert 'left out 2 events so that every user has 2 events and every item 1' in said
    assert 'WARNING: 3 of 4 events share their timestamp' in said
    assert "left out 1 bad lines, the first at line 10: 'never' cannot be read as a time" in said
    assert 'attribute prediction is switched off' in said
    assert 'prepared: 1 users, 4 items, 4 interactions, 0 attributes' in said


def test_it_is_prepared_once_and_again_when_something_differs(tmp_path):
    def folders():
        return len(list((tmp_path / 'prepared' / 'emkd_custom').iterdir()))

    source = write(tmp_path, made_up(6))
    load(source)
    again = load(source, window_step=7)
    assert isinstance(again.histories.values, np.memmap)
    assert folders() == 1
    load(source, k_core=2)
    assert folders() == 2
    write(tmp_path, made_up(7))
    load(source)
    assert folders() == 3


def test_nothing_is_printed_and_the_database_leaves_nothing_behind(tmp_path, capfd, monkeypatch):
    """Every process of a run prepares; the run prints the notes once."""
    real = files.open_database

    @contextlib.contextmanager
    def spilling(scratch):
        with real(scratch) as database:
            (folder,) = (path.parent for path in scratch.glob('*/events.duckdb'))
            (folder / 'spilled').mkdir(exist_ok=True)
            (folder / 'spilled' / 'block').touch()
            yield database

    monkeypatch.setattr(files, 'open_database', spilling)
    assert 'prepared: ' in load(write(tmp_path, made_up(8))).notes
    assert capfd.readouterr() == ('', '')
    (folder,) = (tmp_path / 'prepared' / 'emkd_custom').iterdir()
    assert {path.suffix for path in folder.iterdir()} == {'.npy', '.json'}


def test_titles_that_were_damaged_on_disk_are_told(tmp_path):
    source = write(tmp_path, made_up(9))
    load(source)
    (file,) = (tmp_path / 'prepared').glob('emkd_custom/*/titles.json')
    file.write_text('["a ti')
    with pytest.raises(UserError, match='is damaged .*; delete that folder'):
        load(source)


def test_times_are_kept_in_seconds(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_text('user,item,time\na,x,2020-01-01\na,y,2020-01-02T00:00:01\na,z,2020-01-03\n')
    data = load(source)
    assert data.times.tolist() == [1577836800, 1577923201, 1578009600]
    write_histories(data, str(tmp_path / 'out.jsonl'))
    [line] = (tmp_path / 'out.jsonl').read_text().splitlines()
    assert json.loads(line) == {
        'user': 'a',
        'items': ['x', 'y', 'z'],
        'times': [1577836800, 1577923201, 1578009600],
    }


@pytest.mark.parametrize('kind', ['path', 'arrow', 'pandas', 'pandas index', 'polars', 'duckdb'])
def test_events_come_from_a_path_or_a_table(tmp_path, kind):
    table = pyarrow.table(
        {'customer': ['a', 'a', 'a', 'b'], 'item': [3, 1, 2, 1], 'time': [1, 2, 3, 4]}
    )
    items = pyarrow.table({'item': [1, 2, 3], 'title': ['one', 'two', 'three']})
    if kind == 'path':
        pyarrow.parquet.write_table(table, tmp_path / 'log.parquet')
        table = tmp_path / 'log.parquet'
    elif kind == 'pandas':
        table, items = table.to_pandas(), items.to_pandas()
    elif kind == 'pandas index':
        table, items = table.to_pandas().set_index('customer'), items.to_pandas().set_index('item')
    elif kind == 'duckdb':
        table, items = duckdb.from_arrow(table), duckdb.from_arrow(items)
    elif kind == 'polars':
        table, items = polars.from_arrow(table), polars.from_arrow(items)
    with prepared_in(tmp_path / 'prepared'):
        data = read_events(
            table, items, user_column='customer', title_column='title', k_core=0, min_length=1
        )
    assert data.user_ids.tolist() == ['a', 'b']
    assert [data.titles[item - 1] for item in data.histories[0]] == ['three', 'one', 'two']


def test_types_of_pandas_that_arrow_does_not_know(tmp_path):
    months = pd.period_range('2020-01', periods=4, freq='M')
    frame = pd.DataFrame({'user': ['a', 'a', 'b', 7], 'item': [3, 'x', 3, 'x'], 'month': months})
    with prepared_in(tmp_path):
        data = read_events(frame, time_column='month', k_core=0, min_length=1)
    assert data.user_ids.tolist() == ['7', 'a', 'b'] and data.item_ids.tolist() == ['3', 'x']
    days = pd.to_datetime(data.times, unit='s').strftime('%Y-%m-%d').tolist()
    assert days == ['2020-04-01', '2020-01-01', '2020-02-01', '2020-03-01']


def test_mistakes_in_a_table_are_told(tmp_path):
    with prepared_in(tmp_path), pytest.raises(UserError, match=r'no option data\.k_coer \(did you'):
        read_events(pyarrow.table({'user': ['a']}), k_coer=3)
    frame = pd.DataFrame({'user': ['a'], 'item': [None], 'time': [1]})
    for table, message in (
        ({'user': ['a']}, r'^The events are a dict, which is no table; give a path'),
        (None, r'^The events are a NoneType, which is no table'),
        (frame, r'^The table of events, row 1: the item is empty; .* out with max_bad_lines, '),
        (pd.concat([frame, frame], axis=1), r'^The table of events cannot be read \(Duplicate col'),
    ):
        with prepared_in(tmp_path), pytest.raises(UserError, match=message):
            read_events(table)


def test_notes_and_mistakes_name_options_as_python_takes_them(tmp_path):
    kinds = ['buy', 'view'] * 4
    frame = pd.DataFrame({'user': ['a'] * 8, 'item': range(8), 'time': range(8), 'event': kinds})
    file = tmp_path / 'data.keep.csv'  # not an option
    frame.to_csv(file, index=False)
    with prepared_in(tmp_path / 'prepared'):
        notes = read_events(file, k_core=0).notes
        assert "; keep='event=buy' takes one kind" in notes and 'data.keep.csv: 8 events' in notes
        with pytest.raises(UserError, match=r'; lower k_core or min_length\.$'):
            read_events(frame)


def test_damaged_prepared_data_is_told(tmp_path):
    source = write(tmp_path, made_up(9))
    load(source)
    (file,) = (tmp_path / 'prepared').glob('emkd_custom/*/item_ids.npy')
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match='delete that folder'):
        load(source)


def test_prepare_returns_the_folder(tmp_path):
    source = write(tmp_path, made_up(10))
    with prepared_in(tmp_path / 'prepared'):
        folder = event_log.prepare(options(source))
    assert folder.name.startswith('log-') and holds_dataset(folder)
