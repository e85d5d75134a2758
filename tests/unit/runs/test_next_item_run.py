"""A whole run of the recipe: next items, two kinds of encoders, attributes and counts."""

import json
import re

import jax
import numpy as np
import pytest
from etils import epath
from jax import export as jax_export

import emkd_jax as emkd
from emkd_jax.errors import PreemptedError
from emkd_jax.runs import results
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.results import announce, network_names
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.trained import evaluate, load_run
from emkd_jax.serving.export import export
from tests.support.runs import lines, small_config, stop_at


def config(**changes):
    return small_config(
        ensemble__members='sasrec_plus,sasrec_plus,gru4rec',
        ensemble__counts=True,
        objective__task='next_item',
        objective__kd_weight=0.1,
        model__tied=True,
        model__attribute_inputs=True,
        optimizer__average_decay=0.9,
        train__batch_size=24,
        train__row_width=16,
        eval__rule='history',
        **changes,
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(config(), workdir=str(tmp_path_factory.mktemp('run') / 'whole'))


def test_results_have_the_ensemble_with_and_without_counts(run):
    results = run.results
    assert len(results['networks']) == results['config']['ensemble']['num_networks'] == 3
    assert set(results['floors']) == {'popularity', 'markov', 'pctm'}
    stored = json.loads((run.folder / 'counts.json').read_text())
    assert results['counts']['weight'] == stored['weight']
    tried = stored['validation']
    assert tried[f'{stored["weight"]:g}'] == max(tried.values())
    assert results['without_counts']['history']['NDCG@10'] > 0
    assert {'rows', 'targets'} <= set(results['data'])


def test_tables_name_the_kinds_of_the_networks(run):
    assert list(results.tested_scorers(run.results))[:5] == [
        'ensemble and counts',
        'ensemble',
        'network 0 (sasrec_plus)',
        'network 1 (sasrec_plus)',
        'network 2 (gru4rec)',
    ]
    assert network_names('', 2) == network_names('hstu,hstu', 2) == ['network 0', 'network 1']
    assert network_names('hstu, my.package:Own', 2)[1] == 'network 1 (Own)'


def test_evaluate_finds_the_same_from_the_workdir_alone(run):
    again = evaluate(load_run(run.folder))
    assert again['test'] == run.results['test']
    assert again['without_counts'] == run.results['without_counts']


def test_recommendations_scores_and_a_saved_model_use_the_counts(run, tmp_path):
    model = emkd.load(run.folder)
    histories = [model.item_ids[[3, 1, 4]], model.item_ids[[1, 5]], []]
    scores = model.score(histories)
    # The table of recommendations follows the scores.
    table = model.recommend(histories, k=5, exclude_seen=False)
    for row in range(3):
        items = table[table['row'] == row]['item'].tolist()
        assert items == model.item_ids[np.argsort(-scores[row])[:5]].tolist()
    # Each network alone recommends without counts.
    networks = sum(
        model.recommend(histories, k=len(model.item_ids), exclude_seen=False, network=n)
        .sort_values(['row', 'item'])['score']
        .to_numpy()
        for n in range(3)
    )
    assert not np.allclose(np.sort(networks), np.sort(scores.ravel()))
    assert model.embeddings(histories).shape == (3, 3 * 16)
    model.save(tmp_path / 'saved')
    saved = emkd.load(tmp_path / 'saved')
    np.testing.assert_allclose(saved.score(histories), scores, rtol=1e-6)
    assert saved.evaluate() == run.results['test']


def test_the_exported_program_scores_as_the_model_does(run, tmp_path):
    export(run, str(tmp_path / 'exported'))
    program = jax_export.deserialize(
        bytearray((tmp_path / 'exported' / 'model.stablehlo').read_bytes())
    )
    slots = json.loads((tmp_path / 'exported' / 'card.json').read_text())['slots']
    model = emkd.load(run.folder)
    history = [3, 1, 4, 1, 5]
    items = np.zeros((1, slots), np.int32)
    items[0, -5:] = np.array(history) + 1
    found = jax.jit(program.call)(items)
    expected = model.score([model.item_ids[history]])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    per_epoch = run.results['steps'] // 3
    stop_at(monkeypatch, per_epoch + 1)
    with pytest.raises(PreemptedError), StopSignals() as signals:
        train(config(), workdir=str(tmp_path / 'run'), signals=signals)
    monkeypatch.undo()
    resumed = train(config(), workdir=str(tmp_path / 'run'))
    assert lines(tmp_path / 'run') == lines(run.folder)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, run.params)
    assert resumed.results['test'] == run.results['test']


def test_training_stops_when_patience_is_over(tmp_path):
    """With a learning rate of zero, nothing improves after the first validation."""
    stopped = train(
        config(optimizer__learning_rate=0.0, train__num_epochs=9, train__patience=2),
        workdir=str(tmp_path / 'run'),
    )
    assert stopped.results['best_epoch'] == 1
    assert stopped.results['steps'] == 3 * (stopped.results['steps'] // 3)
    assert max(event['epoch'] for event in lines(tmp_path / 'run', 'validation')) == 3


def test_a_run_says_how_full_its_rows_are(capsys, tmp_path):
    experiment = make_experiment(config())
    announce(experiment, epath.Path(tmp_path))
    told = capsys.readouterr().out
    assert f'; {experiment.rows.fill:.1%} of the slots are filled' in told
    assert 'large steps' not in told


def test_a_run_says_that_its_steps_are_large(capsys, tmp_path):
    options = config()
    options.train.batch_size = 0
    chosen = make_experiment(options).config.train.batch_size
    for rows in (4 * chosen, 4 * chosen + 1):
        assert 'large steps' not in capsys.readouterr().out
        options.train.batch_size = rows
        announce(make_experiment(options), epath.Path(tmp_path))
    told = capsys.readouterr().out
    assert re.search(rf'large steps: \d+ targets each, and \d+ an epoch; .* {chosen} rows', told)
