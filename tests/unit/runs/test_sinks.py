"""Trackers get the figures of a run, go on after a stop, and never stop a run themselves."""

import sys
import types

import pytest
from etils import epath

from emkd_jax.errors import UserError
from emkd_jax.runs.loop import train
from emkd_jax.runs.metrics_log import MetricsLog
from emkd_jax.runs.sinks import check_sinks
from tests.support.runs import small_config

VALUES = {'ensemble': {'window': {'HR@10': 0.5}}, 'seconds': 2, 'note': 'text', 'bad': float('nan')}
SHOWN = {'validation/ensemble/window/HR_at_10': 0.5, 'validation/seconds': 2}


class Recorder:
    """Stands in for `wandb` and `trackio`, which are used in the same way."""

    def __init__(self, fails_at=None):
        self.begun, self.logged, self.finished, self._fails_at = [], [], 0, fails_at

    def init(self, **options):
        self.begun.append(options)
        return self

    def log(self, values, step):
        if step == self._fails_at:
            raise ConnectionError('the network is\n gone')
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


class RecordingMlflow(types.ModuleType):
    """Stands in for `mlflow`, with one experiment and its runs."""

    def __init__(self):
        super().__init__('mlflow')
        self.entities = types.SimpleNamespace(Metric=lambda *parts: parts)
        self.runs, self.params, self.logged, self.ended = {}, {}, [], []

    def MlflowClient(self):  # noqa: N802
        return self

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=name) if self.runs else None

    def create_experiment(self, name):
        return name

    def search_runs(self, experiments, query):
        return [run for tag, run in self.runs.items() if repr(tag) in query]

    def create_run(self, experiment, run_name, tags):
        [tag] = tags.values()
        info = types.SimpleNamespace(run_id=f'run {len(self.runs)}')
        self.runs[tag] = types.SimpleNamespace(info=info)
        return self.runs[tag]

    def log_param(self, run, key, value):
        self.params[key] = value

    def log_batch(self, run, metrics):
        self.logged += [(run, name, value, step) for name, value, _, step in metrics]

    def set_terminated(self, run):
        self.ended.append(run)


def log(folder, sinks, step=0):
    config = small_config(log__sinks=sinks)
    return MetricsLog(epath.Path(folder), step, config)


@pytest.mark.parametrize('kind', ['wandb', 'trackio'])
def test_figures_arrive_and_a_run_that_goes_on_is_the_same(kind, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, kind, recorder)
    first = log(tmp_path, f' {kind} ')
    first.write('validation', 3, 1, VALUES)
    again = log(tmp_path, kind, step=3)
    again.write('validation', 5, 2, VALUES)
    again.close()
    assert recorder.logged == [(3, SHOWN), (5, SHOWN)]
    assert recorder.finished == 1
    names = [begun.get('id') or begun['name'] for begun in recorder.begun]
    assert names[0] == names[1]
    assert recorder.begun[0]['resume'] == 'allow'
    assert recorder.begun[0]['config']['model.hidden_dim'] == 16
    assert not (tmp_path / 'tensorboard').exists()


def test_figures_arrive_in_mlflow(tmp_path, monkeypatch):
    mlflow = RecordingMlflow()
    monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
    log(tmp_path, 'mlflow').write('validation', 3, 1, VALUES)
    again = log(tmp_path, 'mlflow', step=3)
    again.write('validation', 5, 2, VALUES)
    again.close()
    assert len(mlflow.runs) == 1
    assert mlflow.logged == [
        ('run 0', name, v, step) for step in (3, 5) for name, v in SHOWN.items()
    ]
    assert mlflow.ended == ['run 0']
    assert mlflow.params['model.hidden_dim'] == 16


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(
    finished, tmp_path, monkeypatch, capsys
):
    recorder = Recorder(fails_at=10)
    monkeypatch.setitem(sys.modules, 'wandb', recorder)
    config = small_config(log__sinks='tensorboard,wandb')
    run = train(config, workdir=str(tmp_path / 'run'))
    assert run.results['test'] == finished[0]['test']
    err = capsys.readouterr().err
    assert err.count('wandb failed (the network is gone); the run goes on without it.') == 1
    assert {step for step, _ in recorder.logged} == {5}
    assert (tmp_path / 'run' / 'tensorboard').exists()


def test_a_tracker_that_cannot_begin_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    broken = types.SimpleNamespace(init=lambda **options: 1 / 0)
    monkeypatch.setitem(sys.modules, 'wandb', broken)
    written = log(tmp_path, 'wandb')
    written.write('validation', 3, 1, VALUES)
    written.close()
    assert 'wandb failed (division by zero)' in capsys.readouterr().err
    assert (tmp_path / 'metrics.jsonl').read_text().count('\n') == 1


def test_what_is_missing_or_unknown_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(UserError, match='pip install wandb'):
        train(small_config(log__sinks='wandb'), workdir=str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()
    with pytest.raises(UserError, match="log.sinks has 'tensorbord'; use tensorboard, wandb"):
        check_sinks('tensorbord')
    assert check_sinks('') == []
