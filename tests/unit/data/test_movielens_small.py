"""The MovieLens that comes with the package."""

import pytest

import emkd_jax as emkd
from emkd_jax.errors import UserError
from tests.support.custom_data import prepared_in


def test_it_is_the_five_core_with_titles_and_genres(tmp_path):
    with prepared_in(tmp_path):
        data = emkd.load_dataset('movielens')
    assert data.name == 'movielens'
    counts = data.counts()
    assert (counts['users'], counts['items']) == (671, 3496)
    assert data.histories.lengths.min() >= 5
    assert counts['attributes'] == 19
    assert data.titles[list(data.item_ids).index(1)] == 'Toy Story'
    assert data.times is not None


def test_it_takes_no_source_and_no_stand_in():
    with pytest.raises(UserError, match='comes with the package; leave data.source'):
        emkd.load_dataset('movielens', source='folder')
    with pytest.raises(UserError, match='comes with the package; leave data.source'):
        emkd.load_dataset('movielens', stand_in=True)
