"""Runs whose item tables are split over the devices: begun, resumed and refused."""

import jax
import numpy as np
import pytest

import emkd_jax as emkd
from emkd_jax.errors import PreemptedError, UserError
from emkd_jax.model.sharded_tables import is_table
from emkd_jax.runs import tables
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.tables import fit_tables
from emkd_jax.runs.trained import evaluate, load_run
from tests.support.golden_cases import relative_error
from tests.support.runs import small_config, stop_at

SHARDED = {'ensemble__shard_items': True}


def params_of(folder):
    experiment = make_experiment(small_config())
    checkpoints = Checkpoints(folder)
    return checkpoints.restore(checkpoints.steps[-1], experiment.state_shapes())[0].params


@pytest.mark.parametrize(('first', 'then'), [({}, SHARDED), (SHARDED, {})])
def test_a_checkpoint_does_not_depend_on_where_the_rows_were(
    finished, tmp_path, monkeypatch, first, then
):
    """A run goes on with its tables split after it began with whole ones, and the other way."""
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with StopSignals() as signals, pytest.raises(PreemptedError):
            train(small_config(**first), workdir=str(tmp_path / 'run'), signals=signals)
    results = train(small_config(**then), workdir=str(tmp_path / 'run')).results
    expected, whole = finished
    found, wanted = (
        jax.tree_util.tree_flatten_with_path(params_of(folder))[0]
        for folder in (tmp_path / 'run', whole)
    )
    errors = {
        jax.tree_util.keystr(path): relative_error(leaf, like)
        for (path, leaf), (_, like) in zip(found, wanted, strict=True)
        if is_table(path)
    }
    assert len(errors) == 3 and max(errors.values()) < 1e-4, errors
    for rule, metrics in expected['test'].items():
        assert results['test'][rule] == pytest.approx(metrics, abs=0.02)


def test_a_run_with_split_tables_is_evaluated(tmp_path):
    run = train(small_config(train__num_epochs=1, **SHARDED), workdir=str(tmp_path))
    again = evaluate(load_run(tmp_path))
    assert again['test'] == run.results['test']
    model = emkd.load(tmp_path)
    recommended = model.recommend([model.item_ids[:3].tolist()], k=4)
    assert len(recommended) == 4 and np.isfinite(recommended['score']).all()


def of_size(monkeypatch, megabytes):
    monkeypatch.setattr(tables, 'device_memory', lambda devices: megabytes * 1e6)
    return fit_tables(make_experiment(small_config())).config.ensemble.shard_items


def test_tables_are_split_where_they_do_not_fit(monkeypatch, capsys):
    state = make_experiment(small_config()).state_shapes()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1e6
    assert not of_size(monkeypatch, 1.01 * size)
    assert not capsys.readouterr().out
    assert of_size(monkeypatch, 0.99 * size)
    assert 'the item tables are split over them' in capsys.readouterr().out
    with pytest.raises(UserError, match=r'4 device\(s\) with .* cannot hold it'):
        of_size(monkeypatch, 0.01 * size)


def test_how_many_devices_it_takes_is_said(monkeypatch):
    """Of 4 GB, tables are 3 GB; beside the other GB, a device with 1.5 GB has room for 0.5 GB."""
    experiment = make_experiment(small_config())
    state = experiment.state_shapes()

    def of_four_gigabytes(self):
        wide = jax.ShapeDtypeStruct((1, 750_000_000, 1), np.float32)
        return {'embedding': {'tokens': wide}, 'rest': jax.ShapeDtypeStruct((250_000_000,), 'f4')}

    assert state.params
    monkeypatch.setattr(type(experiment), 'state_shapes', of_four_gigabytes)
    with pytest.raises(UserError, match='it takes at least 6 devices'):
        of_size(monkeypatch, 1500)


def test_students_cannot_split_tables_yet():
    student = make_experiment(small_config(distill__teacher='runs/teacher', **SHARDED))
    with pytest.raises(UserError, match='not possible for a student yet'):
        fit_tables(student)
