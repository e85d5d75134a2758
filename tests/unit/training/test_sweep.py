"""Each of the runs that train together is what it would be alone."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from emkd_jax.analysis.benchmark.compare import benchmark
from emkd_jax.errors import PreemptedError, RunError, UserError
from emkd_jax.objective.hyper_parameters import OPTION_NAMES
from emkd_jax.runs import loop
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.loop import train, train_runs
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.trained import evaluate, load_run
from emkd_jax.serving.import_weights import import_weights
from emkd_jax.training import placement
from emkd_jax.training.dispatch import compile_train_steps
from emkd_jax.training.state import stack_states, unstack_states
from emkd_jax.training.step import TrainingData
from emkd_jax.training.sweep import expand_sweep, stack_hyper_parameters
from emkd_jax.training.trainer import Request, Trainer
from tests.support.golden_cases import relative_error
from tests.support.runs import lines, small_config, stop_at
from tests.support.tiny import tiny_config, tiny_experiment, without_key_bias

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


def take_steps(experiment, states, count, varying=None, num_devices=1):
    """The states after `count` steps, and what the last step reported. A run alone has no axis."""
    on = jax.devices()[:num_devices]
    lengths = experiment.rows.lengths
    function = compile_train_steps(experiment.config, experiment.ensemble, lengths, on)
    data = TrainingData(experiment.rows, experiment.data.item_attributes)
    if varying is not None:
        data = data._replace(varying=varying)
    data = placement.replicate(data, on)
    alone = len(states) == 1
    states = placement.replicate(states[0] if alone else stack_states(states), on)
    one, nothing = placement.replicate(np.int32(1), on), placement.fill(0, on)
    for _ in range(count):
        states, progress = function(states, data, one, nothing)
        assert not progress.broken.any()
    states = [jax.device_get(states)] if alone else unstack_states(states)
    return states, jax.device_get(progress)


def test_a_run_among_others_is_the_run_alone():
    """The first differs from the base by its seed, the second by every setting as well."""
    other_config = tiny_config(**{name.replace('.', '__'): v for name, v in OTHERS.items()})
    base, other = tiny_experiment(), tiny_experiment(other_config)
    assert set(OTHERS) == set(OPTION_NAMES)
    varying = stack_hyper_parameters([base.config, other.config])
    assert all(field is not None for field in varying)
    start = jax.device_get(jax.jit(base.initial_state)())
    starts = [start, start.replace(seed=np.uint32(7))]
    together, progress = take_steps(base, starts, 4, varying, num_devices=2)
    assert progress.step.shape == progress.sums['total'].shape == (2,)
    for r, (experiment, state) in enumerate(zip((base, other), starts, strict=True)):
        [alone], alone_progress = take_steps(experiment, [state], 4)
        for name, value in alone_progress.sums.items():
            np.testing.assert_allclose(progress.sums[name][r], value, rtol=1e-5, atol=1e-6)
        moments = together[r].opt_state[0][1:], alone.opt_state[0][1:]
        for among, expected in zip(*moments, strict=True):
            errors = jax.tree.map(
                relative_error, without_key_bias(among), without_key_bias(expected)
            )
            assert max(jax.tree.leaves(errors)) < 1e-5, errors


def make_trainer(experiment, states, names):
    return Trainer(
        experiment.config,
        experiment.ensemble,
        experiment.rows,
        experiment.data.item_attributes,
        stack_states(states),
        stack_hyper_parameters([experiment.config] * len(names)),
        names,
        {'steps': 0, 'seconds': 0.0},
    )


def test_a_broken_run_is_named():
    experiment = tiny_experiment()
    good = jax.device_get(jax.jit(experiment.initial_state)())
    bad = good.replace(params=jax.tree.map(np.copy, good.params))
    bad.params['item_head_bias'][0, 3] = np.inf
    trainer = make_trainer(experiment, [good, bad], ['seed_0', 'seed_1'])
    with pytest.raises(RunError, match='Step 1 of seed_1: masked_items, .* not finite'):
        trainer.advance_to(2, lambda: Request.NONE, lambda: None)


class FakeSteps:
    """In place of compiled steps: calls a function with the number of steps."""

    def __init__(self, advance):
        self.advance, self.orders = advance, 0

    def order(self, *_):
        self.orders += 1
        return self.orders

    def __call__(self, states, data, count, request, order):
        assert order == self.orders
        self.advance(count)
        return states, None


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    experiment = tiny_experiment(tiny_config(train__steps_per_dispatch=1))
    trainer = make_trainer(experiment, [jax.device_get(experiment.initial_state())], [''])
    steps = FakeSteps(lambda count: None)
    monkeypatch.setattr(trainer, '_advance', steps)
    monkeypatch.setattr(trainer, '_read', lambda _: Request.NONE)
    for epoch in (1, 2, 3):
        trainer.advance_to(epoch * trainer.per_epoch, lambda: Request.NONE, lambda: None)
        assert steps.orders == epoch


@pytest.mark.parametrize(('asked', 'expected'), [(0, [4, 4, 2]), (6, [6, 4])])
def test_steps_per_dispatch_are_as_asked(monkeypatch, asked, expected):
    """The value 0 leaves the number to the platform, and any other value is taken as it is."""
    experiment = tiny_experiment(tiny_config(train__steps_per_dispatch=asked))
    counts = []
    trainer = make_trainer(experiment, [jax.device_get(experiment.initial_state())], [''])
    monkeypatch.setattr(trainer, '_count', lambda count: counts.append(count) or count)
    monkeypatch.setattr(trainer, '_advance', FakeSteps(lambda count: None))
    monkeypatch.setattr(trainer, '_read', lambda _: Request.NONE)
    trainer.advance_to(10, lambda: Request.NONE, lambda: None)
    assert counts == expected


def test_a_cpu_is_sent_the_steps_of_half_a_second(monkeypatch):
    seconds, counts, now = 0.04, [], [0.0]

    def advance(count):
        counts.append(count)
        now[0] += seconds * count

    experiment = tiny_experiment()
    trainer = make_trainer(experiment, [jax.device_get(experiment.initial_state())], [''])
    monkeypatch.setattr('emkd_jax.training.trainer.time.monotonic', lambda: now[0])
    monkeypatch.setattr(trainer, '_count', lambda count: count)
    monkeypatch.setattr(trainer, '_advance', FakeSteps(advance))
    monkeypatch.setattr(trainer, '_read', lambda _: Request.NONE)
    trainer.advance_to(32, lambda: Request.NONE, lambda: None)
    assert counts == [4, 4, 12, 12]
    seconds = 10.0  # then no fewer than four
    trainer.advance_to(52, lambda: Request.NONE, lambda: None)
    assert counts[4:] == [12, 4, 4]


def test_a_configuration_of_one_run_is_that_run():
    config = tiny_config()
    assert expand_sweep(config) == [('', config)]


def test_each_run_of_a_sweep_is_what_it_would_be_alone():
    config = tiny_config(
        seed=5, train__num_seeds=2, sweep__dropout=(0.1,), sweep__learning_rate=(1e-3, 0.02, 1e-3)
    )
    found = dict(expand_sweep(config))
    assert list(found) == [
        f'dropout_0.1_learning_rate_{rate}_seed_{seed}'
        for rate in ('0.001', '0.02')
        for seed in (5, 6)
    ]
    alone = tiny_config(seed=6, model__dropout=0.1, optimizer__learning_rate=0.02)
    assert found['dropout_0.1_learning_rate_0.02_seed_6'].to_dict() == alone.to_dict()


def test_values_that_look_alike_have_folders_of_their_own():
    names = [run.name for run in expand_sweep(tiny_config(sweep__dropout=(0.10000001, 0.1)))]
    assert len(set(names)) == 2


def test_a_limited_number_trains_at_a_time_and_finished_runs_do_not(tmp_path, monkeypatch):
    groups = []

    def run(runs, *_):
        groups.append([run.name for run in runs])
        return [{'of': run.name} for run in runs]

    monkeypatch.setattr(loop, '_train_together', run)
    config = tiny_config(train__num_seeds=5, train__max_together=2)
    (tmp_path / 'seed_1').mkdir()
    (tmp_path / 'seed_1' / 'results.json').write_text('{"of": "seed_1"}')
    folder = epath.Path(tmp_path)
    found = train_runs(tiny_experiment(config), expand_sweep(config), folder, StopSignals())
    assert groups == [['seed_0'], ['seed_2', 'seed_3'], ['seed_4']]
    assert [result['of'] for result in found] == [f'seed_{seed}' for seed in range(5)]


def test_a_value_that_all_runs_of_a_group_share_is_their_own(tmp_path, monkeypatch):
    """The step is given only what differs; the rest comes from the runs' own configuration."""
    rates, dropouts = [], []

    class Watched(Trainer):
        def __init__(self, config, *arguments):
            rates.append(config.optimizer.learning_rate)
            dropouts.append(config.model.dropout)
            assert arguments[4] == (None,) * len(OTHERS)
            super().__init__(config, *arguments)

    monkeypatch.setattr(loop, 'Trainer', Watched)
    config = tiny_config(
        train__num_steps=1,
        train__num_seeds=2,
        train__max_together=2,
        sweep__dropout=(0.15,),
        sweep__learning_rate=(1e-4, 0.02),
    )
    train_runs(tiny_experiment(config), expand_sweep(config), epath.Path(tmp_path), StopSignals())
    assert rates == [1e-4, 0.02]
    assert dropouts == [0.15, 0.15]


