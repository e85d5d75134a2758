"""The readers of the authors' files take what was released and refuse all else."""

import io
import json
import os
import pickle
import random
import re
import tempfile

import numpy as np
import pytest

from emkd_jax.data import files
from emkd_jax.errors import UserError
from tests.support.released_files import make_attributes, make_parts, write_miniature


@pytest.fixture
def pickle_file(tmp_path):
    """Writes bytes, or an object's pickle, to a file, and reads it as histories."""

    def read(content):
        path = tmp_path / 'dataset.pkl'
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return files.read_histories(path)

    return read


@pytest.fixture
def json_file(tmp_path):
    """Writes bytes, or an object's JSON, to a file, and reads it as attributes of 30 items."""

    def read(content):
        path = tmp_path / 'item2attributes.json'
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return files.read_attributes(path, 30)

    return read


def check_refused(read, content, words):
    """One sentence, with the file's name and the given words."""
    with pytest.raises(UserError, match=words) as caught:
        read(content)
    message = str(caught.value)
    assert message.isprintable() and message.endswith('.')
    assert re.search(r'/(dataset\.pkl|item2attributes\.json)\b', message)
    assert len(message) < 400 + len(tempfile.gettempdir())


@pytest.mark.parametrize('listed', [False, True])
def test_histories_and_ids_are_read(pickle_file, listed):
    parts = make_parts(listed=listed)
    read = pickle_file(parts)
    for user in range(12):
        expected = parts['train'][user] + parts['val'][user] + parts['test'][user]
        assert read.histories[user].tolist() == expected
        assert parts['umap'][read.user_ids[user]] == user
    for item in range(1, 31):
        assert parts['smap'][read.item_ids[item - 1]] in (item, [item])


def test_attributes_are_read_without_repeats_and_item_0(json_file):
    lists = make_attributes() | {'0': [5]}
    table = json_file(lists)
    assert table.shape == (31, 2)
    assert table[0].tolist() == [0, -1]
    assert table[3].tolist() == [9, 4]
    assert table[4].tolist() == lists['4']


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_a_pickle_cannot_run_code(pickle_file, tmp_path):
    target = tmp_path / 'touched'
    content = pickle.dumps(make_parts() | {'train': _Touch(str(target))})
    check_refused(pickle_file, content, 'which plain containers and integers do not need')
    assert not target.exists()
    # The second line of defence, should an opcode slip through the first.
    with pytest.raises(pickle.UnpicklingError, match='open'):
        files._PlainUnpickler(io.BytesIO(content)).load()


@pytest.mark.parametrize(
    'thing', [np.arange(3), {1, 2}, 1.5, b'x', (1,), print, frozenset(), None, True]
)
def test_other_things_in_a_pickle_are_refused(pickle_file, thing):
    check_refused(pickle_file, make_parts() | {'more': thing}, 'do not need')


def test_a_pickle_cannot_eat_memory(pickle_file):
    check_refused(pickle_file, b'\x80\x04]r\xff\xff\xff\x7f.', 'LONG_BINPUT')
    check_refused(pickle_file, b'\x80\x05\x96' + b'\xff' * 7 + b'\x00.', 'whole pickle')
    shared = list(range(1, 31)) * 1000
    parts = make_parts(users=3000)
    parts['train'] = dict.fromkeys(parts['train'], shared)
    check_refused(pickle_file, parts, 'more items than its file bytes')


