"""Weights from and to files: the authors' checkpoints, safetensors and npz."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.errors import UserError, install_command
from emkd_jax.model.encoders import ENCODERS
from emkd_jax.runs.trained import load_run
from emkd_jax.serving import import_weights as mode
from emkd_jax.serving.pytorch import state_dict_from_params
from emkd_jax.serving.weights import check_weights, load_weights, save_weights
from tests.support.golden_cases import FILES, Case
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_experiment

# Ranks by the released model itself: argv is the clone, the checkpoint, the inputs.
AUTHORS = """
import sys
clone, checkpoint, inputs = sys.argv[1:]
sys.dont_write_bytecode = True
sys.path.insert(0, clone)
sys.argv = ['main.py', '--device', 'cpu']
import numpy as np
import torch
from models import BERTModel
from options import args
given = np.load(inputs)
vars(args).update({name: int(given[name]) for name in (
    'N', 'num_items', 'num_attributes', 'bert_hidden_units', 'bert_max_len', 'bert_num_blocks',
    'bert_num_heads',
)}, bert_dropout=0.0, model_init_seed=0)
model = BERTModel(args)
model.load_state_dict(torch.load(checkpoint)['model_state_dict'])
model.eval()
with torch.no_grad():
    logits, _ = model(torch.tensor(given['items'], dtype=torch.long))
