"""Recommendations: the right items for everybody, whatever form the question has."""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import RunError, UserError
from emkd_jax.serving.ids import IdIndex, Unknown
from emkd_jax.serving.recommend import recommend
from emkd_jax.serving.recommender import Recommender
from emkd_jax.serving.requests import read_requests
from tests.support.tiny import NUM_ITEMS, tiny_data

K = 7


@pytest.fixture
def run(make_run, tmp_path):
    """run(text of requests, **options) returns the lines of the answer."""

    def run(text=None, output='answer.jsonl', strict=False, titles=(), show=False, **options):
        options |= {'k': options.get('k', K), 'titles': show}
        options = {f'recommend__{name}': value for name, value in options.items()}
        requests = tmp_path / 'requests'
        if text is not None:
            requests.write_text(text, encoding='utf-8')
        file = tmp_path / output
        recommend(
            make_run(titles, **options), '' if text is None else str(requests), str(file), strict
        )
        assert [path for path in tmp_path.iterdir() if path.name.startswith('.')] == []
        return file.read_text(encoding='utf-8').splitlines() if file.suffix != '.parquet' else file

    return run


def expected(trained, history, allowed=range(1, NUM_ITEMS + 1), networks=None, k=K):
    """(items, scores), from the hidden states of all slots and without batches."""
    experiment, params = trained
    slots = experiment.config.model.max_len
    window = [*history, NUM_ITEMS + 1][-slots:]
    items = np.array([[0] * (slots - len(window)) + window], np.int32)
    logits = np.asarray(last_logits(experiment.ensemble, params, jnp.asarray(items)))
    scores = logits[networks if networks is not None else slice(None)].sum(0)
    ranked = sorted(allowed, key=lambda item: -scores[item])[:k]
    return ranked, [scores[item] for item in ranked]


@functools.partial(jax.jit, static_argnums=0)
def last_logits(ensemble, params, items):
    return ensemble.item_logits(params, ensemble.hidden(params, items)[:, :, -1])[:, 0]


def check(answer, trained, history, **changes):
    unseen = [item for item in range(1, NUM_ITEMS + 1) if item not in history]
    items, scores = expected(trained, history, **({'allowed': unseen} | changes))
    assert answer['items'] == items
    np.testing.assert_allclose(answer['scores'], scores, rtol=1e-4, atol=1e-4)


def test_every_user_of_the_data(run, trained):
    answers = [json.loads(line) for line in run()]
    data = trained[0].data
    assert [answer['user'] for answer in answers] == data.user_ids.tolist()
    for answer, history in zip(answers, data.histories, strict=True):
        check(answer, trained, history.tolist())


def test_users_by_id(run, trained):
    answers = [json.loads(line) for line in run('{"user": 7}\n\n{"user": "3"}\n')]
    assert [answer['user'] for answer in answers] == [7, '3']
    check(answers[0], trained, trained[0].data.histories[7].tolist())
    answers = [json.loads(line) for line in run('user\n7\n3\n')]
    check(answers[1], trained, trained[0].data.histories[3].tolist())


HISTORIES = [[5], [], [1, 2, 3], [9, 9, 9], list(range(1, 21)), [30, 1] * 10]


def test_histories_never_seen_before(run, trained):
    lines = [json.dumps({'history': history}) for history in HISTORIES]
    lines[2] = json.dumps({'user': {'any': 'thing'}, 'history': [1, '2', 3]})
    answers = [json.loads(line) for line in run('\n'.join(lines))]
    assert [answer['user'] for answer in answers] == [1, 2, {'any': 'thing'}, 4, 5, 6]
    for answer, history in zip(answers, HISTORIES, strict=True):
        check(answer, trained, history)


def test_events_as_csv(run, trained):
    answers = [json.loads(line) for line in run('user,item\nann,4\nbob,"9"\nann,2\n')]
    assert [answer['user'] for answer in answers] == ['ann', 'bob']
    check(answers[0], trained, [4, 2])
    times = 'user\ttimestamp\titem\na\t2014-01-02\t4\na\t2014-01-01T10:00:00\t8\na\t2014-01-02\t3\n'
    (answer,) = map(json.loads, run(times))
    check(answer, trained, [8, 4, 3])


