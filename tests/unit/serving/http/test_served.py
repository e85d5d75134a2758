"""A server follows its run: a better checkpoint takes over, and a lost workdir changes nothing."""

import re
import shutil
import socket
import sys

import pytest
from etils import epath
from starlette.testclient import TestClient

from emkd_jax.errors import UserError, install_command
from emkd_jax.runs.checkpoints import best_step
from emkd_jax.runs.trained import load_run
from emkd_jax.serving.http import serve as mode
from emkd_jax.serving.http import served as module
from emkd_jax.serving.http.app import make_app
from emkd_jax.serving.http.served import Served


@pytest.fixture
def folder(finished, tmp_path):
    _, whole = finished
    shutil.copytree(whole, tmp_path / 'run')
    return epath.Path(tmp_path / 'run')


def test_the_best_step_is_that_of_the_best_checkpoint(folder):
    run = load_run(folder)
    assert best_step(folder) == run.record['best']['step']
    assert best_step(folder / 'nothing') is None


def test_a_better_checkpoint_takes_over(folder, monkeypatch, capsys):
    served = Served(load_run(folder))
    before = served.now
    assert not served.refresh()
    assert served.now is before
    monkeypatch.setattr(module, 'best_step', lambda folder: 10**6)
    assert served.refresh()
    assert served.now is not before
    assert 'Serving epoch' in capsys.readouterr().out
    assert not served.refresh()


def test_a_lost_workdir_keeps_the_model_and_is_said_once(folder, capsys):
    served = Served(load_run(folder))
    with TestClient(make_app(served)) as client:
        before = client.post('/recommend', json={'history': []}).json()
        shutil.move(folder, folder.parent / 'elsewhere')
        assert not served.refresh()
        assert not served.refresh()
        assert capsys.readouterr().err.count('The model in memory goes on answering') == 1
        assert client.post('/recommend', json={'history': []}).json() == before
        health = client.get('/healthz').json()
        assert health['status'] == 'stale'
        assert 'holds no run any more' in health['problem']
        assert 'emkd_workdir_unreadable 1.0' in client.get('/metrics').text
        assert client.get('/run').status_code == 200
        shutil.move(folder.parent / 'elsewhere', folder)
        served.refresh()
        assert client.get('/healthz').json()['status'] == 'ok'


def test_the_test_is_shown_when_the_run_has_finished(folder):
    results = (folder / 'results.json').read_bytes()
    (folder / 'results.json').unlink()
    served = Served(load_run(folder))
    with TestClient(make_app(served)) as client:
        assert client.get('/run').json()['tests'] == {}
        (folder / 'results.json').write_bytes(results)
        assert served.refresh()
        assert client.get('/run').json()['tests']


def test_the_overview_of_a_finished_run(folder, finished):
    results, _ = finished
    with TestClient(make_app(Served(load_run(folder)))) as client:
        overview = client.get('/run').json()
    rule = results['config']['eval']['rule']
    assert overview['tests']['ensemble']['NDCG@10'] == results['test'][rule]['NDCG@10']
    assert overview['tests']['baseline: markov'].keys() == set(overview['metrics'])
    assert {'coverage@10', 'popularity@10'} <= set(overview['metrics'])
    assert list(overview['curves']) == ['ensemble', 'network 0', 'network 1']
    assert [epoch for epoch, _ in overview['curves']['ensemble']] == [1, 2, 3]


def test_a_port_that_is_taken_is_one_sentence(make_run):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf'127.0.0.1:{port} cannot be listened on .* --port'):
            mode.serve(make_run(), port=port)
    with pytest.raises(UserError, match='--port=99999 is not a port'):
        mode.serve(make_run(), port=99999)
    with pytest.raises(UserError, match='cannot be listened on .* --host'):
        mode.serve(make_run(), host='256.1.1.1', port=0)


def test_missing_packages_are_named_with_the_command(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    with pytest.raises(UserError, match=re.escape(f'uvicorn; run: {install_command("[serve]")}')):
        mode.serve(make_run())
