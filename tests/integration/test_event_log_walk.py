"""The walk of the documentation in small: from files of a shop to recommendations."""

import dataclasses
import json
import runpy

import numpy as np
import pandas as pd
import pytest

import emkd_jax as emkd
from configs import custom as custom_config
from emkd_jax.data.splits import leave_one_out
from emkd_jax.errors import UserError
from emkd_jax.runs.continuation import carry_over
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.trained import load_run
from emkd_jax.serving.export import export
from emkd_jax.serving.recommend import recommend
from tests.support import ROOT
from tests.support.custom_data import prepared_in


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    """The files of the made-up shop."""
    folder = tmp_path_factory.mktemp('walk') / 'shop'
    runpy.run_path(str(ROOT / 'examples' / 'shop.py'))['main'](folder)
    with prepared_in(folder.parent / 'prepared'):
        yield folder


def config_of(shop, titles=False, k=10, **data):
    config = custom_config.get_config('quick')
    config.data.update({'source': str(shop / 'events.csv')} | data)
    config.recommend.update({'titles': titles, 'k': k})
    config.model.update({'max_len': 6, 'hidden_dim': 16, 'num_blocks': 1})
    config.train.update({'num_steps': 3, 'batch_size': 64})
    return config


def test_from_two_files_to_recommendations_and_an_export(shop):
    items = {'attributes': str(shop / 'items.csv')}
    config, folder = config_of(shop, **items), shop.parent / 'run'
    results = train(config, workdir=str(folder)).results
    counts = {name: results['data'][name] for name in ('users', 'items', 'attributes')}
    assert counts == {'users': 1000, 'items': 60, 'attributes': 6}
    assert set(results['test']) == {'window', 'history', 'none'}

    run = load_run(folder, config_of(shop, **items, titles=True, k=5))
    recommend(run, output=str(shop / 'top.jsonl'))
    answers = [json.loads(line) for line in (shop / 'top.jsonl').read_text().splitlines()]
    assert len(answers) == 1000 and answers[7]['user'] == 'customer-0007'
    assert all(len(answer['items']) == len(answer['titles']) == 5 for answer in answers)

    export(run)
    card = json.loads((folder / 'export' / 'card.json').read_text())
    assert card['test'] == results['test'] and card['data']['users'] == 1000

    model = emkd.load(folder)
    model.save(shop.parent / 'model')
    texts = [*(shop.parent / 'model').rglob('*.json'), *(folder / 'export').rglob('*.json')]
    assert not any(str(shop) in text.read_text() for text in texts)
    table = emkd.load(shop.parent / 'model').recommend([['COF-01', 'COF-02']], k=3)
    assert table['title'].notna().all()
    pd.testing.assert_frame_equal(table, model.recommend([['COF-01', 'COF-02']], k=3))


def test_the_configuration_for_a_log_of_ones_own_trains_as_it_is(shop):
    """The number of rows of a step, which it leaves to the data, is settled before the checks."""
    config = custom_config.get_config()
    config.data.source = str(shop / 'events.csv')
    config.model.update({'hidden_dim': 8, 'num_blocks': 1})
    config.train.num_epochs = 1
    assert config.train.batch_size == 0
    run = train(config, workdir=str(shop.parent / 'as_it_is'))
    assert run.config.train.batch_size % 4 == 0
    assert 'counts' in run.results  # whose settings it finds by itself


def test_a_log_that_has_grown_gets_recommendations(shop, capsys):
    """Its new users, and its users with their new events; items that are new are counted."""
    folder = shop.parent / 'run_to_grow'
    run = train(config_of(shop), workdir=str(folder))
    events = pd.read_csv(shop / 'events.csv', dtype=str)
    today = [('newcomer', 'COF-01'), ('newcomer', 'brand-new'), ('customer-0007', 'CAM-02')]
    user, item = events.columns[:2]
    new = [dict(events.iloc[-1]) | {user: who, item: what} for who, what in today]
    pd.concat([events, pd.DataFrame(new)]).to_csv(shop / 'today.csv', index=False)
    recommend(run, events=str(shop / 'today.csv'), output=str(shop / 'today.jsonl'))
    answers = [json.loads(line) for line in (shop / 'today.jsonl').read_text().splitlines()]
    assert len(answers) == 1001
    assert [answer['user'] for answer in answers if answer['user'] == 'newcomer'] == ['newcomer']
    seven = next(answer for answer in answers if answer['user'] == 'customer-0007')
    assert 'CAM-02' not in seven['items']
    error = capsys.readouterr().err
    assert '1,001 users, of whom 1 are new' in error
    assert "Skipped 1 unknown item, the first 'brand-new'" in error
    with pytest.raises(UserError, match='leave one of them out'):
        recommend(run, '-', events='today.csv')


