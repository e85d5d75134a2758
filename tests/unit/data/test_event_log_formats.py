"""Every format in: told by its content, read to the same histories."""

import gzip
import json
import textwrap

import pyarrow
import pyarrow.parquet
import pytest

from configs import custom as configuration
from emkd_jax.data.event_log.columns import event_columns
from tests.support.custom_data import attributes, histories, load

# The same log in every format: ann's y and z, and bob's y and x, have the same time.
EXPECTED = {'ann': ['x', 'y', 'z'], 'bob': ['y', 'x', 'w']}
ROWS = [
    ('bob', 'y', 4.0, 1400000001),
    ('ann', 'y', 5.0, 1400000001),
    ('bob', 'x', 1.0, 1400000001),
    ('ann', 'z', 2.0, 1400000001),
    ('ann', 'x', 3.0, 1400000000),
    ('bob', 'w', 5.0, 1400000002),
]


def write(path, text):
    path.write_bytes(textwrap.dedent(text).encode())
    return path


def table(names, delimiter, rows=ROWS):
    return '\n'.join([delimiter.join(names), *(delimiter.join(map(str, row)) for row in rows), ''])


@pytest.mark.parametrize('delimiter', [',', '\t', ';', '|'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_delimited_tables(tmp_path, delimiter, end):
    text = table(['user_id', 'item_id', 'rating', 'timestamp'], delimiter)
    source = tmp_path / 'log.txt'
    source.write_bytes(text.replace('\n', end).encode())
    assert histories(load(source)) == EXPECTED


@pytest.mark.parametrize('name', ['log*', 'log?', 'log[12]', "log's", 'log 1;--', 'log\\'])
def test_a_name_is_no_pattern(tmp_path, name):
    names = ['user', 'item', 'rating', 'timestamp']
    text = table(names, ',')
    for decoy in ('log1', 'log2'):
        (tmp_path / f'{decoy}.csv').write_text(text.replace('ann', 'eve'))
        (tmp_path / f'{decoy}.parquet').write_text('no')
    (tmp_path / f'{name}.csv').write_text(text)
    assert histories(load(tmp_path / f'{name}.csv')) == EXPECTED
    columns = zip(*ROWS, strict=True)
    pyarrow.parquet.write_table(
        pyarrow.table(dict(zip(names, map(list, columns), strict=True))),
        tmp_path / f'{name}.parquet',
    )
    assert histories(load(tmp_path / f'{name}.parquet')) == EXPECTED


def test_gzip_and_byte_order_mark(tmp_path):
    source = tmp_path / 'log.bin'
    source.write_bytes(
        gzip.compress(b'\xef\xbb\xbf' + table(['user', 'item', 'rating', 'time'], ',').encode())
    )
    assert histories(load(source)) == EXPECTED


def test_any_column_names_by_option(tmp_path):
    source = write(tmp_path / 'log.csv', table(['who', 'what', 'item', 'seen at'], ','))
    named = {'user_column': 'who', 'item_column': 'what', 'time_column': 'seen at'}
    assert histories(load(source, **named)) == EXPECTED
    rated = load(source, **named, rating_column='item', min_rating=3.0)
    assert histories(rated) == {'ann': ['x', 'y'], 'bob': ['y', 'w']}


def test_parquet(tmp_path):
    users, items, ratings, times = zip(*ROWS, strict=True)
    source = tmp_path / 'log.parquet'
    pyarrow.parquet.write_table(
        pyarrow.table(
            {
                'a "quoted" name': users,
                'asin': items,
                'overall': ratings,
                'ts': pyarrow.array([time * 1000 for time in times], pyarrow.timestamp('ms')),
            }
        ),
        source,
    )
    assert histories(load(source, user_column='a "quoted" name')) == EXPECTED


@pytest.mark.parametrize(
    'form',
    [
        str,
        float,
        lambda t: t * 10**3,
        lambda t: t * 10**6,
        lambda t: t * 10**9,
        lambda t: f'2014-05-13 16:53:{t % 60:02}',
        lambda t: f'2014-05-13T16:53:{t % 60:02}Z',
        lambda t: f'2014-05-13 18:53:{t % 60:02}+02:00',
        lambda t: f'2014-05-{t % 60 + 1 - 19:02}',
    ],
)
def test_timestamps_as_numbers_and_dates(tmp_path, form):
    rows = [(*row[:3], form(row[3])) for row in ROWS]
    source = write(tmp_path / 'log.csv', table(['user', 'item', 'rating', 'date'], ',', rows))
    assert histories(load(source)) == EXPECTED


def test_without_timestamps_the_order_is_the_files(tmp_path):
    source = write(tmp_path / 'log.csv', 'user,item\nb,y\na,y\na,x\nb,x\na,y\n')
    assert histories(load(source, time_column='none')) == {'a': ['y', 'x', 'y'], 'b': ['y', 'x']}


def test_s3rec(tmp_path):
    source = write(tmp_path / 'Shop.txt', '2 10 9 10\n1 9 7 10\n')
    write(tmp_path / 'Shop_item2attributes.json', '{"10": [3, 1, 3], "9": [2], "77": [9]}')
    data = load(source)
    assert histories(data) == {1: [9, 7, 10], 2: [10, 9, 10]}
    assert data.item_ids.tolist() == [7, 9, 10]
    assert attributes(data) == {7: set(), 9: {2}, 10: {1, 3}}
    assert data.num_attributes == 3


def test_recbole(tmp_path):
    header = ['user_id:token', 'item_id:token', 'rating:float', 'timestamp:float']
    write(tmp_path / 'shop.inter', table(header, '\t'))
    write(
        tmp_path / 'shop.item',
        'item_id:token\tmovie_title:token_seq\tyear:token\tprice:float\tclass:token_seq\n'
        'x\tThe "X" file\t1999\t3.5\tdrama war\ny\tY\t2000\t1\t\n',
    )
    data = load(tmp_path)
    assert histories(data) == EXPECTED
    assert data.num_attributes == 4
    assert {item: len(found) for item, found in attributes(data).items()} == {
        'w': 0,
        'x': 3,
        'y': 1,
        'z': 0,
    }
    assert list(load(tmp_path).titles) == ['', 'The "X" file', 'Y', '']
    said = 'title = movie_title, attributes = year and class; not used: price ('
    assert said in data.notes
    assert load(tmp_path, attribute_columns='class').num_attributes == 2


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_amazon_ratings(tmp_path, order):
    """In 2014 the user stands first, in 2018 the product."""
    reviewer, products = 'A2EXAMPLE00001', {'x': 'B00000000X', 'y': '0123456789'}
    lines = []
    for _, item, rating, time in [row for row in ROWS if row[1] in products]:
        pair = (reviewer, products[item])
        lines.append(f'{pair[order[0]]},{pair[order[1]]},{rating},{time}\n')
    source = write(tmp_path / 'ratings_Shop.csv', ''.join(lines))
    found = histories(load(source))
    assert set(found) == {reviewer}
    assert found[reviewer] == [products[item] for item in 'xyyx'[:1] + 'yx']


def test_amazon_reviews_and_metadata(tmp_path):
    lines = [
        json.dumps(
            {
                'reviewerID': user,
                'asin': item,
                'reviewText': 'fine, "really"\u0001\n::',
                'overall': rating,
                'unixReviewTime': time,
            }
        )
        for user, item, rating, time in ROWS
    ]
    source = tmp_path / 'reviews_Shop_5.json.gz'
    source.write_bytes(gzip.compress('\n'.join(lines).encode()))
    meta = tmp_path / 'meta_Shop.json.gz'
    meta.write_bytes(
        gzip.compress(
            b'\n'.join(
                [
                    b"""{'asin': 'x', 'title': "It's X", 'brand': 'Acme', """
                    b"""'categories': [['Toys', 'Games', 'Chess'], ['Toys', 'Games']]}""",
                    b"""{"asin": "y", "brand": null, "categories": [["Toys", "Chess"]]}""",
                    b"""{'asin': 'z', 'brand': ''}""",
                ]
            )
        )
    )
    data = load(source, attributes=str(meta))
    assert histories(data) == EXPECTED
    assert 'attributes of the items: brand or store, and categories' in data.notes
    # Acme, Chess, Games
    assert attributes(data) == {'w': set(), 'x': {1, 2, 3}, 'y': {2}, 'z': set()}
    assert list(load(source, attributes=str(meta)).titles) == ['', "It's X", '', '']
    json_lines = write(tmp_path / 'meta.json', '{"asin": "x", "brand": "Acme", "colour": "red"}\n')
    named = load(source, attributes=str(json_lines), attribute_columns='colour')
    assert named.attribute_names == ('red',)


def test_metadata_is_never_evaluated(tmp_path):
    source = write(tmp_path / 'log.csv', table(['user', 'item', 'rating', 'time'], ','))
    meta = write(
        tmp_path / 'meta.json', "{'asin': 'x'}\n{'asin': 'y', 'brand': print('evaluated')}\n"
    )
    data = load(source, attributes=str(meta), max_bad_lines=1)
    assert data.num_attributes == 0


def test_movielens_1m(tmp_path):
    write(tmp_path / 'ratings.dat', '7::10::5::978300760\n7::9::3::978300750\n8::10::1::97830076\n')
    (tmp_path / 'movies.dat').write_bytes(
        '9::Café (1995)::Drama|War\n10::B::(no genres listed)\n'.encode('latin-1')
    )
    data = load(tmp_path)
    assert histories(data) == {7: [9, 10], 8: [10]}
    assert attributes(data) == {9: {1, 2}, 10: set()}
    assert list(load(tmp_path).titles) == ['Café (1995)', 'B']


def test_movielens_100k(tmp_path):
    write(tmp_path / 'u.data', '196\t242\t3\t881250949\n186\t302\t3\t891717742\n')
    write(tmp_path / 'u.genre', 'unknown|0\nAction|1\n')
    write(tmp_path / 'u.item', f'242|Kolya|01-Jan-97||http://x|1|1{"|0" * 17}\n')
    data = load(tmp_path)
    assert histories(data) == {186: [302], 196: [242]}
    assert attributes(data) == {242: {1, 2}, 302: set()}


@pytest.mark.parametrize(
    'cell', ['red|blue', ' red | blue |', "['red', 'blue']", '["red", "blue", "red"]']
)
def test_item_table_with_several_attributes_in_a_cell(tmp_path, cell):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    quoted = cell.replace('"', '""')
    items = write(tmp_path / 'items.csv', f'sku,tags,title\nx,"{quoted}",An X\ny,blue,\n')
    assert attributes(load(source, attributes=str(items))) == {'x': {1, 2}, 'y': {1}}


def test_item_table_with_another_mark_and_title(tmp_path):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    items = write(tmp_path / 'items.csv', 'item;title;tags;label\nx;T;a|b/c;An X\ny;T;c;\n')
    named = {'attributes': str(items), 'attribute_delimiter': '/', 'title_column': 'label'}
    assert attributes(load(source, **named)) == {'x': {1, 2}, 'y': {2}}
    assert list(load(source, **named).titles) == ['An X', '']


def test_item_table_with_several_columns(tmp_path):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    items = write(tmp_path / 'items.csv', 'item,colour,size\nx,M,M\ny,M,\ny,,L\n')
    found = attributes(load(source, attributes=str(items), attribute_columns='colour, size'))
    # colour=M, size=L, size=M
    assert found == {'x': {1, 3}, 'y': {1, 2}}


@pytest.mark.parametrize('first', ['item', 'tags'])
def test_item_table_as_json_lines_with_a_list(tmp_path, first):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    rows = [{'item': 'x', 'tags': ['a', 'b']}, {'item': 'y', 'tags': ['b']}]
    rows = [{first: row[first]} | row for row in rows]
    for written in (json.dumps, repr):
        items = write(tmp_path / 'items.jsonl', ''.join(f'{written(row)}\n' for row in rows))
        for options in ({}, {'attribute_columns': 'tags'}):
            found = attributes(load(source, attributes=str(items), **options))
            assert found == {'x': {1, 2}, 'y': {2}}


@pytest.mark.parametrize(
    ('header', 'options'),
    [
        ('id,genre,title', {}),
        ('id,genre,title', {'item_column': 'what'}),
        ('number,genre,title', {'item_key': 'number'}),
        ('item,genre,number', {'item_key': 'item', 'item_column': 'what'}),
    ],
)
def test_an_item_table_may_have_another_name_for_the_items(tmp_path, header, options):
    item = options.get('item_column', 'item')
    source = write(tmp_path / 'log.csv', f'user,{item},time\na,x,1\na,y,2\n')
    items = write(tmp_path / 'items.csv', f'{header}\nx,b,A\ny,a,B\n')
    data = load(source, attributes=str(items), **options)
    assert attributes(data) == {'x': {2}, 'y': {1}}


def test_of_objects_in_a_list_the_names_are_attributes(tmp_path):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    genres = "[{'id': 28, 'name': 'b'}, {'id': 12, 'name': 'a'}]"
    items = write(tmp_path / 'items.csv', f'id,genres\nx,"{genres}"\ny,"[{{\'code\': 7}}]"\n')
    data = load(source, attributes=str(items))
    assert data.attribute_names == ('7', 'a', 'b')
    assert attributes(data) == {'x': {2, 3}, 'y': {1}}


@pytest.mark.parametrize('indent', [None, 1])
def test_attributes_of_s3rec(tmp_path, indent):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,x,1\na,y,2\n')
    lists = json.dumps({'x': [7, 5], 'y': [7]}, indent=indent)
    items = write(tmp_path / 'items.json', lists)
    assert attributes(load(source, attributes=str(items))) == {'x': {1, 2}, 'y': {2}}


def test_item_table_as_parquet_with_a_list_column(tmp_path):
    source = write(tmp_path / 'log.csv', 'user,item,time\na,1,1\na,2,2\n')
    items = tmp_path / 'items.parquet'
    pyarrow.parquet.write_table(
        pyarrow.table({'item_id': [2, 1], 'genres': [['a', 'b'], None]}), items
    )
    assert attributes(load(source, attributes=str(items))) == {1: set(), 2: {1, 2}}


def test_a_rating_by_which_nothing_is_filtered_may_be_anything():
    options = configuration.get_config().data
    names = ['user', 'item', 'time', 'stars']
    assert event_columns(names, options, 'log.csv').rating is None
    options.min_rating = 3.0
    assert event_columns(names, options, 'log.csv').rating == 3
