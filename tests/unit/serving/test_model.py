"""The Python API of a trained model: the same numbers as without batches, and folders that last."""

import inspect
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import emkd_jax as emkd
from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.serving.model import PATH_OPTIONS, Model
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_data, tiny_experiment

HISTORIES = [[5], [], [1, 2, 3], list(range(1, 21)), [30, 1] * 10]
TITLES = [f'Title of {item}' for item in range(1, NUM_ITEMS + 1)]


@pytest.fixture
def model(make_run):
    return Model.from_run(make_run(TITLES))


def hidden(trained, history):
    """(networks, dim) at the last slot, from the hidden states of all slots."""
    experiment, params = trained
    slots = experiment.config.model.max_len
    window = [*history, NUM_ITEMS + 1][-slots:]
    items = jnp.array([[0] * (slots - len(window)) + window], jnp.int32)
    return jax.jit(experiment.ensemble.hidden)(params, items)[:, 0, -1]


def test_scores_are_the_sums_of_the_logits(model, trained):
    experiment, params = trained
    scores = model.score(HISTORIES)
    assert scores.shape == (len(HISTORIES), NUM_ITEMS)
    for history, found in zip(HISTORIES, scores, strict=True):
        logits = jax.jit(experiment.ensemble.item_logits)(params, hidden(trained, history))
        np.testing.assert_allclose(found, logits.sum(0)[1:], rtol=1e-4, atol=1e-4)


def test_embeddings_are_the_hidden_states(model, trained):
    found = model.embeddings(HISTORIES)
    for history, row in zip(HISTORIES, found, strict=True):
        expected = hidden(trained, history).reshape(-1)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_no_histories_give_no_rows(model):
    assert model.score([]).shape == (0, NUM_ITEMS)
    assert model.embeddings([]).shape == (0, 3 * 16)
    assert list(model.recommend([]).columns) == ['row', 'rank', 'item', 'score', 'title']


def test_recommendations_are_the_best_scores(model):
    table = model.recommend(HISTORIES, k=4)
    assert list(table.columns) == ['row', 'rank', 'item', 'score', 'title']
    scores = model.score(HISTORIES)
    for row, (history, expected) in enumerate(zip(HISTORIES, scores, strict=True)):
        expected[np.array(history, int) - 1] = -np.inf
        found = table[table['row'] == row]
        assert found['rank'].tolist() == [1, 2, 3, 4]
        assert found['item'].tolist() == (np.argsort(-expected)[:4] + 1).tolist()
        assert found['title'].tolist() == [TITLES[item - 1] for item in found['item']]
        np.testing.assert_allclose(found['score'], -np.sort(-expected)[:4], rtol=1e-5)


def test_users_are_their_histories(model, make_run):
    users = [7, '3', 7]
    histories = [model.dataset.histories[int(user)].tolist() for user in users]
    by_user, by_history = model.recommend(users=users), model.recommend(histories)
    assert by_user['user'].tolist() == np.repeat(np.array(users, object), 10).tolist()
    columns = ['rank', 'item', 'score', 'title']
    pd.testing.assert_frame_equal(by_user[columns], by_history[columns])
    assert 'title' not in Model.from_run(make_run()).recommend(users=[7])


def test_any_kind_of_list_is_a_history(model):
    expected = model.recommend([[1, 2], [3]])
    for histories in (
        pd.Series([['1', '2'], ['3']]),
        [np.array([1, 2]), (3,)],
        iter([iter([1, 2]), iter([3])]),
    ):
        pd.testing.assert_frame_equal(model.recommend(histories), expected)


def test_what_may_be_recommended(model):
    only = model.recommend([[6]], only=range(1, 7), exclude=[2, 4])
    assert sorted(only['item']) == [1, 3, 5]
    seen = model.recommend([[6]], k=100, exclude_seen=False)
    assert sorted(seen['item']) == list(range(1, NUM_ITEMS + 1))
    alone = pd.concat([model.recommend([[6]], k=100, network=n) for n in range(3)])
    together = alone.groupby('item')['score'].sum().sort_values(ascending=False)
    assert model.recommend([[6]], k=100)['item'].tolist() == together.index.tolist()


