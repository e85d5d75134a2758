"""The exported files: the same scores as here, on every platform, without this project's code."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.errors import UserError
from emkd_jax.serving import export as mode
from emkd_jax.serving.weights import load_weights
from tests.support import ROOT
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_experiment

EXAMPLE = ROOT / 'examples' / 'use_export.py'
# What a machine needs to use an exported folder.
ALONE = ('jax', 'jaxlib', 'numpy', 'numpy.libs', 'ml_dtypes', 'opt_einsum', 'scipy', 'scipy.libs')
ALONE += ('flatbuffers',)


@pytest.fixture(scope='module')
def trained():
    experiment = tiny_experiment(tiny_config(model__num_blocks=1))
    experiment.data.item_ids[:] = 100 + np.arange(NUM_ITEMS)[::-1]
    params = jax.jit(experiment.ensemble.init)(jax.random.key(3))
    return experiment, jax.device_get(params)


@pytest.fixture
def run(trained, monkeypatch):
    """run(workdir, **options) exports the made-up run."""
    experiment, params = trained
    monkeypatch.setattr(mode, 'make_experiment', lambda config: experiment)
    monkeypatch.setattr(
        mode, 'best_params', lambda *rest: (params, {'best': {'epoch': 4, 'step': 9}})
    )

    def run(workdir, output='', **options):
        config = tiny_config(model__num_blocks=1)
        config.export.update(options)
        mode.export(config, str(workdir), str(output))

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


def test_scores_for_any_batch(trained, run, tmp_path):
    (tmp_path / 'results.json').write_text('{"test": {"window": {"HR@10": 0.5}}}')
    run(tmp_path)
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
    run(tmp_path)
    site = tmp_path / 'site'
    site.mkdir()
    for name in ALONE:
        found = [folder for folder in map(pathlib.Path, sys.path) if (folder / name).is_dir()]
        if found:
            (site / name).symlink_to(found[0] / name)
    script = (
        f'import sys; sys.path.append({str(site)!r})\n'
        f'sys.argv = ["", {str(tmp_path / "export")!r}, "101", "no such item", "103"]\n'
        f'exec(open({str(EXAMPLE)!r}).read())\n'
        'assert not any(name.startswith(("emkd", "flax")) for name in sys.modules)\n'
    )
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', script],
        capture_output=True,
        text=True,
        check=False,
        env={'JAX_PLATFORMS': 'cpu'},
    )
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
    run(tmp_path, weights=weights)
    loaded = load_weights(str(tmp_path / 'export' / f'weights.{weights}'))
    same = jax.tree.map(np.array_equal, loaded, trained[1])
    assert all(jax.tree.leaves(same))


def test_what_goes_wrong_is_told(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"export\.weights is 'gguf'"):
        run(tmp_path, weights='gguf')
    (tmp_path / 'there').mkdir()
    with pytest.raises(UserError, match='there is already there; name another'):
        run(tmp_path, tmp_path / 'there')
    with pytest.raises(UserError, match=r'gs://a/b is none; name one with --output'):
        run(tmp_path, 'gs://a/b')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot be written .* mend --output'):
        run(tmp_path, tmp_path / 'file' / 'export')
    monkeypatch.setattr(mode, '_MOST_BYTES', 1000)
    with pytest.raises(UserError, match='one exported file holds 2'):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'there']
