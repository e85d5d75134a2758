"""Data sets by name: downloaded, prepared by TFDS, or made up."""

import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading

import ml_collections
import pytest
import tensorflow_datasets as tfds

from emkd_jax import data
from emkd_jax.data import prepared, released, stand_in
from emkd_jax.data.builders import EmkdToys
from emkd_jax.data.splits import leave_one_out
from emkd_jax.data.windows import windows
from emkd_jax.errors import UserError
from tests.support import ROOT
from tests.support.released_files import make_attributes, make_parts, write_miniature

pristine_repository = released._REPOSITORY  # before any test replaces it

# Numbers of users, items, interactions, attributes and windows; length and step of the windows.
RELEASED = {
    'toys': ((19_412, 11_924, 167_597, 1_027, 31_506), 20, 1),
    'beauty': ((22_363, 12_101, 198_502, 637, 43_793), 15, 1),
    'ml_1m': ((6_040, 3_706, 1_000_209, 18, 84_548), 40, 10),
}


def make_options(name='toys', source='', stand_in=False):
    return ml_collections.ConfigDict(
        {'name': name, 'source': str(source), 'stand_in': stand_in, 'window_step': 1}
    )


@pytest.fixture(autouse=True)
def tfds_folder(tmp_path, monkeypatch):
    """A TFDS data folder for this test alone; GitHub cannot be reached."""
    folder = tmp_path / 'tfds'
    monkeypatch.setenv('TFDS_DATA_DIR', str(folder))
    monkeypatch.setattr(released, '_REPOSITORY', 'http://127.0.0.1:9/')  # nobody listens there
    return folder


@pytest.fixture(params=sorted(RELEASED))
def miniature(request, tmp_path, monkeypatch):
    """(name, source folder) of a miniature that passes for the released set."""
    name, source = request.param, tmp_path / 'source'
    monkeypatch.setitem(released.RELEASES, name, write_miniature(source, name))
    return name, source


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The source folder of a miniature that passes for toys."""
    source = tmp_path / 'source'
    monkeypatch.setitem(released.RELEASES, 'toys', write_miniature(source, 'toys'))
    return source


def check_miniature(loaded, name):
    parts = make_parts(listed=name == 'ml_1m')
    assert (loaded.name, loaded.stand_in) == (name, False)
    assert loaded.counts()['users'] == len(loaded.user_ids) == 12
    assert loaded.num_items == len(loaded.item_ids) == 30
    assert loaded.num_attributes == 9
    for user in range(12):
        whole = parts['train'][user] + parts['val'][user] + parts['test'][user]
        assert loaded.histories[user].tolist() == whole
        assert parts['umap'][loaded.user_ids[user]] == user
    for item in range(1, 31):
        assert parts['smap'][loaded.item_ids[item - 1]] in (item, [item])
        listed = loaded.item_attributes[item]
        assert sorted(listed[listed >= 0]) == sorted(set(make_attributes()[str(item)]))
    assert loaded.item_attributes[0].tolist() == [0, -1]


def test_files_become_data(miniature):
    name, source = miniature
    loaded = data.load(make_options(name, source))
    check_miniature(loaded, name)
    again = data.load(make_options(name))  # prepared by now; there is no network
    assert again.fingerprint == loaded.fingerprint


def test_prepared_data_is_there_for_tfds_too(toys, tfds_folder):
    data.prepare(make_options(source=toys))
    items = tfds.data_source('emkd_toys/items', split='items', data_dir=tfds_folder)
    assert [item['attributes'].tolist() for item in items][2:5] == [[9, 4], [5, 7], [2]]
    users = tfds.data_source('emkd_toys/histories', split='users', data_dir=tfds_folder)
    assert [user['user_id'] for user in users] == list(range(100, 112))


@pytest.mark.parametrize('name', sorted(RELEASED))
def test_released_counts(real_data, name):
    expected, max_len, step = RELEASED[name]
    loaded = data.load(make_options(name, real_data))
    split = leave_one_out(loaded)
    cut = windows(split.train, max_len, step)
    assert (*loaded.counts().values(), len(cut)) == expected
    with (real_data / released.RELEASES[name].histories.path).open('rb') as file:
        parts = pickle.load(file)
    for user in range(len(split.train)):
        assert split.train[user].tolist() == parts['train'][user]
    assert split.validation.targets.tolist() == [row[0] for row in parts['val'].values()]
    assert split.test.targets.tolist() == [row[0] for row in parts['test'].values()]


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder; it logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture
def github(tmp_path, monkeypatch):
    """A folder that is served in place of the authors' repository."""
    folder = tmp_path / 'github'
    handler = functools.partial(_Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_address[1]}/'
        monkeypatch.setattr(released, '_REPOSITORY', address)
        yield folder
        server.shutdown()