def test_ids_that_are_not_known_are_skipped_and_counted(model, capsys):
    table = model.recommend([[1, 99, 2, 'x'], [99]], only=['y', *range(1, 11)])
    assert "Skipped 4 unknown items, the first 'y' at only." in capsys.readouterr().err
    expected = model.recommend([[1, 2], []], only=range(1, 11))
    assert capsys.readouterr().err == ''
    pd.testing.assert_frame_equal(table, expected)
    assert model.recommend(users=['nobody', 7])['user'].tolist() == [7] * 10
    assert "Skipped 1 unknown user, the first 'nobody' at users[0]." in capsys.readouterr().err
    np.testing.assert_array_equal(model.score([[1, 99]]), model.score([[1]]))
    assert "Skipped 1 unknown item, the first '99' at histories[0]." in capsys.readouterr().err


@pytest.mark.parametrize(
    'ask',
    [
        lambda model: model.recommend([[1], [99]], strict=True),
        lambda model: model.score([[1], [99]], strict=True),
        lambda model: model.embeddings([[1], [99]], strict=True),
    ],
)
def test_ids_that_are_not_known_are_an_error_when_strict(model, ask):
    with pytest.raises(UserError, match=r"histories\[1\]: item '99' is not in the data; with"):
        ask(model)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'takes either histories or users'),
        ({'histories': [[1]], 'users': [7]}, 'takes either histories or users'),
        ({'histories': ['COF-01', 'COF-02']}, r"histories\[0\] is 'COF-01', which is not a list"),
        ({'histories': 'COF-01'}, "histories is 'COF-01', which is not a list"),
        ({'users': 'ann'}, "users is 'ann', which is not a list"),
        ({'histories': [[1]], 'exclude': 'ann'}, "exclude is 'ann', which is not a list"),
        ({'histories': [[1]], 'k': 0}, 'k is 0'),
        ({'histories': [[1]], 'network': 3}, 'no network 3; use 0 to 2'),
        ({'histories': [[1]], 'network': -1}, 'no network -1; use 0 to 2'),
        ({'histories': [[1]], 'only': []}, 'leave no item'),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.recommend(**arguments)


@pytest.mark.parametrize('k', [0, 2.5, '2', None])
def test_a_number_of_items_that_is_none_is_refused(model, k):
    similar = inspect.unwrap(Model.similar)  # without the check of types that tests have
    with pytest.raises(UserError, match=f'k is {k!r}; it must be a whole number'):
        similar(model, [1], k)


def test_evaluation_is_that_of_the_run(model, trained):
    experiment, params = trained
    evaluator = Evaluator(experiment.config.eval, experiment.ensemble, experiment.split.test)
    assert model.evaluate() == evaluator(params).ensemble
    assert model.evaluate(tiny_data()) == model.evaluate()
    assert model.evaluate(tiny_data(seed=1)) != model.evaluate()


def test_evaluation_needs_the_items_of_the_model(model):
    other = tiny_data()
    other.item_ids[:] += 1
    with pytest.raises(UserError, match='does not have the items of the model'):
        model.evaluate(other)
    with pytest.raises(UserError, match='The data is a str, and must be a Dataset'):
        inspect.unwrap(Model.evaluate)(model, 'events.csv')


def test_asking_again_compiles_nothing(model, caplog):
    ask = [
        lambda: model.recommend([[1, 2]], exclude=[3]),
        lambda: model.score([[1, 2]]),
        lambda: model.embeddings([[1, 2]]),
    ]
    for again in ask:
        again()
    with jax.log_compiles():
        model.recommend([[3, 4]], exclude=[5, 6])
        for again in ask:
            again()
    assert not any('Compiling' in record.message for record in caplog.records)


