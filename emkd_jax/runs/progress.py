"""The progress bar of a training."""

import sys
from collections.abc import Mapping

import jax
import tqdm

_SHOWN = ('total', 'masked_items', 'next_item', 'kd', 'attributes', 'icl', 'ccl')


class ProgressBar:
    """Epoch, parts of the loss, sequences per second and time left, on standard error."""

    def __init__(self, num_steps: int, step: int, sequences_per_step: float):
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=step,
            unit='step',
            disable=jax.process_index() != 0,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=1.0,
        )
        self._sequences_per_step = sequences_per_step

    def show(self, step: int, epoch: int, means: Mapping[str, float]) -> None:
        """Moves to `step` of `epoch`; `means` are the mean parts of the loss in this epoch."""
        shown = {name: f'{value:.4g}' for name, value in means.items() if name in _SHOWN}
        if rate := self._bar.format_dict['rate']:
            shown['sequences/s'] = f'{rate * self._sequences_per_step:.0f}'
        self._bar.set_description(f'epoch {epoch}', refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._bar.close()