def test_the_released_files_are_downloaded_once(toys, github, tfds_folder):
    toys.rename(github)
    folder = data.prepare(make_options())
    assert folder == tfds_folder / 'emkd_toys'
    for path in github.rglob('*.*'):
        path.write_text('another file')
    check_miniature(data.load(make_options()), 'toys')


def test_the_repository_is_that_of_the_authors():
    assert pristine_repository == (
        'https://raw.githubusercontent.com/hw-du/EMKD/984d46cffe8298dc9f55e808ee949f371229ecfe/'
    )


@pytest.mark.parametrize(
    ('answer', 'reason'),
    [
        ('none', 'Connection refused'),
        ('not found', '404 Client Error'),
        ('a login page', 'does not match the known hash'),
    ],
)
def test_no_data_names_a_command_that_works_and_the_ways_out(
    toys, request, tfds_folder, answer, reason
):
    if answer != 'none':
        folder = request.getfixturevalue('github')
        for file in released.RELEASES['toys'] if answer == 'a login page' else ():
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.path).write_text('<html>Log in</html>')
    with pytest.raises(UserError) as caught:
        data.load(make_options())
    (line,) = str(caught.value).splitlines()
    assert reason in line
    assert '`emkd-jax --config=movielens` works here at once, on real data.' in line
    for way in ('--config.data.source=', '--mode=prepare', 'TFDS_DATA_DIR', 'data.stand_in=True'):
        assert way in line
    assert not tfds_folder.exists()


def test_a_source_is_never_ignored(toys):
    loaded = data.load(make_options(source=toys))
    path = toys / released.RELEASES['toys'].attributes.path
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(UserError, match='not the file that the authors released'):
        data.load(make_options(source=toys))
    with pytest.raises(UserError, match='There is no file'):
        data.load(make_options(source=toys / 'nowhere'))
    assert data.load(make_options()).fingerprint == loaded.fingerprint


def test_a_folder_that_cannot_be_written_is_named(toys, tfds_folder):
    tfds_folder.write_text('not a folder')
    with pytest.raises(UserError, match=r'cannot be written to .*; set TFDS_DATA_DIR'):
        data.load(make_options(source=toys))