def test_what_differs_is_stacked():
    runs = expand_sweep(tiny_config(train__num_seeds=2, sweep__kd_weight=(0.0, 0.1)))
    assert runs[1].name == 'kd_weight_0.0_seed_1'
    varying = stack_hyper_parameters([run.config for run in runs])
    np.testing.assert_allclose(varying.kd_weight, [0, 0, 0.1, 0.1])
    assert varying._replace(kd_weight=None) == (None,) * len(OTHERS)


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
def test_values_that_are_not_allowed_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        expand_sweep(tiny_config(**changes))


@pytest.fixture(scope='module')
def two_seeds(tmp_path_factory):
    """Two seeds that trained together, and their folder."""
    folder = tmp_path_factory.mktemp('runs') / 'two'
    return train(small_config(train__num_seeds=2), workdir=str(folder)).results, folder


def test_each_folder_is_the_lone_runs(two_seeds, tmp_path):
    _, folder = two_seeds
    config = small_config(seed=1)
    alone = train(config, workdir=str(tmp_path)).results
    among = json.loads((folder / 'seed_1' / 'results.json').read_text())
    assert among.keys() == alone.keys()
    assert among['config'] == json.loads(json.dumps(alone['config']))
    for among_line, alone_line in zip(lines(folder / 'seed_1'), lines(tmp_path), strict=True):
        kind = alone_line.pop('kind')
        assert among_line.pop('kind') == kind
        if kind == 'train':
            assert among_line == pytest.approx(alone_line, rel=1e-4)
        else:  # rounding may swap two items
            assert among_line.keys() == alone_line.keys()
            assert (among_line['step'], among_line['epoch']) == (
                alone_line['step'],
                alone_line['epoch'],
            )
    assert evaluate(load_run(folder / 'seed_1'))['test'] == among['test']