np.save(inputs, sum(logits)[:, -1].numpy())
"""


@pytest.fixture(scope='module')
def torch():
    return pytest.importorskip('torch')


@pytest.fixture(scope='module')
def experiment():
    return tiny_experiment(tiny_config(model__num_blocks=1))


@pytest.fixture(scope='module')
def params(experiment):
    return jax.device_get(jax.jit(experiment.ensemble.init)(jax.random.key(5)))


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        jax.tree.leaves(jax.tree.map(np.array_equal, one, other))
    )


def last_scores(ensemble, params, items):
    """Scores with the weights, as they come from a file, as constants of the compiled function."""
    score = jax.jit(lambda items: ensemble.score(ensemble.split(params), items))
    return score(jnp.asarray(items, jnp.int32))


@pytest.mark.parametrize('suffix', ['safetensors', 'npz', 'pth'])
def test_round_trip(params, tmp_path, suffix):
    if suffix == 'pth':
        pytest.importorskip('torch')
    path = tmp_path / f'weights.{suffix}'
    save_weights(path, params)
    assert same(load_weights(str(path)), params)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_released_checkpoint_round_trips(torch, tmp_path, path):
    """Theirs to ours and back: every tensor, whatever else the file holds."""
    case = Case(path)
    theirs = {
        name.removeprefix('param/'): torch.tensor(array)
        for name, array in case.arrays.items()
        if name.startswith('param/')
    }
    file = tmp_path / 'best_acc_model.pth'
    torch.save(
        {
            'model_state_dict': {f'module.{name}': leaf for name, leaf in theirs.items()},
            'optimizer_state_dict': {'state': {0: {'step': torch.tensor(3.0)}}},
            'epoch': 7,
        },
        file,
    )
    ours = load_weights(str(file))
    assert same(ours, jax.device_get(case.params))
    back = state_dict_from_params(ours)
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[name], leaf.numpy()) for name, leaf in theirs.items())


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_released_checkpoint_ranks_as_the_released_code_does(torch, tmp_path, path):
    case = Case(path)
    file = tmp_path / 'best_acc_model.pth'
    torch.save(
        {
            'model_state_dict': {
                name.removeprefix('param/'): torch.tensor(array, dtype=torch.float32)
                for name, array in case.arrays.items()
                if name.startswith('param/')
            }
        },
        file,
    )
    params = load_weights(str(file))
    histories, answers = case.arrays['eval_history'], case.arrays['eval_answer']
    mask = np.full((len(histories), 1), case.num_items + 1)
    items = np.concatenate([histories, mask], axis=1)[:, -case.max_len :]
    scores = np.asarray(last_scores(case.ensemble, params, items))
    for row, (window, answer) in enumerate(zip(items, answers, strict=True)):
        shut_out = sorted({0, *window.tolist()} - {answer, case.num_items + 1})
        competitors = np.delete(scores[row], shut_out)
        assert (competitors > scores[row, answer]).sum() == case.arrays['eval_rank'][row]


def test_released_code_takes_ours_and_ranks_alike(torch, experiment, params, tmp_path):
    clone = os.environ.get('EMKD_PYTORCH_REPO')
    if not clone:
        pytest.skip('EMKD_PYTORCH_REPO does not name a clone of hw-du/EMKD')
    model, slots = experiment.config.model, experiment.config.model.max_len
    items = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (50, slots))
    items[:, -1] = NUM_ITEMS + 1
    items[::2, : slots // 2] = 0
    inputs = tmp_path / 'inputs.npz'
    np.savez(
        inputs,
        items=items,
        N=experiment.ensemble.num_networks,
        num_items=NUM_ITEMS,
        num_attributes=experiment.data.num_attributes,
        bert_hidden_units=model.hidden_dim,
        bert_max_len=slots,
        bert_num_blocks=model.num_blocks,
        bert_num_heads=model.num_heads,
    )
    save_weights(tmp_path / 'ours.pth', params)
    subprocess.run(
        [sys.executable, '-c', AUTHORS, clone, str(tmp_path / 'ours.pth'), str(inputs)], check=True
    )
    theirs = np.load(f'{inputs}.npy')
    ours = last_scores(experiment.ensemble, params, items)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (np.argsort(-ours) == np.argsort(-theirs)).mean() > 0.99


class Trap:
    def __reduce__(self):
        return os.system, ('touch sprung',)


def test_code_in_a_checkpoint_is_refused(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'model_state_dict': Trap()}, 'best_acc_model.pth')
    with pytest.raises(UserError, match='refused: its pickle holds more than weights'):
        load_weights('best_acc_model.pth')
    assert not pathlib.Path('sprung').exists()


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ([1, 2], 'holds no state dict'),
        ({'model_state_dict': {}}, 'holds no state dict'),
        ({'model_state_dict': {'weight': 3}}, 'holds no state dict'),
        ({'somebody.else': 'tensor'}, 'is not a checkpoint of the released EMKD model'),
        ({'embeddings.0.token.weight': 'tensor'}, 'is not a checkpoint of the released EMKD model'),
    ],
)
def test_other_checkpoints_are_told(torch, tmp_path, content, expected):
    if isinstance(content, dict):
        content = {
            name: torch.zeros(3) if leaf == 'tensor' else leaf for name, leaf in content.items()
        }
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(UserError, match=expected):
        load_weights(str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('suffix', ['safetensors', 'npz', 'pth'])
def test_damaged_and_missing_files_are_told(params, tmp_path, suffix):
    if suffix == 'pth':
        pytest.importorskip('torch')
    path = tmp_path / f'weights.{suffix}'
    with pytest.raises(UserError, match='cannot be read'):
        load_weights(str(path))
    save_weights(path, params)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r'is damaged|cannot be read|is refused'):
        load_weights(str(path))


def test_another_suffix_is_told():
    with pytest.raises(UserError, match='ends in none of safetensors, npz, pth'):
        load_weights('weights.bin')


def test_pytorch_is_asked_for_only_where_needed(params, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    save_weights(tmp_path / 'weights.npz', params)
    with pytest.raises(
        UserError, match=re.escape(f'A .pth file needs torch; run: {install_command("[torch]")}')
    ):
        save_weights(tmp_path / 'weights.pth', params)
    (tmp_path / 'weights.pth').touch()
    with pytest.raises(
        UserError, match=re.escape(f'A .pth file needs torch; run: {install_command("[torch]")}')
    ):
        load_weights(str(tmp_path / 'weights.pth'))


def test_weights_of_another_model_are_told(experiment, params):
    expected = experiment.state_shapes().params
    check_weights(params, expected, 'file')
    other = params | {'item_head_bias': np.zeros((3, 99), np.float32)}
    with pytest.raises(UserError, match=r'item_head_bias is \(3, 99\) there and \(3, 31\) here'):
        check_weights(other, expected, 'file')
    del other['item_head_bias']
    with pytest.raises(UserError, match='item_head_bias is missing there'):
        check_weights(other, expected, 'file')


def test_imported_weights_are_the_best_checkpoint_of_a_run(
    experiment, params, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(mode, 'make_experiment', lambda config: experiment)
    path = tmp_path / 'weights.npz'
    save_weights(path, params)
    folder = tmp_path / 'run'
    mode.import_weights(experiment.config, str(folder), str(path))
    assert 'is now the best checkpoint' in capsys.readouterr().out
    run = load_run(folder)
    assert same(run.params, params) and run.record['best']['step'] == 0
    assert run.dataset.fingerprint == experiment.data.fingerprint
    with pytest.raises(UserError, match='already holds a run'):
        mode.import_weights(experiment.config, str(folder), str(path))
    with pytest.raises(UserError, match='--weights is empty'):
        mode.import_weights(experiment.config, str(folder))


@pytest.mark.parametrize('encoder', [name for name in ENCODERS if name != 'bert4rec'])
def test_other_encoders_have_no_names_there(encoder):
    experiment = tiny_experiment(tiny_config(model__encoder=encoder))
    with pytest.raises(KeyError):
        state_dict_from_params(jax.device_get(experiment.initial_state().params))
