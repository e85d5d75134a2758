"""The exported files: the same scores as here, on every platform, without this project's code."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.config.options import EVENT_LOG_OPTIONS, OPTIONS
from emkd_jax.errors import UserError
from emkd_jax.serving import export as mode
from emkd_jax.serving.export import export
from emkd_jax.serving.model import PATH_OPTIONS
from emkd_jax.serving.weights import load_weights
from tests.support import ROOT
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_experiment

EXAMPLE = ROOT / 'examples' / 'use_export.py'
# What a machine needs to use an exported folder.
ALONE = ('jax', 'jaxlib', 'numpy', 'numpy.libs', 'ml_dtypes', 'opt_einsum', 'scipy', 'scipy.libs')
ALONE += ('flatbuffers',)


@pytest.fixture
def trained(trained):
    """As in the other tests, with ids that are not the numbers of the items."""
    experiment, params = trained
    data = dataclasses.replace(experiment.data, item_ids=100 + np.arange(NUM_ITEMS)[::-1])
    return dataclasses.replace(experiment, data=data), params


@pytest.fixture
def run(make_run):
    """run(output, **options) exports the made-up run."""

    def run(output='', results=None, **options):
        export(make_run(results=results, **options), str(output))

    return run


def scores(trained, histories):
    experiment, params = trained
    slots = experiment.config.model.max_len
    rows = [[*history, NUM_ITEMS + 1][-slots:] for history in histories]
    items = jnp.array([[0] * (slots - len(row)) + row for row in rows], jnp.int32)
    ensemble = experiment.ensemble
    logits = jax.jit(
        lambda params, items: ensemble.item_logits(params, ensemble.hidden(params, items)[:, :, -1])
    )(params, items)
    return np.asarray(logits).sum(0)[:, 1:]


def left_padded(histories, slots):
    return np.array(
        [[0] * (slots - len(history)) + list(history)[-slots:] for history in histories], np.int32
    )


def recommend_alone(tmp_path, history):
    """The example, in an interpreter that finds jax, what jax needs, flatbuffers and no more."""
    site = tmp_path / 'site'
    site.mkdir()
    for name in ALONE:
        found = [folder for folder in map(pathlib.Path, sys.path) if (folder / name).is_dir()]
        if found:
            (site / name).symlink_to(found[0] / name)
    script = (
        f'import sys; sys.path.append({str(site)!r})\n'
        f'sys.argv = ["", {str(tmp_path / "export")!r}, *{history!r}]\n'
        f'exec(open({str(EXAMPLE)!r}).read())\n'
        'assert not any(name.startswith(("emkd", "flax")) for name in sys.modules)\n'
    )
    return subprocess.run(
        [sys.executable, '-I', '-S', '-c', script],
        capture_output=True,
        text=True,
        check=False,
        env={'JAX_PLATFORMS': 'cpu'},
    )


def test_scores_for_any_batch(trained, run, tmp_path):
    run(results={'test': {'window': {'HR@10': 0.5}}})
    folder = tmp_path / 'export'
    card = json.loads((folder / 'card.json').read_text())
    exported = jax.export.deserialize(bytearray((folder / 'model.stablehlo').read_bytes()))
    assert b'emkd_jax' not in (folder / 'model.stablehlo').read_bytes()
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    for histories in ([[3]], [[3], [], [1, 2], list(range(1, 20))]):
        found = exported.call(left_padded(histories, card['slots']))
        np.testing.assert_allclose(found, scores(trained, histories), rtol=1e-4, atol=1e-5)
    assert card['test'] == {'window': {'HR@10': 0.5}} and card['epoch'] == 4
    assert card['data']['items'] == NUM_ITEMS and not card['data']['stand_in']
    assert card['config']['model']['max_len'] == 8
    items = json.loads((folder / 'items.json').read_text())
    assert items == {'items': trained[0].data.item_ids.tolist(), 'titles': []}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []


def test_the_example_recommends_with_jax_alone(trained, run, tmp_path):
    """In an interpreter that finds jax, what jax needs, flatbuffers, and nothing else."""
    run()
    done = recommend_alone(tmp_path, ['101', 'no such item', '103'])
    assert done.returncode == 0, done.stderr
    ids = trained[0].data.item_ids.tolist()
    expected = scores(trained, [[ids.index(101) + 1, ids.index(103) + 1]])[0]
    ranked = [item for item in np.argsort(-expected) if ids[item] not in (101, 103)]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(name) for name, _ in lines] == [ids[item] for item in ranked[:10]]
    np.testing.assert_allclose(
        [float(score) for _, score in lines], expected[ranked[:10]], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize('weights', ['safetensors', 'npz'])
def test_weights_by_name(trained, run, tmp_path, weights):
    run(export__weights=weights)
    loaded = load_weights(str(tmp_path / 'export' / f'weights.{weights}'))
    same = jax.tree.map(np.array_equal, loaded, trained[1])
    assert all(jax.tree.leaves(same))


def test_what_goes_wrong_is_told(run, tmp_path, monkeypatch):
    (tmp_path / 'there').mkdir()
    with pytest.raises(UserError, match='there is already there; name another'):
        run(tmp_path / 'there')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot be written .* name another folder with --output'):
        run(tmp_path / 'file' / 'export')
    monkeypatch.setattr(mode, '_MOST_BYTES', 1000)
    with pytest.raises(UserError, match='one exported file holds 2'):
        run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'there']


def test_nothing_names_a_path_of_this_machine(run, tmp_path):
    """Neither the options nor the source files."""
    paths = {name.replace('.', '__'): f'/home/somebody/{name}' for name in PATH_OPTIONS}
    del paths['data__attributes']  # an option of event logs alone
    run(**paths)
    for file in (tmp_path / 'export').iterdir():
        assert b'/home/somebody' not in file.read_bytes() and b'emkd_jax/' not in file.read_bytes()


def test_every_option_that_holds_a_path_is_known():
    """What names a file or a folder is left out of what is given to others."""
    for name, option in (OPTIONS | EVENT_LOG_OPTIONS).items():
        if option.meaning.startswith(('File', 'Folder', 'Workdir')):
            assert name in PATH_OPTIONS


def test_exporting_changes_no_setting_of_jax(run):
    name = 'jax_traceback_in_locations_limit'
    before = getattr(jax.config, name)
    run()
    assert getattr(jax.config, name) == before != 0


def test_a_model_that_sees_no_history_is_exported(trained, make_run, tmp_path):
    """With model.max_len=1 the input has no slots, whatever the history is."""
    experiment = tiny_experiment(tiny_config(model__num_blocks=1, model__max_len=1))
    params = jax.jit(experiment.ensemble.init)(jax.random.key(3))
    run = make_run()
    run = dataclasses.replace(run, config=experiment.config, experiment=experiment)
    run.__dict__['_best'] = jax.device_get(params), {'best': {'epoch': 1, 'step': 9}}
    run.__dict__['results'] = {}
    export(run)
    done = recommend_alone(tmp_path, ['1', '3'])
    assert done.returncode == 0, done.stderr
    items = [int(line.split()[0]) for line in done.stdout.splitlines()]
    expected = np.argsort(-scores((experiment, params), [[]])[0]) + 1
    assert items == [item for item in expected if item not in (1, 3)][:10]