def test_ids_may_hold_anything(run):
    text = 'user,item\n"a ""b"",\nc",4\nü,5\n'
    rows = list(csv.reader(io.StringIO('\n'.join(run(text, output='a.csv', k=1)))))
    assert [row[0] for row in rows] == ['user', 'a "b",\nc', 'ü']


def test_standard_input_and_output(make_run, trained, monkeypatch, capsys):
    monkeypatch.setattr(
        'sys.stdin', io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"history": [3, 4]}\n'), 'latin-1')
    )
    recommend(make_run(recommend__k=K), '-', '-')
    printed = capsys.readouterr()
    check(json.loads(printed.out), trained, [3, 4])
    assert '1 user in' in printed.err


def test_csv_out(run, trained):
    rows = list(csv.DictReader(run('{"user": 7}', output='answer.csv')))
    items, scores = expected(
        trained,
        [],
        allowed=[
            item for item in range(1, NUM_ITEMS + 1) if item not in trained[0].data.histories[7]
        ],
    )
    assert list(rows[0]) == ['user', 'rank', 'item', 'score']
    assert [row['rank'] for row in rows] == [str(rank) for rank in range(1, K + 1)]
    assert {row['user'] for row in rows} == {'7'}
    assert len(rows) == len(items) and scores


def test_parquet_out(run, trained):
    """With the ids of the data as they are, and with labels as text."""
    ids = trained[0].data.user_ids
    table = pd.read_parquet(run(output='all.parquet'))
    assert list(table.columns) == ['user', 'rank', 'item', 'score']
    assert table['user'].tolist() == np.repeat(ids, K).tolist()
    first = table[table['user'] == 7]
    assert first['rank'].tolist() == list(range(1, K + 1))
    answer = {'items': first['item'].tolist(), 'scores': first['score'].tolist()}
    check(answer, trained, trained[0].data.histories[7].tolist())
    asked = '{"history": [1]}\n{"user": {"any": "\\ud800"}, "history": [2]}'
    table = pd.read_parquet(run(asked, output='some.parquet', titles=['a'] * NUM_ITEMS, show=True))
    assert table['user'].unique().tolist() == ['1', "{'any': '\\ud800'}"]
    assert set(table['title']) == {'a'}


def test_no_requests_leave_an_empty_table(run):
    for output in ('no.parquet', 'no.csv', 'no.json'):
        run('{"user": "nobody"}', output=output)
    folder = run('{"user": "nobody"}', output='no.parquet').parent
    assert len(pd.read_parquet(folder / 'no.parquet')) == len(pd.read_csv(folder / 'no.csv')) == 0
    assert (folder / 'no.json').read_text() == ''


@pytest.mark.parametrize('name', ['answer.txt', 'answer', 'answer.csv.gz', 'answer.xlsx'])
def test_an_ending_that_is_not_known_is_refused(run, tmp_path, name):
    with pytest.raises(UserError, match=r'not known; use one of \.jsonl, \.json, \.csv, \.parquet'):
        run('{"user": 7}', output=name)
    assert not (tmp_path / name).exists()


def test_titles_on_request(run):
    titles = [f'Title of {item}' for item in range(1, NUM_ITEMS + 1)]
    (answer,) = map(json.loads, run('{"history": [1]}', titles=titles))
    assert 'titles' not in answer
    (answer,) = map(json.loads, run('{"history": [1]}', titles=titles, show=True))
    assert answer['titles'] == [f'Title of {item}' for item in answer['items']]
    row = next(csv.DictReader(run('{"history": [1]}', output='a.csv', titles=titles, show=True)))
    assert row['title'] == f'Title of {row["item"]}'
    with pytest.raises(UserError, match='without titles'):
        run('{"history": [1]}', show=True)


def test_one_network_alone(run, trained):
    (answer,) = map(json.loads, run('{"history": [5, 6]}', network=1))
    check(answer, trained, [5, 6], networks=[1])


def test_seen_items_may_come(run, trained):
    history = list(range(1, 25))
    (answer,) = map(json.loads, run(json.dumps({'history': history}), exclude_seen=False, k=30))
    check(answer, trained, history, allowed=range(1, NUM_ITEMS + 1), k=30)


