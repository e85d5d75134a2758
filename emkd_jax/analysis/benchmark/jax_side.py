"""The process that trains and evaluates with this project."""

import time
from typing import Any

import jax

from emkd_jax.analysis.benchmark.memory import peak_host_bytes
from emkd_jax.analysis.benchmark.protocol import serve
from emkd_jax.analysis.speed import make_trainer, train_for
from emkd_jax.config.stored import from_json
from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.results import device_name, versions


class JaxSide:
    """Answers the requests of the parent; `set_up` comes first."""

    def set_up(self, options: dict[str, Any]) -> dict[str, Any]:
        """Loads the data and builds the trainer and the evaluator.

        Args:
          options: the configuration as JSON.

        Returns:
          Sizes of the data, the device, and versions.

        Raises:
          UserError: an option is not allowed, or the data cannot be had.
        """
        experiment = make_experiment(from_json(options))
        config, validation = experiment.config, experiment.split.validation
        self._batch_size, self._num_windows = config.train.batch_size, len(experiment.rows)
        self._users = len(validation.targets)
        self._trainer = make_trainer(experiment)
        self._evaluate = Evaluator(config.eval, experiment.ensemble, validation)
        return {
            'counts': experiment.counts,
            'stand_in': experiment.data.stand_in,
            'platform': jax.default_backend(),
            'device': device_name(),
            'dtype': str(experiment.ensemble.network.encoder.dtype),
            'versions': versions(),
        }

    def train(self, seconds: float, min_steps: int) -> dict[str, Any]:
        """Trains until the time is up, in the same way as the training loop."""
        first = self._trainer.step
        steps, taken = train_for(self._trainer, seconds, min_steps)
        sequences = self._sequences(first + steps) - self._sequences(first)
        return {'steps': steps, 'sequences': sequences, 'seconds': taken}

    def evaluate(self) -> dict[str, Any]:
        """Makes a validation pass under all rules, for the ensemble and for each network."""
        [params] = self._trainer.params()
        start = time.perf_counter()
        self._evaluate(params)
        return {'users': self._users, 'seconds': time.perf_counter() - start}

    def memory(self) -> dict[str, int | None]:
        """Returns the peak memory in bytes so far, of the host and of the fullest device."""
        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [device['peak_bytes_in_use'] for device in stats if 'peak_bytes_in_use' in device]
        known = len(peaks) == len(stats)
        return {'host': peak_host_bytes(), 'device': max(peaks) if known else None}

    def _sequences(self, step: int) -> int:
        """Sequences of the first `step` steps; the last batch of an epoch may be short."""
        epochs, steps = divmod(step, self._trainer.per_epoch)
        return epochs * self._num_windows + steps * self._batch_size


if __name__ == '__main__':
    serve(JaxSide())
