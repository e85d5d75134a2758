"""A user's mistakes: one clear sentence that names file, line or option; nothing half-written."""

import gzip
import os
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from configs import custom as custom_config
from emkd_jax.errors import UserError
from emkd_jax.runs.experiment import make_experiment
from tests.support.custom_data import histories, load, options, prepared_in

GOOD = b'a,x,1\na,y,2\na,z,3\n'
HEADER = b'user,item,timestamp\n'
LOG = HEADER + GOOD
NOTED = b'user,item,timestamp,note\na,x,1,"two\nlines"\na,y,2,\n'


def complains(source, expected, **changes):
    """A sentence with `expected` (a pattern) in it, and nothing stays behind."""
    prepared = source.parent / 'prepared'
    with pytest.raises(UserError, match=expected) as caught:
        load(source, prepared, **changes)
    sentence = str(caught.value)
    assert '\n' not in sentence and len(sentence) < 400 and sentence.endswith('.')
    assert 'data.' in sentence or str(source) in sentence
    assert not list(prepared.glob('emkd_custom/*'))


@pytest.mark.parametrize(
    ('content', 'changes', 'expected'),
    [
        (
            b'who,item,timestamp\n' + GOOD,
            {},
            'log.csv has no column that is known to hold the user',
        ),
        (b'user,what,timestamp\n' + GOOD, {}, 'name one with --config.data.item_column'),
        (LOG, {'user_column': 'who'}, "no column 'who', which --config.data.user_column names"),
        (b'user,user,item\na,b,c\n', {'user_column': 'user'}, "more than one column 'user'"),
        (LOG, {'min_rating': 3.0}, 'data.min_rating=3.0 needs it'),
        (b'user,item\na,b\n', {'split': 'time'}, 'data.split=time needs it'),
        (b'a,x,1\n' + GOOD, {}, r'no line of column names.*data\.columns=user,item,_'),
        (GOOD, {'columns': 'user,item'}, 'no row of 2 values'),
        (LOG, {'columns': 'user,item,time'}, 'leave data.columns out'),
        (b'user,item\na,b\n', {}, r'hold the times.*data\.time_column=none'),
        (b'user,item,date,time\na,b,1,2\n', {}, r'hold the times \(date and time\)'),
        (b'user_id,session_id,item\na,b,1\n', {}, r'\(user_id and session_id\); name one'),
        (LOG, {'keep': 'event=buy'}, "data.keep is 'event=buy'"),
        (b"{'user': a}\n", {}, 'log.csv has no JSON object in its first lines'),
        (b"{'user': 'a', 'item': 'x', 'time': 1}\n{'user': b}\n", {}, 'line 2: the user is empty'),
        (b'user,item,date\na,x,02/03/2024\n', {}, 'either order.*data.time_format'),
        (b'user item time\n1 2 3\n', {}, 'separated by blanks'),
        (b'1 2 3\n2 3 4\n3 4 5\n', {}, 'looks like a table .*data.format=s3rec'),
        (b'user,item\na,x\n', {'sequence_column': 'item', 'split': 'time'}, 'split=time needs'),
        (HEADER, {}, 'holds no events'),
        (b'', {}, 'log.csv is empty'),
        (b'\n\n\n', {}, 'empty lines only'),
        (LOG + b'b,x\n', {}, "log.csv, line 5: it has 2 fields, not 3: 'b,x'"),
        (LOG + b'b,x,4,5\n', {}, 'line 5: it has 4 fields, not 3'),
        (LOG + b'b,x,soon\n', {}, "line 5: 'soon' cannot be read as a timestamp"),
        (LOG + b'\nb,x,soon\nb,y,later\n', {}, 'line 6: .*1 more bad lines'),
        (LOG + b'"two\nlines",x,1\nb,x,soon\n', {}, 'line 5: the user has a tab or a line break'),
        (NOTED + b'b,x,soon,\n', {}, "line 5: 'soon' cannot be read as a timestamp"),
        (LOG + b'b,,4\n', {}, 'line 5: the item is empty'),
        (NOTED + b'\n,x,4,\n', {}, 'line 6: the user is empty'),
        (LOG + b'b,nan,4\n', {}, r'line 5: the item is missing \(nan\)'),
        (LOG + b'b,x,NaN\n', {}, 'line 5: the timestamp is missing'),
        (LOG + b'b,x,1700000000\n', {}, 'line 5: the timestamp lies decades apart'),
        (LOG + b'b,x,\n', {}, 'line 5: the timestamp is missing'),
        (LOG + b'b,x,-5\n', {}, r'line 5: the timestamp \(-5\) lies before 1970 or after 2099'),
        (
            LOG + b'b,x,99999999999\n',
            {},
            r'line 5: the timestamp \(9+\) lies before 1970 or after 2099',
        ),
        (LOG + b'b,x,99999999999999999999999\n', {}, 'line 5: '),
        (LOG + b'b,\xff\xfe,4\n', {}, 'line 5: it is not UTF-8'),
        (LOG + b'"b,x,4\nb,y,5\n', {}, 'line 5: its quotes do not close'),
        (LOG + b'b,' + b'x' * 300 + b',4\n', {}, 'line 5: the item is longer than 256 characters'),
        (LOG + b'b,' + b'x' * 3_000_000 + b',4\n', {}, 'line 5: .*xxx'),
        (LOG + b'b\x00,x,4\n', {}, 'line 5: the user has a NUL character'),
        (LOG + b'b,x\nb,y\nb,z\n', {'max_bad_lines': 2}, r'2 more bad lines.*which is 2'),
        (b'user,item,date\na,x,yesterday\n', {}, "'yesterday' in column date"),
        ('user,item\na,é\n'.encode('utf-16'), {}, 'is UTF-16'),
        (b'PK\x03\x04', {}, 'is a zip archive'),
        (gzip.compress(LOG * 100, mtime=0)[:-30], {}, 'cannot be read to its end'),
        (b'PAR1 not really', {}, 'cannot be read as Parquet'),
        (LOG, {'k_core': 2}, 'None of the 3 events is left.*lower data.k_core'),
        (LOG, {'min_length': 9}, 'every user must have 9 events'),
        (LOG, {'max_items': 2}, '3 items after filtering, more than data.max_items=2'),
        (LOG, {'split': 'time', 'cuts': '80%'}, "data.cuts is '80%'"),
        (LOG, {'split': 'time', 'cuts': '80%,soon'}, "data.cuts is '80%,soon'"),
        (LOG, {'split': 'time', 'cuts': '90%,80%'}, 'leaves no time between'),
        (LOG, {'split': 'time', 'cuts': '40%,110%'}, "data.cuts is '40%,110%'"),
        (LOG, {'split': 'time', 'cuts': '1980-01-01,1990-01-01'}, 'in the validation period'),
        (LOG, {'split': 'time', 'cuts': '1960-01-01,1990-01-01'}, 'before the validation period'),
        (LOG, {'format': 'xml'}, "data.format is 'xml'; use auto, amazon"),
        (b'one\ntwo\n', {}, 'in no known format'),
        (b'\x80\x05\x95\x00,\x00,\n', {}, 'is neither a text nor Parquet nor a database'),
        (b'[{"user": 1}]', {}, 'is one JSON list; write .* one on each line'),
        (b'[\n {"user": 1\n }\n]', {}, 'is one JSON list; write .* one on each line'),
        (b'1 2 3\n2\n3 4\n', {'format': 's3rec'}, "line 2: user '2' has no items"),
        (b'1 2 3\n2 3\n1 4\n', {}, "line 3: user '1' already stands on line 1"),
        (b'1 2 3\n2 \xff\n', {}, 'line 2: it is not UTF-8'),
        (b'1 2 3\n', {'split': 'time'}, 'without timestamps or ratings'),
        (
            b'user_id:token\titem_id:token\na\n',
            {'time_column': 'none'},
            'line 2: it has 1 fields, not 2',
        ),
        (b'1::2::3::4\n1::2::3\n', {'format': 'movielens'}, 'line 2: it has 3 fields, not 4'),
        (
            b'{"reviewerID": "a", "asin": "x", "unixReviewTime": 1}\n\n{"reviewerID"\n',
            {},
            'line 3: the user is empty',
        ),
        (
            b'{"reviewerID": "a", "asin": "x", "unixReviewTime": "1 day"}\n',
            {},
            "'1 day' in column unixReviewTime",
        ),
    ],
)
def test_bad_events(tmp_path, content, changes, expected):
    source = tmp_path / 'log.csv'
    source.write_bytes(content)
    complains(source, expected, **changes)