def test_several_runs_print_their_summary_again(two_seeds, capsys):
    results, folder = two_seeds
    run = train(small_config(train__num_seeds=2), workdir=str(folder))
    assert run.results == json.loads(json.dumps(results))
    for ask in (lambda: run.params, run.history):
        with pytest.raises(UserError, match='2 runs that trained together; .*two/seed_0'):
            ask()
    out = capsys.readouterr().out
    assert 'STAND-IN' in out
    assert 'as configured' in out


def test_of_several_runs_the_best_on_validation_is_used(two_seeds, capsys):
    _, folder = two_seeds
    found = {
        name: json.loads((folder / name / 'results.json').read_text())['best_validation']
        for name in ('seed_0', 'seed_1')
    }
    best = max(found, key=found.get)
    run = load_run(folder)
    assert run.folder.name == best
    assert f'{best} is the best on validation' in capsys.readouterr().out
    assert run.config.seed == int(best[-1])
    assert run.params['item_head_bias'].shape[0] == 2


@pytest.mark.parametrize(
    'mode', [lambda *arguments: import_weights(*arguments, 'weights.npz'), benchmark]
)
def test_what_is_of_one_run_refuses_several(tmp_path, mode):
    with pytest.raises(UserError, match=r'leave .*train\.num_seeds and sweep\.\*'):
        mode(small_config(train__num_seeds=2), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def stopped_run(folder, monkeypatch, step):
    """Two seeds that were asked to stop after `step` steps."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with (
            StopSignals() as signals,
            pytest.raises(PreemptedError, match=f'its state is saved in {folder}\\.'),
        ):
            train(small_config(train__num_seeds=2), workdir=str(folder), signals=signals)


def test_a_save_that_not_all_have_is_taken_again(two_seeds, tmp_path, monkeypatch):
    """The process was killed between the saves of two runs: they go on from the common step."""
    stopped_run(tmp_path, monkeypatch, 7)
    checkpoints = tmp_path / 'seed_0' / 'checkpoints'
    latest = Checkpoints(tmp_path / 'seed_0').steps[-1]
    shutil.copytree(checkpoints / str(latest), checkpoints / str(latest + 1))
    results, folder = two_seeds
    again = train(small_config(train__num_seeds=2), workdir=str(tmp_path)).results
    assert again['tried'] == results['tried']
    for run in ('seed_0', 'seed_1'):
        assert lines(tmp_path / run) == lines(folder / run)


def test_runs_without_a_common_checkpoint_start_again(two_seeds, tmp_path, monkeypatch, capsys):
    """One run lost its newest checkpoints, and the other has deleted the older ones."""
    earlier, later = tmp_path / 'earlier', tmp_path / 'later'
    stopped_run(earlier, monkeypatch, 7)
    stopped_run(later, monkeypatch, 12)
    shutil.rmtree(later / 'seed_1' / 'checkpoints')
    shutil.copytree(earlier / 'seed_1' / 'checkpoints', later / 'seed_1' / 'checkpoints')
    steps = [set(Checkpoints(later / run).steps) for run in ('seed_0', 'seed_1')]
    assert all(steps)
    assert not set.intersection(*steps)
    again = train(small_config(train__num_seeds=2), workdir=str(later)).results
    assert 'no checkpoint of the same step left' in capsys.readouterr().err
    assert again['tried'] == two_seeds[0]['tried']
