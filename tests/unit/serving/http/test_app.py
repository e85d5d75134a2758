"""The HTTP interface: right answers, and a sentence for every mistake."""

import json
import random

import numpy as np
import pytest
from fastapi import HTTPException

from emkd_jax.serving.http import limits, messages, scorer
from emkd_jax.serving.http.app import _check_k
from emkd_jax.serving.http.batching import Batcher, TooBusyError
from tests.support.tiny import NUM_ITEMS


@pytest.fixture
def model(served):
    return served.now.model


def test_recommendations_are_those_of_the_python_api(client, model):
    for history in ([1, 2, 3], ['1', 2], []):
        answer = client.post('/recommend', json={'history': history, 'k': 5})
        assert answer.status_code == 200, answer.text
        table = model.recommend([history], k=5)
        found = answer.json()
        assert [item['item'] for item in found['items']] == table['item'].tolist()
        assert [item['title'] for item in found['items']] == table['title'].tolist()
        assert [item['score'] for item in found['items']] == pytest.approx(table['score'].tolist())
        assert found['unknown'] == []
        assert found['epoch'] == 4


def test_a_user_of_the_data_and_one_network(client, model):
    user = model.user_ids.tolist()[3]
    answer = client.post('/recommend', json={'user': user, 'network': 1, 'exclude_seen': False})
    table = model.recommend(users=[user], network=1, exclude_seen=False)
    assert [item['item'] for item in answer.json()['items']] == table['item'].tolist()


def test_a_body_is_json_whatever_it_is_called(client):
    answer = client.post(
        '/recommend',
        content=b'{"history": [1]}',
        headers={'Content-Type': 'application/x-www-form-urlencoded'},
    )
    assert answer.status_code == 200


def test_unknown_items_are_named_in_the_answer(client):
    answer = client.post('/recommend', json={'history': [1, 'nothing', 999, 2]})
    assert answer.json()['unknown'] == ['nothing', 999]
    known = client.post('/recommend', json={'history': [1, 2]})
    assert answer.json()['items'] == known.json()['items']
    # With no item that is known, the answer is that for somebody without a history.
    newcomer = client.post('/recommend', json={'history': []})
    answer = client.post('/recommend', json={'history': ['nothing']})
    assert answer.json()['items'] == newcomer.json()['items']


def test_similar_items(client, model):
    answer = client.post('/similar', json={'item': 7, 'k': 3})
    table = model.similar([7], k=3)
    assert [item['item'] for item in answer.json()['items']] == table['item'].tolist()
    assert [item['score'] for item in answer.json()['items']] == pytest.approx(
        table['score'].tolist(), abs=1e-6
    )


def test_a_comparison_shows_every_scorer_and_the_nearest_item(client, model, served):
    answer = client.post('/compare', json={'history': [3, 'nothing', 9], 'k': 4}).json()
    assert [item['item'] for item in answer['history']] == [3, 9]
    assert answer['unknown'] == ['nothing']
    names = ['ensemble', 'network 0', 'network 1', 'network 2', 'baseline: markov']
    assert [found['name'] for found in answer['lists']] == names
    for network, found in zip([None, 0, 1, 2], answer['lists'], strict=False):
        table = model.recommend([[3, 9]], k=4, network=network)
        assert [item['item'] for item in found['items']] == table['item'].tolist()
        for item in found['items']:
            alike = model.similarities(np.array([model.ids.item(item['item'])]))[0]
            nearest = 3 if alike[2] >= alike[8] else 9
            assert item['because']['item'] == nearest
    markov = served.now.chain.best(9, np.array([3, 9]), 4)
    assert [item['item'] for item in answer['lists'][-1]['items']] == markov.tolist()
    assert all(item['score'] is None for item in answer['lists'][-1]['items'])
    nobody = client.post('/compare', json={'history': [], 'k': 4}).json()
    assert nobody['lists'][0]['items'][0]['because'] is None


def test_items_and_users_are_found_by_a_part_of_their_text(client):
    found = client.get('/items', params={'search': 'tItLe of 1', 'limit': 3}).json()['items']
    assert found == [{'item': item, 'title': f'Title of {item}'} for item in (1, 10, 11)]
    assert client.get('/items', params={'search': 'no such'}).json() == {'items': []}
    users = client.get('/users', params={'search': '1', 'limit': 100}).json()['users']
    assert users
    assert all('1' in str(user) for user in users)


def test_health_metrics_and_the_page(client):
    health = client.get('/healthz').json()
    assert (health['status'], health['epoch']) == ('ok', 4)
    client.post('/recommend', json={'history': [1]})
    client.get('/made/up/path')
    text = client.get('/metrics').text
    assert 'emkd_requests_total{path="/recommend",status="200"} 1.0' in text
    assert 'emkd_requests_total{path="other",status="404"} 1.0' in text
    assert 'emkd_batch_size_count 1.0' in text
    assert 'emkd_model_epoch 4.0' in text
    for path, kind in (('/', 'text/html'), ('/page.css', 'text/css'), ('/page.js', 'javascript')):
        page = client.get(path)
        assert page.status_code == 200
        assert kind in page.headers['content-type']
        assert "default-src 'self'" in page.headers['content-security-policy']
    paths = client.get('/openapi.json').json()['paths']
    assert {'/recommend', '/similar', '/compare', '/items', '/users', '/run'} <= paths.keys()