def test_a_remote_tfds_folder_is_refused(toys, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', 'gs://bucket/tfds')
    with pytest.raises(UserError, match='TFDS_DATA_DIR is gs://bucket/tfds'):
        data.load(make_options(source=toys))


def test_damaged_prepared_data_is_named(toys, tfds_folder):
    data.load(make_options(source=toys))
    (records,) = tfds_folder.glob('emkd_toys/histories/1.0.0/*.array_record*')
    whole = records.read_bytes()
    for damaged in (whole[: len(whole) // 2], b'', bytes(byte ^ 1 for byte in whole)):
        records.write_bytes(damaged)
        with pytest.raises(UserError, match='emkd_toys cannot be read; delete that folder'):
            data.load(make_options())
    records.write_bytes(whole)
    data.load(make_options())
    info = records.parent / 'dataset_info.json'
    info.write_bytes(info.read_bytes()[:50])
    with pytest.raises(UserError, match='emkd_toys cannot be read; delete that folder'):
        data.load(make_options())


def test_another_process_may_prepare_at_the_same_time(toys, monkeypatch):
    builder = EmkdToys
    generate = builder._generate_examples
    inner = []

    def race(self, folder):
        if self.builder_config.name not in inner:
            inner.append(self.builder_config.name)
            data.prepare(make_options(source=toys))
        yield from generate(self, folder)

    monkeypatch.setattr(builder, '_generate_examples', race)
    check_miniature(data.load(make_options(source=toys)), 'toys')
    assert inner == ['histories', 'items']


# Loads a miniature in place of toys; if told to, it dies after some examples of a config.
_CHILD = """
import os, pathlib, sys
import ml_collections
from tests.support.released_files import write_miniature
from emkd_jax import data
from emkd_jax.data import released, stand_in
from emkd_jax.data.builders import EmkdToys as builder

source, die_in = sys.argv[1:]
released.RELEASES['toys'] = write_miniature(pathlib.Path(source), 'toys')
generate = builder._generate_examples
def mortal(self, folder):
    for count, example in enumerate(generate(self, folder)):
        if self.builder_config.name == die_in and count == 5:
            os._exit(9)
        yield example
builder._generate_examples = mortal
options = ml_collections.ConfigDict({'name': 'toys', 'source': source, 'stand_in': False})
print(data.load(options).fingerprint, stand_in.make('quickstart').fingerprint)
"""


def run_child(source, die_in, *path):
    path = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run(
        [sys.executable, '-c', _CHILD, str(source), die_in],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': path, 'PYTHONHASHSEED': '7'},
        check=False,
    )


def test_a_killed_prepare_leaves_nothing_that_looks_prepared(toys):
    for die_in in ('histories', 'items'):
        assert run_child(toys, die_in).returncode == 9
        assert not prepared.is_prepared('toys')
    check_miniature(data.load(make_options(source=toys)), 'toys')


def test_tensorflow_stays_out_and_fingerprints_are_the_same_in_every_process(toys, tmp_path):
    (tmp_path / 'tensorflow.py').write_text('raise SystemExit("TensorFlow was imported")')
    child = run_child(toys, '', tmp_path)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [
        data.load(make_options()).fingerprint,
        stand_in.make('quickstart').fingerprint,
    ]


@pytest.mark.parametrize('is_prepared', [False, True])
def test_a_stand_in_is_made_up_whatever_lies_on_this_machine(toys, is_prepared):
    if is_prepared:
        data.prepare(make_options(source=toys))
    made_up = data.load(make_options(stand_in=True))
    assert (made_up.name, made_up.stand_in) == ('toys_stand_in', True)
    assert made_up.fingerprint == data.load_dataset('toys', stand_in=True).fingerprint
    if is_prepared:
        assert not data.load_dataset('toys').stand_in
    else:
        with pytest.raises(UserError, match='cannot be downloaded'):  # and nothing is made up
            data.load_dataset('toys')


def test_a_stand_in_contradicts_a_source(toys):
    for action in (data.load, data.prepare):
        with pytest.raises(UserError, match=r'data.stand_in=True .* set only one of them'):
            action(make_options(source=toys, stand_in=True))
    with pytest.raises(UserError, match=r'data.name=custom has no made-up stand-in'):
        data.load(make_options('custom', stand_in=True))


def test_a_data_set_is_loaded_by_name(toys):
    check_miniature(data.load_dataset('toys', source=toys), 'toys')
    check_miniature(data.load_dataset('toys'), 'toys')  # prepared by now


def test_quickstart_is_always_made_up(tmp_path):
    for made_up in (False, True):
        assert data.load_dataset('quickstart', stand_in=made_up).name == 'quickstart_stand_in'
    with pytest.raises(UserError, match=r'data.name=quickstart is always made up'):
        data.load(make_options('quickstart', source=tmp_path))
    for options in (make_options('quickstart'), make_options('toys', stand_in=True)):
        with pytest.raises(UserError, match='nothing to prepare'):
            data.prepare(options)


def test_importing_the_data_package_imports_no_library_that_reads_files():
    libraries = ('tensorflow_datasets', 'pooch', 'duckdb', 'pyarrow', 'jax')
    code = f'import sys; import emkd_jax.data; print([m for m in {libraries} if m in sys.modules])'
    child = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        check=True,
    )
    assert child.stdout.strip() == '[]'


def test_an_unknown_set_is_refused():
    for action in (data.load, data.prepare):
        with pytest.raises(UserError, match=r"data.name is 'toy'; use one of toys, beauty, ml_1m"):
            action(make_options('toy'))
