"""The walk of the documentation in small: from files of a shop to recommendations."""

import json
import runpy

import pandas as pd
import pytest

import emkd_jax as emkd
from configs import custom as custom_config
from emkd_jax.data.splits import leave_one_out
from emkd_jax.errors import UserError
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


def test_without_attributes_their_prediction_is_off(shop):
    experiment = make_experiment(config_of(shop))
    assert experiment.config.objective.attribute_weight == 0
    assert experiment.data.num_attributes == 0


def test_the_split_of_the_data_is_that_of_the_run(shop):
    experiment = make_experiment(config_of(shop, split='time'))
    assert experiment.split is experiment.data.split
    by_users = leave_one_out(experiment.data)
    assert len(experiment.split.test.targets) < len(by_users.test.targets)