@pytest.mark.parametrize(
    ('content', 'changes', 'expected'),
    [
        (b'item,price\nx,3\n', {}, 'known to hold attributes.*--config.data.attribute_columns'),
        (b'thing,brand\nx,3\n', {}, 'hold the item;.* name one with --config.data.item_key'),
        (b'sku,item_id,brand\nx,x,3\n', {}, r'\(sku and item_id\); name one with .*item_key'),
        (b'item,brand\nx,3\n', {'item_key': 'id'}, "no column 'id', which --config.data.item_key"),
        (b'x,3\ny,4\n', {}, "begins with 'x,3'; add one, such as item,category,title"),
        (b'item,brand\nx,3\n', {'attribute_columns': 'brand,colour'}, "no column 'colour'"),
        (b'item_id:token\tb:token\nx\ta\n', {'attribute_columns': 'c'}, "no column 'c'"),
        (b'{"x": [1]}', {'attribute_columns': 'c'}, 'none with names .its format is s3rec'),
        (b'1::A::War\n', {'title_column': 'c'}, 'none with names .its format is movielens'),
        (
            b'item,brand\nx,3\ny\n',
            {},
            'items.txt, line 3: it has 1 fields, not 2.* mend the file, or',
        ),
        (b'item,brand\nx,\xff\n', {}, 'items.txt, line 2: it is not UTF-8'),
        (b'{"x": [1}', {}, 'items.txt is not JSON'),
        (b'{"x": [1], "y": 2}', {}, "does not give item 'y' a list"),
        (b"{'asin': 'x'}\n{'asin': open('/')}\n", {}, 'line 2: it is no product'),
        (b'1::A::War\n2:B\n', {}, "line 2: it is no movie: '2:B'"),
        (b'nothing at all', {}, 'in no known form of item table'),
        (b'[{"item": "x"}]', {}, 'items.txt is one JSON list'),
        (b','.join(b'c%d' % n for n in range(99)), {}, 'c0, c1, .* c29, ...: name one'),
        (
            b'item,brand\nx,' + b'|'.join(b'%d' % n for n in range(2000)),
            {},
            'more than 1024 attributes',
        ),
        (b'', {}, 'items.txt is empty; mend --config.data.attributes'),
    ],
)
def test_bad_items(tmp_path, content, changes, expected):
    source, items = tmp_path / 'log.csv', tmp_path / 'items.txt'
    source.write_bytes(LOG)
    items.write_bytes(content)
    complains(source, expected, attributes=str(items), **changes)


