"""Runs that train together: each is what it would be alone."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from benchmarks.original.compare import benchmark
from emkd_jax.errors import PreemptedError, RunError, UserError
from emkd_jax.runs import loop as train_room
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.evaluate import evaluate
from emkd_jax.runs.loop import train, train_together
from emkd_jax.runs.signals import StopSignals
from emkd_jax.serving.import_weights import import_weights
from emkd_jax.training import placement
from emkd_jax.training.step import SETTINGS, TrainingData, make_train_steps
from emkd_jax.training.sweep import Together, members, summary, together, took
from emkd_jax.training.trainer import NOTHING, Trainer
from tests.support.golden_cases import relative_error
from tests.support.runs import lines, small_config, stop_at
from tests.support.tiny import tiny_config, tiny_experiment
from tests.unit.training.test_step import without_key_bias

OTHERS = {
    'optimizer.learning_rate': 5e-3,
    'objective.temperature': 0.7,
    'objective.kd_weight': 0.2,
    'objective.contrast_weight': 0.3,
    'objective.icl_weight': 0.5,
    'objective.ccl_weight': 2.0,
    'objective.attribute_weight': 0.1,
    'model.dropout': 0.1,
}


def steps_of(experiment, state, count, settings=None, num_devices=1):
    """The state after so many steps, and what the last one reported."""
    on = jax.devices()[:num_devices]
    function = make_train_steps(
        experiment.config,
        experiment.ensemble,
        experiment.optimizer,
        (experiment.windows > 0).sum(1),
        on,
    )
    data = placement.replicate(
        TrainingData(experiment.windows, experiment.data.item_attributes, settings), on
    )
    state = placement.replicate(state, on)
    one, nothing = placement.replicate(np.int32(1), on), placement.fill(0, on)
    for _ in range(count):
        state, progress = function(state, data, one, nothing)
        assert not progress.broken.any()
    return jax.device_get(state), jax.device_get(progress)


def test_a_run_among_others_is_the_run_alone():
    """The first differs from the base by its seed, the second by every setting as well."""
    base, other = (
        tiny_experiment(),
        tiny_experiment(
            tiny_config(**{name.replace('.', '__'): value for name, value in OTHERS.items()})
        ),
    )
    assert set(OTHERS) == set(SETTINGS)
    values = base.config.to_dict()
    settings = {
        name: np.array([values[name.split('.')[0]][name.split('.')[1]], value], np.float32)
        for name, value in OTHERS.items()
    }
    start = jax.device_get(jax.jit(base.initial_state)())
    starts = [start, start.replace(seed=np.uint32(7))]
    together, progress = steps_of(
        base, jax.tree.map(lambda *x: np.stack(x), *starts), 4, settings, num_devices=2
    )
    assert progress.step.shape == progress.sums['total'].shape == (2,)
    for r, (experiment, state) in enumerate(zip((base, other), starts, strict=True)):
        alone, of_alone = steps_of(experiment, state, 4)
        for name, value in of_alone.sums.items():
            np.testing.assert_allclose(progress.sums[name][r], value, rtol=1e-5, atol=1e-6)
        of_this = jax.tree.map(lambda x: x[r], together.opt_state[0])  # noqa: B023
        for ours, expected in zip(of_this[1:], alone.opt_state[0][1:], strict=True):
            errors = jax.tree.map(
                relative_error, without_key_bias(ours), without_key_bias(expected)
            )
            assert max(jax.tree.leaves(errors)) < 1e-5, errors


def test_a_broken_run_is_named():
    experiment = tiny_experiment()
    good = jax.device_get(jax.jit(experiment.initial_state)())
    bad = good.replace(params=jax.tree.map(np.copy, good.params))
    bad.params['item_head_bias'][0, 3] = np.inf
    trainer = Trainer(
        experiment,
        jax.tree.map(lambda *x: np.stack(x), good, bad),
        {'steps': 0, 'seconds': 0.0},
        Together(('seed_0', 'seed_1'), {}),
    )
    with pytest.raises(RunError, match='Step 1 of seed_1: masked_items, .* not finite'):
        trainer.advance_to(2, lambda: NOTHING, lambda: None)


def test_a_configuration_of_one_run_has_no_members():
    assert members(tiny_config()) == []


def test_members_are_what_they_would_be_alone():
    config = tiny_config(
        seed=5, train__num_seeds=2, sweep__dropout=(0.1,), sweep__learning_rate=(1e-3, 0.02, 1e-3)
    )
    found = {member.name: member.config for member in members(config)}
    assert list(found) == [
        f'dropout_0.1_learning_rate_{rate}_seed_{seed}'
        for rate in ('0.001', '0.02')
        for seed in (5, 6)
    ]
    alone = tiny_config(seed=6, model__dropout=0.1, optimizer__learning_rate=0.02)
    assert found['dropout_0.1_learning_rate_0.02_seed_6'].to_dict() == alone.to_dict()


def test_values_that_look_alike_have_folders_of_their_own():
    names = [run.name for run in members(tiny_config(sweep__dropout=(0.10000001, 0.1)))]
    assert len(set(names)) == 2


def test_so_many_train_at_a_time_and_what_is_finished_does_not(tmp_path, monkeypatch):
    groups = []

    def run(runs, *_):
        groups.append([run.name for run in runs])
        return [{'of': run.name} for run in runs]

    monkeypatch.setattr(train_room, '_run', run)
    config = tiny_config(train__num_seeds=5, train__max_together=2)
    (tmp_path / 'seed_1').mkdir()
    (tmp_path / 'seed_1' / 'results.json').write_text('{"of": "seed_1"}')
    folder = epath.Path(tmp_path)
    found = train_together(tiny_experiment(config), members(config), folder, StopSignals())
    assert groups == [['seed_0'], ['seed_2', 'seed_3'], ['seed_4']]
    assert [result['of'] for result in found] == [f'seed_{seed}' for seed in range(5)]


def test_a_value_that_all_runs_at_a_time_share_is_theirs(tmp_path, monkeypatch):
    """The compiled step is told only what differs; the rest is of the runs' own configuration."""
    rates, dropouts = [], []

    class Watched(Trainer):
        def __init__(self, experiment, *args):
            rates.append(experiment.config.optimizer.learning_rate)
            dropouts.append(experiment.ensemble.network.encoder.dropout)
            with jax.numpy_dtype_promotion('standard'):
                optimizer, one = experiment.optimizer, np.ones(1, np.float32)
                update, _ = optimizer.update(one, optimizer.init(one))
            np.testing.assert_allclose(update, -rates[-1], rtol=1e-3)
            super().__init__(experiment, *args)

    monkeypatch.setattr(train_room, 'Trainer', Watched)
    config = tiny_config(
        train__num_steps=1,
        train__num_seeds=2,
        train__max_together=2,
        sweep__dropout=(0.15,),
        sweep__learning_rate=(1e-4, 0.02),
    )
    train_together(tiny_experiment(config), members(config), epath.Path(tmp_path), StopSignals())
    assert rates == [1e-4, 0.02]
    assert dropouts == [0.15, 0.15]