def test_exclude_and_only(run, trained, tmp_path):
    exclude, only = tmp_path / 'exclude', tmp_path / 'only'
    exclude.write_text('2\n\n4\n')
    only.write_text('1\n2\n3\n4\n5\n6\n')
    (answer,) = map(json.loads, run('{"history": [6]}', exclude=str(exclude), only=str(only)))
    check(answer, trained, [6], allowed=[1, 3, 5])
    (answer,) = map(json.loads, run('{"history": [6]}', exclude=str(exclude)))
    assert len(answer['items']) == K and not {2, 4, 6} & set(answer['items'])
    exclude.write_text(only.read_text())
    with pytest.raises(UserError, match='leave no item'):
        run('{"history": [6]}', exclude=str(exclude), only=str(only))


def test_fewer_items_than_asked_for(run):
    answers = [
        json.loads(line)
        for line in run(json.dumps({'history': list(range(1, 28))}) + '\n{"history": [1]}', k=100)
    ]
    assert sorted(answers[0]['items']) == [28, 29, 30]
    assert len(answers[1]['items']) == NUM_ITEMS - 1


def test_unknown_users_and_items_are_skipped_and_counted(run, trained, capsys):
    text = '{"history": [1, 99, 2, "x"]}\n{"user": "nobody"}\n{"history": [99]}\n'
    answers = [json.loads(line) for line in run(text)]
    assert [answer['user'] for answer in answers] == [1, 3]
    check(answers[0], trained, [1, 2])
    check(answers[1], trained, [])
    said = capsys.readouterr().err
    assert "Skipped 3 unknown items, the first '99' at" in said and 'line 1.' in said
    assert "Skipped 1 unknown user, the first 'nobody' at" in said


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('{"history": [1, 99]}', "line 1: item '99' is not in the data"),
        ('{"user": 1}\n{"user": "x"}', "line 2: user 'x' is not in the data"),
        ('user,item\n1,2\n1,x\n', "line 3: item 'x' is not in the data"),
    ],
)
def test_unknown_ids_are_an_error_when_strict(run, tmp_path, text, expected):
    with pytest.raises(UserError, match=expected):
        run(text, strict=True)
    assert not (tmp_path / 'answer.jsonl').exists()


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('{"user": 1}\n{"user": 1\n', 'line 2 is not JSON'),
        ('{"user": 1}\n[1]\n', 'line 2 is neither'),
        ('{"items": [1]}', 'line 1 is neither'),
        ('{"history": 1}', 'line 1: the history is not a list'),
        ('item\n1\n', 'or a header with the column user'),
        ('\nuser,item\n1,2\n1\n', 'line 4 has 1 fields, not 2'),
        ('user,item,timestamp\n1,2,soon\n', "line 2: the timestamp 'soon'"),
        ('\n', 'is empty'),
    ],
)
def test_bad_requests_leave_the_old_answer(run, tmp_path, text, expected):
    (tmp_path / 'answer.jsonl').write_text('old')
    with pytest.raises(UserError, match=expected):
        run(text)
    assert (tmp_path / 'answer.jsonl').read_text() == 'old'


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'k': 0}, 'k is 0'),
        ({'network': 3}, 'use 0 to 2'),
        ({'only': '/nowhere'}, r'--config\.recommend\.only'),
    ],
)
def test_bad_options(run, options, expected):
    with pytest.raises(UserError, match=expected):
        run('{"user": 1}', **options)


def test_a_folder_that_is_not_there(run):
    with pytest.raises(UserError, match=r'cannot be written .* correct --output'):
        run('{"user": 1}', output='none/answer.jsonl')


def test_a_pipe_is_written_to_and_stays_one(make_run, trained, tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'asked').write_text('{"history": [3, 4]}')
    reader = subprocess.Popen(['cat', tmp_path / 'pipe'], stdout=subprocess.PIPE, text=True)
    recommend(make_run(recommend__k=K), str(tmp_path / 'asked'), str(tmp_path / 'pipe'))
    check(json.loads(reader.communicate(timeout=60)[0]), trained, [3, 4])
    assert (tmp_path / 'pipe').is_fifo()


