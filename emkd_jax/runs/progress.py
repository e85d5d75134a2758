"""The progress bar of a training, and a word about how long it will take."""

import sys
import time
from collections.abc import Mapping

import jax
import tqdm

from emkd_jax.cli.console import warn
from emkd_jax.cli.lost_output import Lasting

# At most 80 letters, so that a usual terminal shows all of it.
_FORMAT = '{desc} {percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}'
_MEASURED = 20.0  # seconds, after which the speed is known well enough
_LONG = 2 * 3600  # seconds


class ProgressBar:
    """Epoch, loss, best validation, sequences per second and time left, on stderr."""

    def __init__(self, num_steps: int, step: int, sequences_per_step: float, data_name: str):
        """Starts the bar, which says 'compiling' until the first steps are done.

        Args:
          num_steps: steps of the whole training.
          step: steps that are done already.
          sequences_per_step: for the speed.
          data_name: the data set, for which a smaller model is recommended if training is long.
        """
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=step,
            desc='compiling',
            unit='step',
            disable=jax.process_index() != 0,
            file=Lasting(sys.stderr),
            dynamic_ncols=True,
            bar_format=_FORMAT,
            # A file gets a line where a terminal gets a change of the line.
            mininterval=1.0 if sys.stderr.isatty() else 10.0,
        )
        self._sequences_per_step = sequences_per_step
        self._data_name = data_name
        self._began: tuple[float, int] | None = None
        self._estimated = False

    def show(
        self, step: int, epoch: int, means: Mapping[str, float], best: float | None = None
    ) -> None:
        """Moves the bar.

        Args:
          step: steps that are done.
          epoch: the current epoch.
          means: the mean parts of the loss in this epoch, of which the total is shown.
          best: the best validation NDCG@10 so far.
        """
        shown = {'loss': f'{means["total"]:.4g}'} if 'total' in means else {}
        if best is not None:
            shown['best'] = f'{best:.4f}'
        if rate := self._bar.format_dict['rate']:
            shown['sequences/s'] = f'{rate * self._sequences_per_step:.0f}'
        self._bar.set_description(f'epoch {epoch}', refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        self._estimate(step)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._bar.close()

    def _estimate(self, step):
        """Says once, if so, that the training will take long."""
        now = time.monotonic()
        if self._began is None:  # the first steps include compiling
            self._began = now, step
        began, first = self._began
        if self._estimated or now - began < _MEASURED or step == first:
            return
        self._estimated = True
        left = (now - began) / (step - first) * (self._bar.total - step)
        if left > _LONG:
            warn(
                f'Training takes about {duration(left)} at this speed. The variant :quick '
                f'(--config={self._data_name}:quick) trains a small model in minutes.'
            )


def duration(seconds: float) -> str:
    """A time in the unit that suits it, such as '6 days'."""
    for unit, size in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} seconds'
