"""The walk of the README in small: files of a shop to a trained run, top items and a picture."""

import json
import runpy
import xml.etree.ElementTree

import pytest

from configs import custom as custom_config
from emkd_jax.data.splits import leave_one_out
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
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


def config_of(shop, **data):
    config = custom_config.get_config('quick')
    config.data.update({'source': str(shop / 'events.csv')} | data)
    config.model.update({'max_len': 6, 'hidden_dim': 16, 'num_blocks': 1})
    config.train.update({'num_steps': 3, 'batch_size': 64})
    return config


def test_from_two_files_to_a_picture(shop):
    items = {'attributes': str(shop / 'items.csv')}
    config, run = config_of(shop, **items), shop.parent / 'run'
    results = train(config, str(run))
    counts = {name: results['data'][name] for name in ('users', 'items', 'attributes')}
    assert counts == {'users': 1000, 'items': 60, 'attributes': 6}
    assert set(results['test']) == {'window', 'history', 'none'}

    config = config_of(shop, **items)
    config.recommend.titles = True
    config.recommend.k = 5
    recommend(config, str(run), output=str(shop / 'top.jsonl'))
    answers = [json.loads(line) for line in (shop / 'top.jsonl').read_text().splitlines()]
    assert len(answers) == 1000 and answers[7]['user'] == 'customer-0007'
    assert all(len(answer['items']) == len(answer['titles']) == 5 for answer in answers)

    draw = runpy.run_path(str(ROOT / 'docs' / 'recommendations.py'))['draw']
    picture = '\n'.join(draw(shop, shop / 'top.jsonl', 'customer-0007'))
    words = {element.text for element in xml.etree.ElementTree.fromstring(picture).iter()}
    assert {'customer-0007 bought', *answers[7]['titles']} <= words

    export(config, str(run))
    card = json.loads((run / 'export' / 'card.json').read_text())
    assert card['test'] == results['test'] and card['data']['users'] == 1000


def test_without_attributes_their_prediction_is_off(shop):
    experiment = make_experiment(config_of(shop))
    assert experiment.config.objective.attribute_weight == 0
    assert experiment.data.num_attributes == 0


def test_the_split_of_the_data_is_that_of_the_run(shop):
    experiment = make_experiment(config_of(shop, split='time'))
    assert experiment.split is experiment.data.split
    by_users = leave_one_out(experiment.data)
    assert len(experiment.split.test.targets) < len(by_users.test.targets)
