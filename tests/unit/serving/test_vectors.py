"""Items as vectors: their inner products rank as the model does, also from the exported files."""

import re
import sys

import faiss
import numpy as np
import pytest

from emkd_jax.errors import UserError, install_command
from emkd_jax.serving.export import export
from emkd_jax.serving.model import Model
from tests.support.tiny import NUM_ITEMS

HISTORIES = [[5], [1, 2, 3], list(range(1, 21)), [30, 1] * 10]


@pytest.fixture
def run(make_run):
    """A run whose items have biases that change the order of the items."""
    run = make_run([f'Title of {item}' for item in range(1, NUM_ITEMS + 1)], export__index='faiss')
    params = dict(run.params)
    shape = params['item_head_bias'].shape
    params['item_head_bias'] = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    run.__dict__['_best'] = params, run.record
    return run


def test_inner_products_are_the_scores(run):
    model = Model.from_run(run)
    products = model.embeddings(HISTORIES) @ model.item_embeddings().T + model.item_biases()
    np.testing.assert_allclose(products, model.score(HISTORIES), rtol=1e-5, atol=1e-5)


def test_the_exported_index_ranks_as_the_model(run, tmp_path):
    model = Model.from_run(run)
    export(run, str(tmp_path / 'export'))
    queries = np.pad(model.embeddings(HISTORIES), ((0, 0), (0, 1)), constant_values=1)
    index = faiss.read_index(str(tmp_path / 'export' / 'items.faiss'))
    scores, places = index.search(queries, 10)
    table = model.recommend(HISTORIES, k=10, exclude_seen=False)
    found = table['item'].to_numpy().reshape(len(HISTORIES), 10)
    np.testing.assert_array_equal(model.item_ids[places], found)
    np.testing.assert_allclose(scores.reshape(-1), table['score'], rtol=1e-5)
    items = np.load(tmp_path / 'export' / 'item_vectors.npy')
    biases = np.load(tmp_path / 'export' / 'item_biases.npy')
    np.testing.assert_array_equal(np.argsort(-(queries[:, :-1] @ items.T + biases))[:, :10], places)


def test_an_index_without_faiss_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(UserError, match=re.escape(install_command('[index]'))):
        export(run, str(tmp_path / 'export'))
    assert not (tmp_path / 'export').exists()


def test_similar_items_have_alike_vectors(run):
    model = Model.from_run(run)
    table = model.similar([7, '9'], k=3)
    assert table.columns.tolist() == ['to', 'rank', 'item', 'score', 'title']
    assert table['to'].tolist() == [7] * 3 + ['9'] * 3
    parts = model.item_embeddings().reshape(NUM_ITEMS, 3, -1)
    parts = parts / np.linalg.norm(parts, axis=-1, keepdims=True)
    cosines = np.einsum('nd,ind->i', parts[6], parts) / 3
    cosines[6] = -np.inf
    expected = np.argsort(-cosines)[:3]
    assert table['item'][:3].tolist() == model.item_ids[expected].tolist()
    np.testing.assert_allclose(table['score'][:3], cosines[expected], rtol=1e-5)


def test_similar_items_leave_out_unknown_ones_and_no_item_is_like_itself(run, capsys):
    model = Model.from_run(run)
    table = model.similar([7, 'nothing'], k=1000)
    assert len(table) == NUM_ITEMS - 1
    assert 7 not in table['item'].tolist()
    assert "1 unknown item, the first 'nothing'" in capsys.readouterr().err
    with pytest.raises(UserError, match='nothing'):
        model.similar(['nothing'], strict=True)
    with pytest.raises(UserError, match='k is 0'):
        model.similar([7], k=0)