def test_a_workbook_is_told(tmp_path):
    source = tmp_path / 'log.xlsx'
    source.write_bytes(b'PK\x03\x04')
    complains(source, 'is a workbook; save its table as CSV')


def test_bad_lines_up_to_the_limit_are_left_out(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG + b'b,x\nb,,1\n\nb,y,soon\nc,\xff,4\nb,y,7\n')
    assert histories(load(source, max_bad_lines=4)) == {'a': ['x', 'y', 'z'], 'b': ['y']}


def test_very_many_bad_lines_are_all_counted(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG + b'b\n' * 30_000)
    complains(source, 'line 5: .*29,999 more bad lines.*which is 29999', max_bad_lines=29_999)
    assert 'left out 30,000 bad lines' in load(source, max_bad_lines=30_000).notes


def test_line_numbers_are_right_far_into_a_file(tmp_path):
    source = tmp_path / 'log.csv'
    lines = [f'user number {line},item {line % 97},{line},"a\nb"\n' for line in range(200_000)]
    lines += [f'user number {line},item {line},{line},\n' for line in range(200_000)]
    lines.insert(300_000, 'a,b,1,2,3\n')
    lines.insert(350_000, 'a,,1,\n')
    source.write_text('user,item,timestamp,note\n' + ''.join(lines))
    assert source.stat().st_size > 10**7
    complains(source, 'line 500002: it has 5 fields')
    lines.pop(300_000)
    source.write_text('user,item,timestamp,note\n' + ''.join(lines))
    complains(source, 'line 550001: the item is empty')


