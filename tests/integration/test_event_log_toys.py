"""S3-Rec's Toys text through the custom path is the data of the toys builder, to the digit."""

import os
import pathlib

import jax
import pytest

from configs import toys as toys_config
from emkd_jax import data as data_room
from emkd_jax.data.splits import leave_one_out
from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.baselines import evaluate_baselines
from emkd_jax.model.counts import SETTINGS, CountModel
from emkd_jax.model.ensemble import make_ensemble
from tests.support.custom_data import load, prepared_in


@pytest.fixture(scope='module')
def s3rec():
    """A folder with Toys_and_Games.txt, as S3-Rec's authors released it."""
    folder = os.environ.get('EMKD_S3REC_DIR')
    if not folder:
        pytest.skip("EMKD_S3REC_DIR does not name a folder with S3-Rec's data files")
    return pathlib.Path(folder)


@pytest.fixture(scope='module')
def both(s3rec, real_data, tmp_path_factory):
    """(by the builder, by the custom path)."""
    folder = tmp_path_factory.mktemp('prepared')
    options = toys_config.get_config().data
    options.source = str(real_data)
    with prepared_in(folder):
        built = data_room.load(options)
    attributes = real_data / 'Toys_and_Games_item2attributes.json'
    custom = load(
        s3rec / 'Toys_and_Games.txt', folder, attributes=str(attributes), k_core=5, min_length=3
    )
    return built, custom


def test_same_data(both):
    built, custom = both
    assert custom.counts() == {
        'users': 19412,
        'items': 11924,
        'interactions': 167597,
        'attributes': 1027,
    }
    assert custom.counts() == built.counts()
    assert custom.fingerprint == built.fingerprint


def test_same_evaluation(both):
    """Floors, and a small untrained ensemble: every metric under every rule."""
    config = toys_config.get_config('quick')
    config.model.hidden_dim = 16
    config.model.num_blocks = 1
    results = []
    for data in both:
        split = leave_one_out(data)
        ensemble = make_ensemble(config, data.num_items, data.num_attributes)
        params = ensemble.init(jax.random.key(0))
        result = Evaluator(config.eval, ensemble, split.test)(params)
        results.append(
            (
                result.ensemble,
                result.networks,
                evaluate_baselines(
                    split.train,
                    split.test,
                    data.num_items,
                    config.model.max_len,
                    config.eval.ks,
                    CountModel(split.train, data.num_items, SETTINGS['toys']),
                )[0],
            )
        )
    assert results[0] == results[1]
