"""Prepared data sets on disk, and files and folders that are written whole or not at all."""

import dataclasses
import json
import os
import time

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath import backend

from emkd_jax.data import atomic
from emkd_jax.data.cache import holds_dataset, read_dataset, save_dataset
from emkd_jax.data.dataset import Dataset, Ragged
from emkd_jax.data.splits import leave_one_out
from emkd_jax.errors import UserError


def make_dataset(**changes) -> Dataset:
    return Dataset(
        **{
            'name': 'shop',
            'histories': Ragged.from_rows([[1, 2, 1], [2], [2, 1, 1, 2]]),
            'item_attributes': np.array([[0, -1], [1, 2], [2, -1]], np.int32),
            'num_items': 2,
            'num_attributes': 2,
            'user_ids': np.array(['ann', 'bob', 'cy']),
            'item_ids': np.array([70, 50]),
        }
        | changes
    )


@pytest.fixture
def store(monkeypatch):
    """The address of a folder in an object store, which this process keeps in memory."""
    memory = fsspec.filesystem('memory')
    _empty(memory)
    systems = {True: _WithoutScheme(memory), False: fsspec.filesystem('file')}
    monkeypatch.setattr(backend.fsspec_backend, 'fs', lambda path: systems['://' in str(path)])
    yield epath.Path('gs://bucket/run')
    _empty(memory)


def _empty(memory):
    memory.store.clear()
    memory.pseudo_dirs[:] = ['']


class _WithoutScheme:
    """Passes calls on to a file system, with `gs://` cut off from paths."""

    def __init__(self, system):
        self.system = system

    def __getattr__(self, name):
        function = getattr(self.system, name)
        cut = lambda value: value.removeprefix('gs:/') if isinstance(value, str) else value
        return lambda *args, **named: function(*map(cut, args), **named)


def _split_data():
    data = make_dataset()
    return make_dataset(split=leave_one_out(data))


@pytest.mark.parametrize('remote', [False, True])
@pytest.mark.parametrize(
    'data',
    [
        make_dataset(),
        _split_data(),
        make_dataset(
            titles=('Café', ''), notes='2 lines left out', stand_in=True, times=np.arange(8)
        ),
    ],
)
def test_a_saved_data_set_is_read_as_it_was(tmp_path, store, data, remote):
    folder = (store if remote else tmp_path) / 'new' / 'data'
    assert not holds_dataset(folder)
    save_dataset(data, folder)
    assert holds_dataset(folder)
    for _ in range(2):
        read = read_dataset(folder)
        assert read.fingerprint == data.fingerprint
        for name in ('name', 'stand_in', 'titles', 'notes'):
            assert getattr(read, name) == getattr(data, name)
        assert (read.times is None) == (data.times is None)
        np.testing.assert_equal(read.times, data.times)
        assert leave_one_out(read).test.targets.tolist() == [1, 2]
        save_dataset(read, folder)  # onto itself, although its arrays are mapped from there


def test_prepared_data_is_mapped_and_not_read(tmp_path):
    save_dataset(make_dataset(), tmp_path)
    assert isinstance(read_dataset(tmp_path).histories.values, np.memmap)


@pytest.mark.parametrize('name', ['histories_values.npy', 'titles.json', 'dataset.json'])
@pytest.mark.parametrize('how', ['missing', 'cut', 'empty', 'other'])
def test_damaged_prepared_data_is_one_sentence(tmp_path, name, how):
    save_dataset(make_dataset(titles=('a', 'b')), tmp_path)
    path = tmp_path / name
    if how == 'missing':
        path.unlink()
    elif how == 'other' and path.suffix == '.npy':
        np.save(path, np.zeros(3, np.int32))
    else:
        whole = path.read_bytes()
        path.write_bytes({'cut': whole[: len(whole) // 2], 'empty': b'', 'other': b'[1]'}[how])
    with pytest.raises(UserError) as caught:
        read_dataset(tmp_path)
    message = str(caught.value)
    assert message.startswith(('The prepared data in', f'{tmp_path} holds no')), message
    assert str(tmp_path) in message and '\n' not in message


def test_a_data_set_that_was_not_saved_whole_is_none(tmp_path, monkeypatch):
    save_dataset(make_dataset(), tmp_path)

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'save', full)
    with pytest.raises(OSError, match='No space'):
        save_dataset(make_dataset(num_items=2, name='other'), tmp_path)
    assert not holds_dataset(tmp_path)
    with pytest.raises(UserError, match=r'holds no prepared data set: dataset.json is missing'):
        read_dataset(tmp_path)


def test_fingerprints_are_computed_once(monkeypatch):
    data = make_dataset()
    value = data.fingerprint
    monkeypatch.setattr('hashlib.sha256', None)  # a second computation would fail
    assert data.fingerprint == value
    monkeypatch.undo()
    assert dataclasses.replace(data, user_ids=np.arange(3)).fingerprint != value
    assert dataclasses.replace(data, titles=('a', 'b'), notes='x').fingerprint == value


@pytest.mark.parametrize('remote', [False, True])
def test_a_file_is_replaced_when_the_block_ends_and_not_if_it_raises(tmp_path, store, remote):
    folder = store if remote else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'table.csv'
    for content in ('first', 'second'):
        with atomic.atomic_file(path) as partial:
            assert partial.suffix == '.csv'
            partial.write_text(content)
    with pytest.raises(ZeroDivisionError), atomic.atomic_file(path) as partial:
        partial.write_text('third')
        _ = 1 / 0
    assert path.read_text() == 'second'
    assert [file.name for file in folder.iterdir()] == ['table.csv']
    atomic.write_json(folder / 'x.json', {'a': [1]})
    assert json.loads((folder / 'x.json').read_text()) == {'a': [1]}


@pytest.mark.parametrize('remote', [False, True])
def test_a_folder_is_there_when_the_block_ends_and_not_if_it_raises(tmp_path, store, remote):
    folder = (store if remote else tmp_path) / 'a' / 'b'
    with pytest.raises(ZeroDivisionError), atomic.atomic_folder(folder) as partial:
        (partial / 'inner').mkdir()
        _ = 1 / 0
    assert not folder.exists()
    with atomic.atomic_folder(folder) as partial:
        (partial / 'inner').mkdir()
        (partial / 'inner' / 'file').write_text('x')
    assert [path.name for path in folder.parent.iterdir()] == ['b']
    with pytest.raises(FileExistsError), atomic.atomic_folder(folder) as partial:
        (partial / 'file').write_text('y')
    with atomic.atomic_folder(folder, exist_ok=True) as partial:
        (partial / 'file').write_text('y')
    assert [path.name for path in folder.iterdir()] == ['inner']
    assert (folder / 'inner' / 'file').read_text() == 'x'


def test_partial_folders_of_killed_processes_are_removed_after_a_day(tmp_path):
    for name, age in (('old', 25 * 3600), ('young', 3600)):
        folder = tmp_path / f'.partial-{name}'
        (folder / 'inner').mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    with atomic.atomic_folder(tmp_path / 'new') as partial:
        (partial / 'file').write_text('x')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.partial-young', 'new']