WRONG = {
    'neither': ({}, 422, 'either a user or a history'),
    'both': ({'user': 1, 'history': [1]}, 422, 'either a user or a history'),
    'no user': ({'user': 'nobody'}, 404, "'nobody' is not in the data"),
    'k of 0': ({'history': [1], 'k': 0}, 422, 'k: Input should be greater than or equal to 1'),
    'k of text': ({'history': [1], 'k': '3'}, 422, 'k: Input should be a valid integer'),
    'k above the catalogue': ({'history': [1], 'k': NUM_ITEMS + 1}, 422, 'catalogue has 30 items'),
    'k above all': ({'history': [1], 'k': 10**9}, 422, 'less than or equal to 1000'),
    'network': ({'history': [1], 'network': 3}, 422, 'network is 3; use 0 to 2'),
    'long history': ({'history': [1] * (scorer.MOST_HISTORY + 1)}, 422, 'at most 1000 items'),
    'text': ({'history': 'abc'}, 422, 'valid list'),
    'no id': ({'history': [True]}, 422, 'history.0'),
    'unknown field': ({'history': [1], 'kk': 3}, 422, 'kk: Extra inputs'),
}


@pytest.mark.parametrize(('body', 'status', 'message'), WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_with_a_sentence(client, body, status, message):
    answer = client.post('/recommend', json=body)
    assert answer.status_code == status
    assert message in answer.json()['error']
    assert client.post('/recommend', json={'history': [1]}).status_code == 200


def test_a_small_catalogue_answers_who_names_no_number():
    for asked in (messages.Recommend(history=[1]), messages.Similar(item=1)):
        assert asked.k > 3
        _check_k(3, asked)
    with pytest.raises(HTTPException, match='catalogue has 3 items'):
        _check_k(3, messages.Recommend(history=[1], k=4))


@pytest.mark.parametrize(
    ('path', 'body', 'status'),
    [
        ('/recommend', b'{"history": [1', 422),
        ('/recommend', b'', 422),
        ('/recommend', b'[]', 422),
        ('/recommend', b'\xff\xfe', 422),
        ('/recommend', b'[' * 100_000, 422),
        ('/recommend', b'{"history": [1e999], "k": NaN}', 422),
        ('/recommend', b'{"history": ["\\ud800"]}', 422),
        ('/similar', b'{"item": "\\ud800"}', 422),
        ('/recommend', b'{"history": [' + b'1,' * limits.MOST_BYTES + b'1]}', 413),
        ('/nothing', b'{}', 404),
    ],
)
def test_a_body_that_makes_no_sense(client, path, body, status):
    answer = client.post(path, content=body)
    assert answer.status_code in {status, 400} if status == 422 else answer.status_code == status
    assert answer.json()['error']


def test_too_many_requests_are_sent_away(client, monkeypatch):
    def full(self, query):
        raise TooBusyError

    monkeypatch.setattr(Batcher, 'submit', full)
    answer = client.post('/recommend', json={'history': [1]})
    assert answer.status_code == 503
    assert answer.headers['retry-after'] == '1'


def test_malformed_requests_never_break_the_server(client):
    """2,000 bodies: valid ones with damage, and values of all kinds in all places."""
    draw = random.Random(0)
    values = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        '',
        'x',
        '\ud800',
        '\0',
        [],
        [[]],
        {},
        {'a': 1},
        [None],
    ]
    paths = ['/recommend', '/similar', '/compare', '/items', '/users', '/run', '/healthz', '/x']
    statuses = set()
    for _ in range(2000):
        names = ['user', 'history', 'k', 'exclude_seen', 'network', 'item', 'more']
        fields = draw.sample(names, draw.randrange(5))
        body = {name: draw.choice([*values, 1, [1, 2], [draw.choice(values)]]) for name in fields}
        content = bytearray(json.dumps(body), 'ascii')
        if draw.random() < 0.5:
            for _ in range(draw.randrange(1, 4)):
                content.insert(draw.randrange(len(content) + 1), draw.randrange(256))
        path = draw.choice(paths)
        if draw.random() < 0.2:
            answer = client.get(
                path, params={'search': str(body)[:300], 'limit': draw.choice([0, 'x', 5])}
            )
        else:
            answer = client.post(path, content=bytes(content))
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (path, bytes(content))
    assert {200, 404, 405, 422} <= statuses
    series = [
        line for line in client.get('/metrics').text.splitlines() if 'requests_total{' in line
    ]
    assert len(series) < 40  # the memory does not grow with what is asked


def test_a_model_whose_scores_are_damaged_answers_500_and_stays_up(client, served, monkeypatch):
    def broken(queries):
        raise ValueError('damaged')

    now = served.now
    monkeypatch.setattr(served, 'now', now._replace(scorer=broken_scorer(now.scorer, broken)))
    answer = client.post('/recommend', json={'history': [1]})
    assert answer.status_code == 500
    assert 'damaged' not in answer.text
    monkeypatch.setattr(served, 'now', now)
    assert client.post('/recommend', json={'history': [1]}).status_code == 200


def broken_scorer(scorer, function):
    class Broken(type(scorer)):
        def __init__(self):
            self.rows = scorer.rows

        def __call__(self, queries):
            return function(queries)

    return Broken()


def test_a_run_that_has_not_finished_has_no_test_to_show(client):
    overview = client.get('/run').json()
    assert overview['tests'] == {}
    assert overview['data']['items'] == NUM_ITEMS
