"""S3-Rec's Toys text through the custom path is the data of the toys builder, to the digit."""

import pytest

from configs import toys as toys_config
from emkd_jax import data as data_room
from tests.support.custom_data import load, prepared_in


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
    """All that training and evaluation read is in the fingerprint."""
    built, custom = both
    assert custom.counts() == {
        'users': 19412,
        'items': 11924,
        'interactions': 167597,
        'attributes': 1027,
    }
    assert custom.counts() == built.counts()
    assert custom.fingerprint == built.fingerprint