def grown(shop, name):
    """Today's files: an item more, of the category of COF-01, which two customers bought."""
    events, items = pd.read_csv(shop / 'events.csv'), pd.read_csv(shop / 'items.csv')
    new = dict(items[items['item'] == 'COF-01'].iloc[0]) | {'item': 'COF-99', 'title': 'New'}
    pd.concat([items, pd.DataFrame([new])]).to_csv(shop / f'{name}_items.csv', index=False)
    user, item = events.columns[:2]
    last = dict(events.iloc[-1])
    more = [last | {user: f'customer-000{n}', item: 'COF-99'} for n in range(1, 7)]
    pd.concat([events, pd.DataFrame(more)]).to_csv(shop / f'{name}.csv', index=False)
    return {'source': str(shop / f'{name}.csv'), 'attributes': str(shop / f'{name}_items.csv')}


def test_a_run_from_another_one_begins_on_one_host(shop, monkeypatch):
    monkeypatch.setattr('jax.process_count', lambda: 2)
    with pytest.raises(UserError, match='begins a run on one host only'):
        emkd.continue_training('a run', config_of(shop), workdir=str(shop.parent / 'new'))


def test_training_goes_on_from_a_run_on_a_log_that_has_grown(shop, capsys):
    attributes = {'attributes': str(shop / 'items.csv')}
    before = train(config_of(shop, **attributes), workdir=str(shop.parent / 'run_before'))
    config, folder = config_of(shop, **grown(shop, 'tomorrow')), str(shop.parent / 'run_after')
    experiment = make_experiment(config)
    params = carry_over(before, experiment.initial_state().params, experiment.data)
    old, new = (p['encoder']['embedding']['tokens'] for p in (before.params, params))
    place = experiment.data.item_ids.tolist().index('COF-99') + 1
    np.testing.assert_array_equal(np.delete(new, place, axis=-2), old)
    category = experiment.data.item_attributes[place].tolist()
    same = [i for i in range(1, 62) if experiment.data.item_attributes[i].tolist() == category]
    same.remove(place)
    assert len(same) > 1
    np.testing.assert_allclose(new[..., place, :], new[..., same, :].mean(-2), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(
        params['attribute_head_bias'], before.params['attribute_head_bias']
    )

    run = emkd.continue_training(before.workdir, config, workdir=folder)
    assert run.results['started_from'] == before.workdir
    assert run.results['steps'] == 3 and run.results['data']['items'] == 61
    said = capsys.readouterr().out
    assert '60 of 61 items and 6 of 6 attributes are known' in said
    assert 'begins with the parameters of' in said
    other = dataclasses.replace(experiment.data, item_ids=np.arange(61))
    with pytest.raises(UserError, match='knows none of the 61 items .*leave it out'):
        carry_over(before, experiment.initial_state().params, other)
    again = emkd.continue_training('no run', config, workdir=folder)  # it is finished
    assert again.results == run.results

    config.model.hidden_dim = 32
    with pytest.raises(UserError, match='another model .*--config is left out'):
        emkd.continue_training(before.workdir, config, workdir=f'{folder}_wide')


def test_without_attributes_their_prediction_is_off(shop):
    experiment = make_experiment(config_of(shop))
    assert experiment.config.objective.attribute_weight == 0
    assert experiment.data.num_attributes == 0


def test_the_split_of_the_data_is_that_of_the_run(shop):
    experiment = make_experiment(config_of(shop, split='time'))
    assert experiment.split is experiment.data.split
    by_users = leave_one_out(experiment.data)
    assert len(experiment.split.test.targets) < len(by_users.test.targets)