def test_bad_rows_of_parquet(tmp_path):
    source = tmp_path / 'log.parquet'
    pyarrow.parquet.write_table(
        pyarrow.table({'user': ['a', None], 'item': ['x', 'y'], 'time': [1, 2]}), source
    )
    complains(source, 'row 2: the user is empty')


def test_users_of_one_and_two_items_leave_nothing_to_test(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(HEADER + b'a,x,1\nb,x,1\nb,y,2\n')
    config = custom_config.get_config('quick')
    with config.unlocked():
        config.data = options(source)
    with (
        prepared_in(tmp_path / 'prepared'),
        pytest.raises(UserError, match=r'No user of custom has three events.*data\.source\.'),
    ):
        make_experiment(config)


def test_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'a.csv').touch()
    complains(tmp_path / 'folder', r'folder holds no files that are not empty')
    complains(tmp_path / 'none.csv', r'cannot be read \(No such file')
    with pytest.raises(UserError, match=r'data\.source is empty'):
        load('', tmp_path)


def test_unknown_items_and_items_without_attributes_are_counted(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    items = tmp_path / 'items.csv'
    items.write_text('item,brand\nx,Acme\nunknown,Acme\nalso unknown,Best\n')
    data = load(source, attributes=str(items))
    said = data.notes
    assert data.num_attributes == 1
    assert '1 attributes; 2 of 3 items have none' in said
    assert 'left out 2 rows of items that no event knows' in said


@pytest.mark.parametrize(
    ('header', 'options', 'said'),
    [
        ('item,brand,tags', {}, 'item = item, title = none, attributes = brand and tags\n'),
        ('item,title,cat', {}, 'title = title, attributes = none; not used: cat (data.attr'),
        ('item,cat,name', {'attribute_columns': 'cat'}, 'title = name, attributes = cat\n'),
        (
            'item,brand,' + ','.join('abcdefghijk'),
            {},
            'brand; not used: a, b, c, d, e, f, g, h, i, j, ... (',
        ),
    ],
)
def test_what_was_taken_of_an_item_table_is_said(tmp_path, header, options, said):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    items = tmp_path / 'items.csv'
    items.write_text(f'{header}\nx' + ',1' * header.count(',') + '\n')
    assert said in load(source, attributes=str(items), **options).notes


def test_attributes_that_seem_to_be_several_are_said(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    items = tmp_path / 'items.csv'
    hint = "such as 'a, b' are taken as one; .* with --config.data.attribute_delimiter=','"
    items.write_text('item,brand\nx,"a, b"\ny,"b, a"\nz,a\n')
    assert re.search(hint, load(source, attributes=str(items)).notes)
    assert 'taken as one' not in load(source, attributes=str(items), attribute_delimiter=',').notes
    items.write_text('item,brand\nx,"Acme, Inc."\ny,"Bolt, Ltd."\nz,C\n')
    assert 'taken as one' not in load(source, attributes=str(items)).notes


def test_attributes_that_tell_nothing_are_warned_of(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    items = tmp_path / 'items.csv'
    items.write_text('item,brand\nx,a|b|c\ny,d|e\n')
    notes = load(source, attributes=str(items)).notes
    assert 'WARNING: there are more attributes than items' in notes


def test_a_killed_preparation_leaves_nothing_that_looks_prepared(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    script = (
        'import os, json, sys\n'
        'from tests.support.custom_data import load\n'
        'from emkd_jax.data import event_log\n'
        'event_log.save_dataset = lambda *rest: os._exit(9)\n'
        f'load({str(source)!r})\n'
    )
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, '-c', script], env=environment, check=False)
    assert killed.returncode == 9
    names = [path.name for path in (tmp_path / 'prepared/emkd_custom').iterdir()]
    assert names
    assert all(name.startswith('.partial-') for name in names)
    assert histories(load(source)) == {'a': ['x', 'y', 'z']}


def test_what_killed_preparations_left_is_cleared_in_the_end(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    old, young = (tmp_path / 'prepared/emkd_custom' / f'.partial-{name}' for name in 'ab')
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(source)
    assert young.exists() and not old.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    source = tmp_path / 'log.csv'
    source.write_bytes(LOG)
    (tmp_path / 'prepared').write_text('a file where the folder should be')
    with pytest.raises(UserError, match=r'cannot be written to .*set TFDS_DATA_DIR'):
        load(source)