def test_broken_pickles_are_refused(pickle_file):
    whole = pickle.dumps(make_parts())
    for content in (b'', whole[: len(whole) // 2], whole[:-1], b'version https://git-lfs', b'<!'):
        check_refused(pickle_file, content, 'whole pickle')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'train': []}, 'dictionaries'),
        ({'umap': {}}, 'umap does not number'),
        ({'umap': {1: 0, 2: 0}}, 'umap does not number'),
        ({'umap': {'a': 0}}, 'umap has an id'),
        ({'umap': {2**63: 0}}, 'umap has an id'),
        ({'smap': {5: 2}}, 'smap does not number'),
        ({'smap': {5: [1, 2]}}, 'smap does not number'),
        ({'smap': {5: '1'}}, 'smap does not number'),
        ({'train': {0: [1]}}, 'train does not have exactly the users'),
        ({'val': {user: [1] for user in range(1, 13)}}, 'val does not have exactly the users'),
        ({'test': {user: [] for user in range(12)}}, 'test has a user without'),
        ({'test': dict.fromkeys(range(12), 3)}, 'test has a user without'),
        ({'test': {user: [1, 2] for user in range(12)}}, 'test has more items than users'),
        ({'test': {user: [31] for user in range(12)}}, 'an item is not in 1..30'),
        ({'test': {user: [0] for user in range(12)}}, 'an item is not in 1..30'),
        ({'test': {user: [10**30] for user in range(12)}}, 'an item is not in 1..30'),
        ({'test': {user: ['1'] for user in range(12)}}, 'an item is not in 1..30'),
        ({'test': {user: [[1]] for user in range(12)}}, 'an item is not in 1..30'),
    ],
)
def test_wrong_histories_are_refused(pickle_file, changes, words):
    check_refused(pickle_file, make_parts() | changes, words)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'not JSON'),
        (b'{"1": [1]', 'not JSON'),
        (b'\xff\xfe\xfa', 'not JSON'),
        (b'[' * 100_000, 'not JSON'),
        (b'{"1": [' + b'9' * 5000 + b']}', 'not JSON'),
        ([], 'filled JSON object'),
        ({}, 'filled JSON object'),
        ({'31': [1]}, "'31' is not an item"),
        ({'01': [1]}, "'01' is not an item"),
        ({'x' * 1000: [1]}, 'is not an item'),
        (b'{"\\ud800": [1]}', 'is not an item'),
        (b'{"\\u0663": [1]}', 'is not an item'),  # a digit elsewhere
        (b'{"\\u00b2": [1]}', 'is not an item'),
        ({'1': 1}, 'item 1 are not a list'),
        ({'1': {'1': 1}}, 'item 1 are not a list'),
        ({'1': [0]}, 'not a list of numbers from 1'),
        ({'1': [1.0]}, 'not a list of numbers from 1'),
        ({'1': [True]}, 'not a list of numbers from 1'),
        ({'1': [2**40]}, 'not a list of numbers from 1'),
        (b'{"1": [NaN]}', 'not a list of numbers from 1'),
        ({'1': [1, 2, 4]}, 'not numbered 1, 2, 3'),
    ],
)
def test_wrong_attributes_are_refused(json_file, content, words):
    check_refused(json_file, content, words)


def test_attributes_cannot_eat_memory(tmp_path):
    path = tmp_path / 'item2attributes.json'
    path.write_text(json.dumps({'1': list(range(1, 2001))}))
    check_refused(lambda path: files.read_attributes(path, 10**6), path, 'has 2000 attributes')


def test_every_mutation_is_read_or_refused_in_a_sentence(pickle_file, json_file):
    source = random.Random(0)
    for read, content in (
        (pickle_file, pickle.dumps(make_parts())),
        (json_file, json.dumps(make_attributes()).encode()),
    ):
        refused = 0
        for _ in range(300):
            mutated = bytearray(content)
            for _ in range(source.choice([1, 1, 3, 10])):
                place = source.randrange(len(mutated))
                how = source.randrange(4)
                if how == 0:
                    mutated[place] = source.randrange(256)
                elif how == 1:
                    del mutated[place : place + source.choice([1, 4, 400])]
                elif how == 2:
                    mutated[place:place] = source.randbytes(source.choice([1, 4]))
                else:
                    mutated[place] ^= 1 << source.randrange(8)
                mutated = mutated or bytearray(b'.')
            try:
                read(bytes(mutated))
            except UserError as error:
                assert str(error).isprintable()
                refused += 1
        assert refused > 100


def _grow(path):
    path.touch()
    os.truncate(path, files.MOST_BYTES + 1)


@pytest.mark.parametrize(
    ('put', 'words'),
    [
        (lambda path: path.write_bytes(b'other'), 'not the file that the authors released'),
        (lambda path: None, 'no file .*dataset.pkl; data.source must be a folder'),
        (lambda path: path.mkdir(), 'no file .*dataset.pkl; data.source must be a folder'),
        (os.mkfifo, 'no file'),
        (_grow, 'more than .* bytes'),
    ],
)
def test_a_release_is_verified(tmp_path, put, words):
    release = write_miniature(tmp_path, 'toys')
    files.verify(release, tmp_path)
    path = tmp_path / release.histories.path
    path.unlink()
    put(path)
    with pytest.raises(UserError, match=words):
        files.verify(release, tmp_path)