def test_a_saved_model_needs_no_run(make_run, tmp_path):
    paths = {name.replace('.', '__'): '/home/somebody' for name in PATH_OPTIONS}
    del paths['data__attributes']  # an option of event logs alone
    tested = {'test': {'window': {'HR@10': 0.5}}}
    model = Model.from_run(make_run(TITLES, folder=tmp_path / 'run', results=tested, **paths))
    model.save(tmp_path / 'model')
    shutil.move(tmp_path / 'model', tmp_path / 'moved')
    again = emkd.load(tmp_path / 'moved')
    pd.testing.assert_frame_equal(again.recommend(HISTORIES), model.recommend(HISTORIES))
    np.testing.assert_array_equal(again.score(HISTORIES), model.score(HISTORIES))
    assert again.evaluate() == model.evaluate()
    assert again.results == model.results == tested | {'epoch': 4}
    card = json.loads((tmp_path / 'moved' / 'card.json').read_text())
    assert card['test'] == tested['test'] and card['data']['items'] == NUM_ITEMS
    files = [file for file in (tmp_path / 'moved').rglob('*') if file.is_file()]
    assert not any(b'/home/somebody' in file.read_bytes() for file in files)
    again.save(tmp_path / 'twice')
    assert emkd.load(tmp_path / 'twice').evaluate() == model.evaluate()


def test_a_saved_model_that_cannot_be_used_is_told(model, tmp_path):
    with pytest.raises(UserError, match='holds no run'):
        emkd.load(tmp_path)
    model.save(tmp_path / 'model')
    with pytest.raises(UserError, match='is already there; choose another folder'):
        model.save(tmp_path / 'model')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        model.save(tmp_path / 'file' / 'model')
    config = json.loads((tmp_path / 'model' / 'config.json').read_text())
    config['model']['hidden_dim'] = 32
    (tmp_path / 'model' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match='does not fit this model'):
        emkd.load(tmp_path / 'model')
    (tmp_path / 'model' / 'data' / 'titles.json').write_text('["Title of 1",')
    with pytest.raises(UserError, match=r'model/data is damaged'):
        emkd.load(tmp_path / 'model')
    (tmp_path / 'model' / 'config.json').write_text('{')
    with pytest.raises(UserError, match=r'config\.json is not the configuration'):
        emkd.load(tmp_path / 'model')


def test_a_run_is_loaded_from_its_workdir(finished):
    """Configuration, data and parameters come from the folder alone."""
    results, folder = finished
    model = emkd.load(folder)
    assert model.results['test'] == results['test']
    assert model.evaluate() == results['test']
    assert len(model.recommend(users=model.user_ids[:3], k=2)) == 6


def test_what_a_notebook_shows_fits_on_a_line(model, make_run):
    """A cell that ends with a run would otherwise print all options and arrays."""
    run = make_run(TITLES)
    users = f'{len(model.user_ids):,} users, {NUM_ITEMS:,} items'
    for shown in (model, model.dataset, run, run.experiment, run.dataset.histories):
        assert len(repr(shown)) < 200 and '\n' not in repr(shown)
    assert repr(model.dataset) in repr(run) and users in repr(model)
    assert f'{run.folder}' in repr(run)


def test_rows_are_not_mixed_up_by_batches(trained):
    """More histories than a batch holds, of all lengths, in no order."""
    experiment = tiny_experiment(tiny_config(model__num_blocks=1, eval__batch_size=4))
    model = Model(experiment, jax.device_get(trained[1]), {})
    random = np.random.default_rng(0)
    histories = [random.integers(1, 31, random.integers(0, 20)).tolist() for _ in range(40)]
    scores = model.score(histories)
    for row in range(0, 40, 7):
        np.testing.assert_allclose(scores[row], model.score([histories[row]])[0], rtol=1e-4)
    rows = Ragged.from_rows(histories)
    assert len(rows) == len(model.embeddings(histories))
