"""The process that trains and evaluates with this code: `python -m benchmarks.original.ours`."""

import importlib.metadata
import platform
import time
from typing import Any

import jax

from benchmarks.original.memory import peak_host_bytes
from benchmarks.original.protocol import serve
from emkd_jax.config import base_config
from emkd_jax.evaluation import Evaluator
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.training.trainer import NOTHING, STOP, Trainer

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')


class Ours:
    """The handlers of `serve`; `set_up` comes first."""

    def set_up(self, options: dict[str, Any]) -> dict[str, Any]:
        """Loads the data and builds trainer and evaluator of the configuration with `options`.

        Returns:
          Sizes of the data, and what it runs on.

        Raises:
          UserError: an option makes no sense, or the data is not to be had.
        """
        config = base_config()
        config.update(options)
        experiment = make_experiment(config)
        self._batch_size, self._num_windows = config.train.batch_size, len(experiment.windows)
        self._trainer = Trainer(
            experiment, experiment.initial_state(), {'steps': 0, 'seconds': 0.0}
        )
        self._evaluate = Evaluator(config.eval, experiment.ensemble, experiment.split.validation)
        self._users = len(experiment.split.validation.targets)
        device = jax.devices()[0]
        return {
            'counts': experiment.counts,
            'stand_in': experiment.data.stand_in,
            'platform': device.platform,
            'device': f'{jax.device_count()} x {device.device_kind}',
            'dtype': str(experiment.ensemble.network.encoder.dtype),
            'versions': {name: importlib.metadata.version(name) for name in _PACKAGES}
            | {'python': platform.python_version()},
        }

    def train(self, seconds: float, min_steps: int) -> dict[str, Any]:
        """Trains until time is up, on the training loop's own path."""
        trainer = self._trainer
        start, first = time.perf_counter(), trainer.step

        def wish() -> int:
            late = time.perf_counter() - start >= seconds
            return STOP if late and trainer.step >= first + min_steps else NOTHING

        granted = NOTHING
        while granted != STOP:
            epoch_end = (trainer.step // trainer.per_epoch + 1) * trainer.per_epoch
            granted = trainer.advance_to(epoch_end, wish, lambda: None)
        return {
            'steps': trainer.step - first,
            'sequences': self._seen(trainer.step) - self._seen(first),
            'seconds': time.perf_counter() - start,
        }

    def evaluate(self) -> dict[str, Any]:
        """A validation pass: all rules, the ensemble and each network."""
        start = time.perf_counter()
        self._evaluate(self._trainer.state.params)
        return {'users': self._users, 'seconds': time.perf_counter() - start}

    def memory(self) -> dict[str, int | None]:
        """The most that was held so far, on the host and on one device."""
        of_devices = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [stats.get('peak_bytes_in_use') for stats in of_devices]
        return {'host': peak_host_bytes(), 'device': None if None in peaks else max(peaks)}

    def _seen(self, step):
        """Training sequences of the first `step` steps; an epoch's last batch may be short."""
        epochs, steps = divmod(step, self._trainer.per_epoch)
        return epochs * self._num_windows + steps * self._batch_size


def main() -> None:
    """Answers the parent."""
    ours = Ours()
    serve(
        {
            'set_up': ours.set_up,
            'train': ours.train,
            'evaluate': ours.evaluate,
            'memory': ours.memory,
        }
    )


if __name__ == '__main__':
    main()