def test_a_full_disk_behind_standard_output_is_told(make_run, monkeypatch):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr('sys.stdout', full)
        with pytest.raises(UserError, match='standard output cannot be written .No space left'):
            recommend(make_run())


def test_a_reader_that_has_enough_is_no_error(make_run, monkeypatch):
    """As in `emkd-jax recommend | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as pipe:
        monkeypatch.setattr('sys.stdout', pipe)
        recommend(make_run())


def test_broken_parameters_are_told(trained):
    experiment, params = trained
    params = jax.tree.map(lambda leaf: leaf * math.nan, params)
    networks = experiment.ensemble.split(params)
    broken = Recommender(experiment.ensemble, networks, np.ones(31, bool), 3, True, 8)
    with pytest.raises(RunError, match='not finite'):
        broken(Ragged.from_rows([[1]]))


def test_each_length_group_compiles_once(trained, caplog):
    experiment, params = trained
    networks = experiment.ensemble.split(params)
    recommender = Recommender(experiment.ensemble, networks, np.arange(31) > 0, 3, True, rows=4)
    random = np.random.default_rng(0)
    make = lambda: Ragged.from_rows(
        [random.integers(1, 31, random.integers(0, 20)) for _ in range(200)]
    )
    with jax.log_compiles():
        recommender(make())
        assert any('Compiling' in record.message for record in caplog.records)
        caplog.clear()
        recommender(make())
        assert not any('Compiling' in record.message for record in caplog.records)


def test_requests_are_read_as_they_are_asked():
    data = tiny_data()
    asked = read_requests('', IdIndex(data), Unknown(strict=False))
    assert next(asked).user == 0


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('user,item,price\na,1,2\n', "a column 'price'"),
        ('History\n1 2\n', 'has the column History alone; give histories as lines of JSON'),
        ('[{"user": 1}]', 'is one JSON list; write each request on a line of its own'),
        ('{"history": [1], "k": 2}', "line 1 has 'k', .*; set --config.recommend.k instead"),
        ('user,item,item_id\na,1,2\n', "a column 'item'"),
        ('1\n2,3\n', 'line 2 has 2 fields, not 1'),
        ('user,timestamp\na,1\n', 'no column item'),
        ('user,item\na,1\nb,"2\nc,3\n', 'line 3 or one after it has quotes'),
        ('user,item,timestamp\na,1,nan\n', "the timestamp 'nan'"),
    ],
)
def test_tables_that_would_be_misread(run, text, words):
    with pytest.raises(UserError, match=words):
        run(text)


def test_ids_alone_and_columns_with_the_names_of_the_log(run):
    assert run('1\n0\n') == run('user\n1\n0\n')
    events = run('user,item,timestamp\na,4,2\na,2,1\n')
    assert run('customer_id,sku,date\na,4,1970-01-03\na,2,1970-01-02\n') == events


def test_an_event_that_stands_twice_is_one(tmp_path):
    file = tmp_path / 'events.csv'
    file.write_text('user,item,timestamp\nu,3,2\nu,1,1\nu,3,2\nu,3,4\n')
    [asked] = read_requests(str(file), IdIndex(tiny_data()), Unknown(strict=True))
    assert asked.history.tolist() == [1, 3, 3]


@pytest.mark.parametrize('text', ['u, 3 ,1\nu ,1 ,2\n', 'u,3.0,1\nu,1.0,2\n'])
def test_ids_are_read_as_in_an_event_log(tmp_path, text):
    file = tmp_path / 'events.csv'
    file.write_text('user,item,timestamp\n' + text)
    [asked] = read_requests(str(file), IdIndex(tiny_data()), Unknown(strict=True))
    assert asked.history.tolist() == [3, 1]


def test_an_id_with_a_fraction_is_itself_first():
    names = IdIndex(dataclasses.replace(tiny_data(), item_ids=np.array(['1', '1.0', '2', 'b'])))
    found = [names.item(name) for name in ('1', '1.0', 2.0, '2.00', 'b.0', ' b')]
    assert found == [1, 2, 3, None, None, 4]