def test_what_differs_is_told_apart():
    runs = members(tiny_config(train__num_seeds=2, sweep__kd_weight=(0.0, 0.1)))
    names, settings = together(runs)
    assert names[1] == 'kd_weight_0.0_seed_1'
    assert list(settings) == ['objective.kd_weight']
    np.testing.assert_allclose(settings['objective.kd_weight'], [0, 0, 0.1, 0.1])


@pytest.mark.parametrize(
    'changes, sentence',
    [
        ({'sweep__dropout': (0.1, 1.5)}, r'model\.dropout is 1\.5'),
        ({'sweep__temperature': (0.0,)}, r'objective\.temperature is 0\.0'),
        (
            {'sweep__learning_rate': ('fast',)},
            r"sweep\.learning_rate is \('fast',\); give it numbers",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        members(tiny_config(**changes))


def test_the_summary_has_mean_and_deviation_and_the_best_on_validation_first():
    config = tiny_config(train__num_seeds=2, sweep__kd_weight=(0.0, 0.1))
    results = [
        {
            'config': member.config.to_dict(),
            'best_validation': value,
            'seconds': 5.0 + value,
            'test': {'window': {'HR@10': 2 * value}},
            'sequences_per_second': 10.0,
            'data': {},
            'floors': {},
            'steps': 3,
            'device': 'one',
            'versions': {},
        }
        for member, value in zip(members(config), [0.1, 0.2, 0.3, 0.5], strict=True)
    ]
    found = summary(config, results)
    assert [one['settings'] for one in found['tried']] == [{'kd_weight': 0.1}, {'kd_weight': 0.0}]
    best = found['tried'][0]
    assert best['seeds'] == [0, 1]
    assert best['validation'] == pytest.approx({'mean': 0.4, 'deviation': 0.02**0.5})
    assert best['test']['window']['HR@10'] == pytest.approx({'mean': 0.8, 'deviation': 0.08**0.5})
    assert (found['sequences_per_second'], found['seconds']) == (40.0, 5.5)
    assert took(results, 3) == {'seconds': 10.8, 'sequences_per_second': 20.0}


@pytest.fixture(scope='module')
def of_two(tmp_path_factory):
    """Two seeds that trained together, and their folder."""
    folder = tmp_path_factory.mktemp('runs') / 'two'
    return train(small_config(train__num_seeds=2), str(folder)), folder


def test_each_folder_is_the_lone_runs(of_two, tmp_path):
    _, folder = of_two
    config = small_config(seed=1)
    alone = train(config, str(tmp_path))
    among = json.loads((folder / 'seed_1' / 'results.json').read_text())
    assert among.keys() == alone.keys()
    assert among['config'] == json.loads(json.dumps(alone['config']))
    for ours, theirs in zip(lines(folder / 'seed_1'), lines(tmp_path), strict=True):
        kind = theirs.pop('kind')
        assert ours.pop('kind') == kind
        if kind == 'train':
            assert ours == pytest.approx(theirs, rel=1e-4)
        else:  # rounding may swap two items
            assert ours.keys() == theirs.keys()
            assert (ours['step'], ours['epoch']) == (theirs['step'], theirs['epoch'])
    assert evaluate(config, str(folder / 'seed_1'))['test'] == among['test']


def test_several_runs_print_their_summary_again(of_two, capsys):
    results, folder = of_two
    assert train(small_config(train__num_seeds=2), str(folder)) == json.loads(json.dumps(results))
    out = capsys.readouterr().out
    assert 'STAND-IN' in out
    assert 'as configured, 2 seed(s): HR@10 ' in out


def test_one_of_several_is_to_be_named(of_two):
    with pytest.raises(UserError, match=r'trained together; .*--workdir=.*/seed_0 and its seed'):
        evaluate(small_config(train__num_seeds=2), str(of_two[1]))


@pytest.mark.parametrize('mode', [lambda *of: import_weights(*of, 'weights.npz'), benchmark])
def test_what_is_of_one_run_refuses_several(tmp_path, mode):
    with pytest.raises(UserError, match=r'leave train\.num_seeds and sweep\.\* out'):
        mode(small_config(train__num_seeds=2), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def test_a_save_that_not_all_have_is_taken_again(of_two, tmp_path, monkeypatch):
    """Killed between the saves of two runs: they go on from the step that both have."""
    config = small_config(train__num_seeds=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(PreemptedError, match=f'its state is saved in {tmp_path}\\.'):
            train(config, str(tmp_path))
    checkpoints = tmp_path / 'seed_0' / 'checkpoints'
    latest = Checkpoints(tmp_path / 'seed_0').latest
    shutil.copytree(checkpoints / str(latest), checkpoints / str(latest + 1))
    results, folder = of_two
    assert train(config, str(tmp_path))['tried'] == results['tried']
    for run in ('seed_0', 'seed_1'):
        assert lines(tmp_path / run) == lines(folder / run)
