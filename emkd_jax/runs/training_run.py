"""One run while it trains: its checkpoints, its log and its best score so far."""

from typing import Any

from etils import epath
from jaxtyping import PyTree

from emkd_jax.cli.console import say
from emkd_jax.evaluation import Evaluator, Result
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.counts import write_counts
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.metrics_log import MetricsLog
from emkd_jax.runs.results import evaluate_test, write_results
from emkd_jax.runs.workdir import check_data
from emkd_jax.training.state import TrainState

BEST_METRIC = 'NDCG@10'  # of the ensemble on validation; selects the checkpoint


def new_record(fingerprint: str) -> dict[str, Any]:
    """What is stored beside each checkpoint, as JSON, before anything happened.

    'data' is the fingerprint of the data, 'best' the step, epoch and value of the best validation,
    'seconds' the time spent, and 'timed' the steps whose speed was measured and their seconds.
    """
    timed = {'steps': 0, 'seconds': 0.0}
    return {'data': fingerprint, 'best': None, 'seconds': 0.0, 'timed': timed}


class TrainingRun:
    """One run. Several runs may share a training step.

    Attributes:
      experiment: the configuration, data and model.
      folder: the folder of the run.
      name: its name among the runs that train together; '' for a run that trains alone.
      checkpoints: of this run.
      record: see `new_record`.
    """

    def __init__(self, experiment: Experiment, folder: epath.Path, name: str = ''):
        self.experiment, self.folder, self.name = experiment, folder, name
        self.checkpoints = Checkpoints(folder)
        self.record = new_record(experiment.data.fingerprint)

    def restore_or_init(self, step: int | None) -> TrainState:
        """The state after `step`, or (None) the one before the first step.

        Raises:
          UserError: the run began with other data.
        """
        if step is None:
            state = self.experiment.initial_state()
        else:
            stored = self.checkpoints.record(step)['data']
            check_data(self.folder, stored, self.record['data'])
            state, self.record = self.checkpoints.restore(step, self.experiment.state_shapes())
            say(f'Resuming {self.folder} after step {step}.')
        self.checkpoints.discard_after(-1 if step is None else step)
        self._log = MetricsLog(self.folder, step or 0, self.experiment.config)
        return state

    def log(self, kind: str, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl, and shows it in the sinks."""
        self._log.write(kind, step, epoch, values)

    def record_validation(
        self, result: Result, diversity: dict[str, float], step: int, epoch: int, seconds: float
    ) -> bool:
        """Logs a validation; returns whether it is the best so far.

        Args:
          result: metrics on the validation set.
          diversity: how much the networks differ.
          step: the step after which they were measured.
          epoch: the epoch that ended with it.
          seconds: spent on the run until then.
        """
        networks = {f'network_{n}': metrics for n, metrics in enumerate(result.networks)}
        values: dict[str, Any] = {'ensemble': result.ensemble, 'diversity': diversity} | networks
        values['seconds'] = seconds
        self.log('validation', step, epoch, values)
        value = result.ensemble[self.experiment.config.eval.rule][BEST_METRIC]
        best = self.record['best']
        if best is not None and value <= best['value']:
            return False
        self.record['best'] = {'step': step, 'epoch': epoch, 'value': value}
        return True

    def save(self, state: TrainState, spent: dict[str, Any]) -> None:
        """Starts to write a checkpoint; `spent` holds 'seconds' and 'timed'."""
        self.checkpoints.save(state, self.record | spent)

    def finish(
        self, validate: Evaluator, step: int, spent: dict[str, Any], sequences: float
    ) -> dict[str, Any]:
        """Tests the best checkpoint; writes and returns the results.

        Args:
          validate: the evaluator of the validation set.
          step: the last step.
          spent: 'seconds' and 'timed'.
          sequences: training sequences in a step.
        """
        best, timed = self.record['best'], spent['timed']
        shapes = self.experiment.state_shapes()
        state, _ = self.checkpoints.restore(best['step'], shapes)
        params = self.experiment.place(state.kept)
        counts = self._find_counts(validate, params)
        tested = evaluate_test(self.experiment, params, counts)
        self.log('test', step, best['epoch'], tested['test'])
        self._log.close()
        self.checkpoints.close()
        results = tested | {
            'best_epoch': best['epoch'],
            'best_validation': best['value'],
            'steps': step,
            'seconds': spent['seconds'],
            'sequences_per_second': sequences * timed['steps'] / max(timed['seconds'], 1e-9),
        }
        if 'started_from' in self.record:
            results['started_from'] = self.record['started_from']
        write_results(self.folder, results)
        return results

    def _find_counts(self, validate: Evaluator, params: PyTree) -> CountMember | None:
        """Finds the weight of the transition counts on validation, and keeps it in the workdir."""
        if not self.experiment.config.ensemble.counts:
            return None
        say('Looking for the weight of the transition counts on validation.')
        model = self.experiment.count_model
        tried = validate.find_weight(params, model)
        member = CountMember(model, max(tried, key=lambda weight: tried[weight]))
        write_counts(self.folder, member, tried)
        return member
