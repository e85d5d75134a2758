"""The model that is served, which follows the best checkpoint of a run while it trains."""

import threading
import time
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from emkd_jax.cli.console import say, warn
from emkd_jax.errors import RunError, UserError
from emkd_jax.evaluation.baselines import MarkovChain
from emkd_jax.runs.checkpoints import best_step
from emkd_jax.runs.counts import has_counts
from emkd_jax.runs.trained import TrainedRun, load_run
from emkd_jax.serving.http.catalogue import Catalogue
from emkd_jax.serving.http.scorer import Scorer
from emkd_jax.serving.model import Model


class Loaded(NamedTuple):
    """A checkpoint that answers requests.

    Attributes:
      run: where it comes from.
      model: its parameters and ids.
      scorer: recommends.
      chain: the first-order Markov baseline of its training data.
      catalogue: finds items and users by text.
      state: what the workdir looked like; another value means another checkpoint.
      since: when it was loaded, in seconds since 1970.
    """

    run: TrainedRun
    model: Model
    scorer: Scorer
    chain: MarkovChain
    catalogue: Catalogue
    state: tuple[Any, ...]
    since: float


class Served:
    """Holds the model in memory. `now` is the checkpoint that answers; it may change at any time.

    A request reads `now` once, so that it is answered by one checkpoint.
    """

    def __init__(self, run: TrainedRun):
        """Loads the best checkpoint of a run and compiles what usual requests need.

        Raises:
          UserError: the run has no validated checkpoint yet.
        """
        self._folder = run.folder
        self.now = self._load(run)
        self.problem = ''
        self._closed = threading.Event()

    def follow(self, seconds: float) -> None:
        """Looks for a better checkpoint every so many seconds, in a thread of its own."""
        threading.Thread(target=self._follow, args=(seconds,), daemon=True).start()

    def close(self) -> None:
        """Ends the thread of `follow`."""
        self._closed.set()

    def refresh(self) -> bool:
        """Loads the best checkpoint if it is another one, and returns whether it did.

        A workdir that cannot be read keeps the model in memory; `problem` then says what is wrong.
        """
        try:
            state = workdir_state(self._folder)
            if state[0] is None:
                raise UserError(f'{self._folder} holds no run any more')
            if state != self.now.state:
                self.now = self._load(load_run(self._folder, dataset=self.now.run.dataset))
                self.problem = ''
                say(f'Serving epoch {self.now.model.results["epoch"]} of {self._folder} now.')
                return True
        except (UserError, RunError, OSError, ValueError) as error:
            problem = str(error).rstrip('.')
            if problem != self.problem:
                warn(f'{problem}. The model in memory goes on answering.')
            self.problem = problem
            return False
        self.problem = ''
        return False

    def _follow(self, seconds):
        while not self._closed.wait(seconds):
            self.refresh()

    def _load(self, run):
        state = workdir_state(run.folder)
        model = Model.from_run(run)
        scorer = Scorer(model)
        scorer.warm_up()
        chain = MarkovChain.of(run.experiment.split.train, run.dataset.num_items)
        # What is computed when it is first needed is computed before anybody waits for it.
        model.ids.item('')
        model.ids.row('')
        model.similarities(np.ones(1, np.int32))
        return Loaded(run, model, scorer, chain, Catalogue(model), state, time.time())


def workdir_state(folder: epath.Path) -> tuple[int | None, bool, bool]:
    """What changes when there is something new: the best step, the counts, and the test."""
    return best_step(folder), has_counts(folder), (folder / 'results.json').exists()
