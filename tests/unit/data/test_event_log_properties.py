"""Event logs of every shape, made up by hypothesis: what goes in comes out."""

import csv
import re
import tempfile

import hypothesis
import hypothesis.strategies as st
import pyarrow
import pyarrow.parquet
import pytest

from emkd_jax.data.event_log.rows import MISSING
from emkd_jax.errors import UserError
from tests.support.custom_data import histories, load

BLANKS = ' \t\r\n'
# Anything that UTF-8 can hold, less NUL; quotes, delimiters and line ends come often.
ANY_TEXT = st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1, max_size=8)
NASTY = st.text(st.sampled_from('",;|\t\n\r\' é0'), min_size=1, max_size=4)
NUMBERS = st.integers(-(10**17), 10**17).map(str)
NUMBER_LIKE = st.sampled_from(
    ['7', '07', '+7', '7.0', '-0', '0', '٣', '1e3', '9' * 19, 'nan', 'NULL', 'True']
)
IDS = st.one_of(
    st.lists(ids, min_size=1, max_size=6, unique=True)
    for ids in (NUMBERS, NUMBER_LIKE, NASTY, ANY_TEXT, st.one_of(NUMBERS, NUMBER_LIKE, ANY_TEXT))
)


@st.composite
def logs(draw):
    """Rows of (user, item, seconds since 1970), the times within thirty years."""
    users, items = draw(IDS), draw(IDS)
    first, last = draw(st.sampled_from([(0, 3), (1_500_000_000, 1_600_000_000)]))
    times = st.integers(first, last)
    row = st.tuples(st.sampled_from(users), st.sampled_from(items), times)
    return draw(st.lists(row, min_size=1, max_size=30))


def expected(rows):
    """{user: [items]} by time and place, without repeats and without what is no id."""
    rows = [(user.strip(BLANKS), item.strip(BLANKS), time) for user, item, time in rows]
    rows = [row for row in rows if all(map(is_id, row[:2]))]
    for place in range(2):
        if all(re.fullmatch(r'-?[0-9]+\.0', row[place]) for row in rows):
            rows = [(*row[:place], row[place][:-2], *row[place + 1 :]) for row in rows]
    found, seen = {}, set()
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        if (user, item, time) not in seen:
            seen.add((user, item, time))
            found.setdefault(user, []).append(item)
    return found


def is_id(text):
    return text not in ('', *MISSING) and not re.search(r'[\t\r\n]', text)


def check(source, rows, **changes):
    """The log is read as it is expected, or refused if nothing of it can be read."""
    if not expected(rows):
        with pytest.raises(UserError, match='no events that can be read'):
            load(source, max_bad_lines=100, **changes)
        return
    data = load(source, max_bad_lines=100, **changes)
    assert as_written(data) == expected(rows)
    check_order(data.user_ids)
    check_order(data.item_ids)


def as_written(data):
    return {str(user): [str(item) for item in items] for user, items in histories(data).items()}


def check_order(ids):
    """Numbered by value if all are whole numbers, else by code point."""
    assert ids.tolist() == sorted(ids.tolist())
    assert len(set(ids.tolist())) == len(ids)


relaxed = hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)


@relaxed
@hypothesis.given(logs(), st.sampled_from([',', '\t', ';']), st.sampled_from(['\n', '\r\n']))
def test_csv(rows, delimiter, end):
    with tempfile.TemporaryDirectory() as folder:
        source = f'{folder}/log.csv'
        with open(source, 'w', encoding='utf-8', newline='') as file:
            # Python's writer leaves a lone \r bare where rows end in \n: no reader can tell it.
            quoting = csv.QUOTE_ALL if end == '\n' else csv.QUOTE_MINIMAL
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
            writer.writerow(['user', 'item', 'timestamp'])
            writer.writerows(rows)
        check(source, rows, quote='"')


@relaxed
@hypothesis.given(logs())
def test_parquet(rows):
    users, items, times = zip(*rows, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        source = f'{folder}/log.parquet'
        pyarrow.parquet.write_table(
            pyarrow.table(
                {'user': users, 'item': items, 'time': pyarrow.array(times, pyarrow.timestamp('s'))}
            ),
            source,
        )
        check(source, rows)


@relaxed
@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_end_in_data_or_one_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        source = f'{folder}/log'
        with open(source, 'wb') as file:
            file.write(b'user,item,time\n' + content)
        try:
            data = load(source, max_bad_lines=100)
        except Exception as error:
            assert type(error).__name__ == 'UserError' and '\n' not in str(error)
        else:
            assert data.counts()['users'] > 0


@pytest.mark.parametrize('ids', [['1', '2'], ['01', '2'], ['1', 'a']])
def test_ids_are_numbers_only_where_all_are(tmp_path, ids):
    source = tmp_path / 'log.csv'
    source.write_text('user,item,time\n' + ''.join(f'{name},x,1\n' for name in ids))
    found = load(source).user_ids
    assert (found.dtype.kind == 'i') == (ids == ['1', '2'])
    assert list(map(str, found)) == ids
