"""The released files are verified, and read without running anything in them."""

import json
import os
import pickle

import pytest

from emkd_jax.data import released
from emkd_jax.errors import UserError
from tests.support.released_files import make_attributes, make_parts, write_miniature


@pytest.mark.parametrize('listed', [False, True])
def test_histories_and_ids_are_read(listed):
    parts = make_parts(listed=listed)
    read = released.read_histories(pickle.dumps(parts))
    for user in range(12):
        expected = parts['train'][user] + parts['val'][user] + parts['test'][user]
        assert read.histories[user].tolist() == expected
        assert parts['umap'][read.user_ids[user]] == user
    for item in range(1, 31):
        assert parts['smap'][read.item_ids[item - 1]] in (item, [item])


def test_attributes_are_read_without_repeats_and_item_0():
    lists = make_attributes() | {'0': [5]}
    attributes = released.read_attributes(json.dumps(lists).encode(), 31)
    assert len(attributes) == 31
    assert attributes[2] == [9, 4]
    assert attributes[3] == lists['4']
    assert attributes[30] == []  # the file does not name this item


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_a_pickle_cannot_run_code(tmp_path):
    target = tmp_path / 'touched'
    content = pickle.dumps(make_parts() | {'train': _Touch(str(target))})
    with pytest.raises(pickle.UnpicklingError, match=r'the pickle names .*open'):
        released.read_histories(content)
    assert not target.exists()


@pytest.mark.parametrize(
    ('put', 'words'),
    [
        (lambda path: path.write_bytes(b'other'), 'not the file that the authors released'),
        (lambda path: None, 'no file .*dataset.pkl; data.source must be a folder'),
        (lambda path: path.mkdir(), 'no file .*dataset.pkl; data.source must be a folder'),
        (os.mkfifo, 'no file'),
    ],
)
def test_a_released_file_is_verified(tmp_path, put, words):
    release = write_miniature(tmp_path, 'toys')
    assert pickle.loads(released.read_verified(release.histories, tmp_path)) == make_parts()
    path = tmp_path / release.histories.path
    path.unlink()
    put(path)
    with pytest.raises(UserError, match=words):
        released.read_verified(release.histories, tmp_path)
