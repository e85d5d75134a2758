"""A run from configuration to results.json: resumed, refused, stopped and broken."""

import inspect
import json
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from emkd_jax.errors import PreemptedError, RunError, UserError, install_command
from emkd_jax.runs import loop
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.progress import ProgressBar
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.trained import evaluate, load_run
from tests.support.runs import TIMES, lines, small_config, stop_at


def last_params(folder):
    experiment = make_experiment(small_config())
    checkpoints = Checkpoints(folder)
    return checkpoints.restore(checkpoints.steps[-1], experiment.state_shapes())[0].params


def assert_same_run(folder, finished):
    results, whole = finished
    again = json.loads((folder / 'results.json').read_text())
    assert {k: again[k] for k in again if k not in TIMES} == json.loads(
        json.dumps({k: results[k] for k in results if k not in TIMES})
    )
    assert lines(folder) == lines(whole)
    jax.tree.map(np.testing.assert_array_equal, last_params(folder), last_params(whole))


def test_results_hold_what_scripts_rely_on(finished):
    results, folder = finished
    assert json.loads((folder / 'results.json').read_text()) == json.loads(json.dumps(results))
    assert set(results) == {
        'config',
        'data',
        'test',
        'networks',
        'floors',
        'beyond_accuracy',
        'best_epoch',
        'best_validation',
        'steps',
        'seconds',
        'sequences_per_second',
        'device',
        'versions',
    }
    assert results['data']['stand_in'] is True
    assert results['data']['windows'] == 560
    assert set(results['test']) == {'window', 'history', 'none'}
    assert {f'{m}@{k}' for m in ('HR', 'NDCG', 'MRR') for k in (1, 5, 10, 20)} == set(
        results['test']['window']
    )
    assert len(results['networks']) == 2
    assert set(results['floors']) == {'popularity', 'markov', 'pctm'}
    assert results['steps'] == 15
    assert json.loads((folder / 'config.json').read_text())['name'] == 'quickstart'


def test_every_epoch_is_logged_and_the_best_one_tested(finished):
    results, folder = finished
    assert [line['step'] for line in lines(folder, 'train')] == [5, 10, 15]
    assert all(line['overflow'] == 0 for line in lines(folder, 'train'))
    for line in lines(folder, 'train'):
        parts = line['masked_items'] + 0.001 * line['kd'] + line['attributes']
        assert line['total'] == pytest.approx(parts + 0.01 * (line['icl'] + line['ccl']), rel=1e-4)
    ndcg = [line['ensemble']['window']['NDCG@10'] for line in lines(folder, 'validation')]
    assert results['best_epoch'] == 1 + int(np.argmax(ndcg))
    assert list((folder / 'tensorboard').glob('events.*'))


def test_a_finished_run_prints_its_results_again(finished, capsys, monkeypatch):
    results, folder = finished
    monkeypatch.setattr(loop, '_train_together', None)
    again = train(small_config(), workdir=str(folder)).results
    assert again == json.loads(json.dumps(results))
    out = capsys.readouterr().out
    assert 'STAND-IN' in out
    assert f'{results["test"]["window"]["NDCG@10"]:.4f}' in out


@pytest.mark.parametrize('content', ['', '[]', '{"test": ', None])
def test_damaged_results_are_told(tmp_path, content):
    file = tmp_path / 'results.json'
    file.write_text(content) if content is not None else file.mkdir()
    with pytest.raises(UserError, match=r'results\.json is damaged; delete it'):
        train(small_config(), workdir=str(tmp_path))


def test_evaluate_gives_the_same_test(finished):
    results, folder = finished
    assert evaluate(load_run(folder))['test'] == results['test']


def test_another_configuration_is_refused_with_the_options_that_differ(finished):
    _, folder = finished
    before = (folder / 'config.json').read_text()
    with pytest.raises(UserError, match=r'train\.num_epochs: 3 -> 2\).* --workdir'):
        train(small_config(train__num_epochs=2), workdir=str(folder))
    other = small_config(train__num_epochs=4, model__dropout=0.7)
    with pytest.raises(UserError, match=r'model\.dropout: .* -> 0\.7; train\.num_epochs: 3 -> 4'):
        train(other, workdir=str(folder))
    assert (folder / 'config.json').read_text() == before


def test_a_finished_run_goes_on_for_more_epochs(finished, tmp_path, capsys):
    for epochs in (1, 3):
        train(small_config(train__num_epochs=epochs), workdir=str(tmp_path))
    assert 'was begun with 1 epochs and goes on to 3.' in capsys.readouterr().out
    assert_same_run(tmp_path, finished)


def test_finished_runs_that_train_together_go_on_for_more_epochs(tmp_path):
    for epochs in (1, 2):
        config = small_config(train__num_epochs=epochs, train__num_seeds=2)
        results = train(config, workdir=str(tmp_path)).results
    assert results['config']['train']['num_epochs'] == 2
    for seed in (0, 1):
        steps = [line['step'] for line in lines(tmp_path / f'seed_{seed}', 'train')]
        assert steps == [5, 10]


@pytest.mark.parametrize('step, number', [(1, signal.SIGTERM), (7, signal.SIGINT)])
def test_a_run_that_was_stopped_ends_as_if_it_was_not(
    finished, tmp_path, monkeypatch, step, number
):
    with monkeypatch.context() as patch:
        stop_at(patch, step, number)
        with StopSignals() as signals, pytest.raises(PreemptedError, match=str(tmp_path)):
            train(small_config(), workdir=str(tmp_path / 'run'), signals=signals)
    with (tmp_path / 'run' / 'metrics.jsonl').open('a') as log:
        log.write('{"kind": "train", "step": 9, "epo')  # as a killed process may leave it
    train(small_config(), workdir=str(tmp_path / 'run'))
    assert_same_run(tmp_path / 'run', finished)


