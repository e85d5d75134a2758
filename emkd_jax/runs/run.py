"""One run: what it saved and logged, how good it was, and its test."""

from typing import Any

import jax
from etils import epath

from emkd_jax.evaluation import Result
from emkd_jax.runs.checkpoints import Checkpoints
from emkd_jax.runs.experiment import Experiment
from emkd_jax.runs.reporting import MetricsLog, say
from emkd_jax.runs.results import test, write_results
from emkd_jax.runs.workdir import check_data, writing
from emkd_jax.training.placement import replicate
from emkd_jax.training.step import TrainState

BEST_METRIC = 'NDCG@10'  # of the ensemble on validation; picks the checkpoint


class Run:
    """A run's own among those that train together.

    Attributes:
      experiment: what is trained.
      folder: of the run.
      name: among the others; '' of a lone run.
      checkpoints: its own.
      record: JSON beside each checkpoint: fingerprint of the data, 'best' (step, epoch and value)
        so far, and the 'seconds' and 'timed' steps spent.
    """

    def __init__(self, experiment: Experiment, folder: epath.Path, name: str = ''):
        """Opens the run in `folder`."""
        self.experiment, self.name = experiment, name
        self.checkpoints = Checkpoints(folder)
        self.record = {
            'data': experiment.data.fingerprint,
            'best': None,
            'seconds': 0.0,
            'timed': {'steps': 0, 'seconds': 0.0},
        }
        self.folder = folder

    def begin(self, step: int | None) -> TrainState:
        """The state to go on from: that after `step`, or (None) before the first.

        Raises:
          UserError: the run began with other data.
        """
        if step is None:
            state = self.experiment.initial_state()
        else:
            data = self.record['data']
            check_data(self.folder, self.checkpoints.record(step)['data'], data)
            state, self.record = self.checkpoints.restore(step, self.experiment.state_shapes())
            say(f'Resuming {self.folder} after step {step}.')
        self.checkpoints.discard_after(-1 if step is None else step)
        self._log = MetricsLog(self.folder, step or 0)
        return state

    def log(self, kind: str, step: int, epoch: int, values: dict[str, Any]) -> None:
        """A line for metrics.jsonl and TensorBoard."""
        self._log.write(kind, step, epoch, values)

    def judge(self, result: Result, diversity: dict[str, float], step: int, epoch: int) -> bool:
        """Logs a validation; whether it is the best so far."""
        networks = {f'network_{n}': metrics for n, metrics in enumerate(result.networks)}
        self.log(
            'validation',
            step,
            epoch,
            {'ensemble': result.ensemble, 'diversity': diversity} | networks,
        )
        value = result.ensemble[self.experiment.config.eval.rule][BEST_METRIC]
        best = self.record['best']
        if best is not None and value <= best['value']:
            return False
        self.record['best'] = {'step': step, 'epoch': epoch, 'value': value}
        return True

    def save(self, state: TrainState, spent: dict[str, Any]) -> None:
        """Starts to write a checkpoint, with what was `spent`: 'seconds' and 'timed'."""
        self.checkpoints.save(state, self.record | spent)

    def finish(self, step: int, spent: dict[str, Any]) -> dict[str, Any]:
        """Tests the best checkpoint after the last `step`; writes and returns results.json."""
        best, timed = self.record['best'], spent['timed']
        state, _ = self.checkpoints.restore(best['step'], self.experiment.state_shapes())
        tested = test(self.experiment, replicate(state.params, jax.devices()))
        self.log('test', step, best['epoch'], tested['test'])
        self._log.close()
        self.checkpoints.close()
        batch_size = self.experiment.config.train.batch_size
        results = tested | {
            'best_epoch': best['epoch'],
            'best_validation': best['value'],
            'steps': step,
            'seconds': spent['seconds'],
            'sequences_per_second': batch_size * timed['steps'] / max(timed['seconds'], 1e-9),
        }
        with writing(self.folder / 'results.json'):
            write_results(self.folder, results)
        return results