@pytest.fixture
def usual_interrupts():
    """Python's own handler of Ctrl-C, which a process in the background does not begin with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('usual_interrupts')
def test_ctrl_c_in_a_notebook_saves_the_run_and_keeps_the_process(finished, tmp_path, monkeypatch):
    show = ProgressBar.show

    def interrupt(times):
        def show_and_interrupt(self, now, *args):
            show(self, now, *args)
            for _ in range(times if now == 7 else 0):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(ProgressBar, 'show', show_and_interrupt)
        return train(small_config(), workdir=str(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        interrupt(times=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(PreemptedError, match=r'Stopped after step \d; its state is saved'):
        interrupt(times=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupt(times=0)
    assert_same_run(tmp_path, finished)


def test_other_data_is_refused(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with StopSignals() as signals, pytest.raises(PreemptedError):
            train(small_config(), workdir=str(tmp_path), signals=signals)
    monkeypatch.setattr('emkd_jax.data.dataset.Dataset.fingerprint', 'f' * 64)
    with pytest.raises(UserError, match='other data .*ffffffffffff'):
        train(small_config(), workdir=str(tmp_path))


def test_a_finished_run_on_other_data_is_not_shown(finished, monkeypatch):
    _, folder = finished
    monkeypatch.setattr('emkd_jax.data.dataset.Dataset.fingerprint', 'f' * 64)
    with pytest.raises(UserError, match='other data .*ffffffffffff'):
        train(small_config(), workdir=str(folder))


def test_numbers_that_are_not_finite_stop_the_run_before_a_checkpoint(tmp_path):
    config = small_config(optimizer__learning_rate=1e30)
    with pytest.raises(RunError, match=r'Step \d: .*gradients not finite'):
        train(config, workdir=str(tmp_path))
    assert Checkpoints(tmp_path).steps == []


def test_a_workdir_that_cannot_be_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'file/run cannot be used .*--workdir'):
        train(small_config(), workdir=str(tmp_path / 'file' / 'run'))


@pytest.mark.parametrize(
    ('workdir', 'reason'),
    [
        (
            'gs://bucket/run',
            f'it needs `{re.escape(install_command("gcsfs google-cloud-storage"))}`',
        ),
        ('odd://bucket/run', 'this kind of store is not known'),
    ],
)
@pytest.mark.parametrize('mode', [lambda workdir: train(small_config(), workdir=workdir), load_run])
def test_a_store_that_cannot_be_reached_is_refused(monkeypatch, workdir, reason, mode):
    monkeypatch.setitem(sys.modules, 'gcsfs', None)  # not installed
    with pytest.raises(UserError, match=f'{workdir} cannot be used .*{reason}.*--workdir'):
        mode(workdir)


def test_without_a_run_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(UserError, match='holds no run'):
        load_run(tmp_path / 'nothing')
    assert not (tmp_path / 'nothing').exists()


@pytest.mark.parametrize(
    'changes',
    [
        {'train__batch_size': 63},
        {'sweep__dropout': (0.1, 1.5)},
        {'distill__teacher': 'x', 'ensemble__num_networks': 1, 'sweep__temperature': (0.1,)},
    ],
)
def test_what_is_refused_leaves_no_workdir_behind(tmp_path, changes):
    with pytest.raises(UserError):
        train(small_config(**changes), workdir=str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def test_what_changes_no_result_may_change(finished):
    results, folder = finished
    changes = {'eval__batch_size': 7, 'checkpoint__every_minutes': 0.0}
    again = train(small_config(**changes), workdir=str(folder)).results
    assert again['test'] == json.loads(json.dumps(results['test']))


def test_a_run_keeps_its_data_and_needs_nothing_else_afterwards(finished, tmp_path, monkeypatch):
    results, folder = finished
    monkeypatch.setattr('emkd_jax.data.load', None)
    run = load_run(folder)
    assert run.config.to_dict() == small_config().to_dict()
    assert run.results['test'] == json.loads(json.dumps(results['test']))
    assert [event['kind'] for event in run.history()].count('validation') == 3
    moved = shutil.copytree(folder, tmp_path / 'moved')
    jax.tree.map(np.testing.assert_array_equal, load_run(moved).params, run.params)
    (moved / 'results.json').unlink()
    assert train(workdir=str(moved)).results['test'] == run.results['test']


def test_windows_are_cut_once_for_runs_that_train_together():
    experiment = make_experiment(small_config())
    cut = experiment.rows
    assert experiment.with_config(small_config(model__dropout=0.3)).rows is cut
    assert experiment.with_config(small_config(model__max_len=5)).rows is not cut


def test_the_progress_bar_shows_the_epoch_of_the_steps_that_were_done(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        ProgressBar, 'show', lambda _, step, epoch, means, best: shown.append((step, epoch))
    )
    train(small_config(), workdir=str(tmp_path))
    assert shown == [(step, (step - 1) // 5 + 1) for step in range(1, 16)]


def test_the_name_of_a_configuration_is_none():
    with pytest.raises(UserError, match="config is 'custom'; make it with get_config"):
        inspect.unwrap(train)('custom')  # without the check of types that tests have
    with pytest.raises(UserError, match='config is None; .* or name the workdir of a run'):
        train()


@pytest.mark.parametrize('data', ['events.csv', pd.DataFrame({'user': [1]})])
def test_a_table_is_no_data_set(data):
    with pytest.raises(UserError, match='The data is a .*; emkd_jax.read_events makes one'):
        inspect.unwrap(make_experiment)(small_config(), data)
