"""A trained run, opened from its workdir alone: the way in for everything after training."""

import dataclasses
import functools
from typing import Any

import ml_collections
from etils import epath
from jaxtyping import PyTree

from emkd_jax import data
from emkd_jax.cli.console import say
from emkd_jax.config.stored import from_json
from emkd_jax.data.cache import holds_dataset, read_dataset
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.runs.checkpoints import read_best
from emkd_jax.runs.counts import read_counts
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.metrics_log import read_log
from emkd_jax.runs.results import announce, evaluate_test, print_tests, read_results
from emkd_jax.runs.workdir import check_data, check_same_config, holds_run, read_config
from emkd_jax.training.sweep import expand_sweep


def default_workdir(config: ml_collections.ConfigDict) -> str:
    """`runs/<config.name>`, with the name of the event log, or `stand_in` for made-up data."""
    name = config.name
    if config.data.name == 'custom':
        name += '_' + (epath.Path(config.data.source).name.split('.')[0] or 'table')
    if config.data.stand_in:
        name += '_stand_in'
    return f'runs/{name}'


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run and what it left in its workdir.

    Attributes:
      folder: the workdir.
      config: the options of the run.
      experiment: its options, data and model together.
    """

    folder: epath.Path
    config: ml_collections.ConfigDict
    experiment: Experiment

    def __repr__(self) -> str:
        return f'<TrainedRun {self.config.name} in {self.folder}, on {self.dataset!r}>'

    @property
    def workdir(self) -> str:
        """The folder, as a string."""
        return str(self.folder)

    @property
    def dataset(self) -> Dataset:
        """The data that the run was trained on."""
        return self.experiment.data

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """What results.json holds; empty before the run has finished.

        `results['test'][rule][metric]` is the test of the ensemble, `results['networks']` that of
        each network alone, and `results['floors']` that of the baselines.
        """
        return read_results(self.folder) or {}

    def history(self) -> list[dict[str, Any]]:
        """The events of metrics.jsonl: an entry for every epoch, validation and test.

        Each has 'kind' (train, validation or test), 'step', 'epoch' and its values.

        Raises:
          UserError: several runs trained together in the workdir.
        """
        self._check_single()
        return read_log(self.folder)

    @property
    def params(self) -> PyTree:
        """Parameters of the best checkpoint: host arrays with a leading axis of networks."""
        return self._best[0]

    @functools.cached_property
    def counts(self) -> CountMember | None:
        """The transition counts that recommend with the networks; None where there are none."""
        return read_counts(self.folder, self.experiment)

    @property
    def record(self) -> dict[str, Any]:
        """The record of the best checkpoint: 'best' has its step, epoch and validation value."""
        return self._best[1]

    def _check_single(self) -> None:
        runs = expand_sweep(self.config)
        if len(runs) > 1:
            raise UserError(
                f'{self.folder} holds {len(runs)} runs that trained together; emkd_jax.load_run '
                f'opens the best, or one by its own folder, such as {self.folder / runs[0].name}.'
            )

    @functools.cached_property
    def _best(self) -> tuple[PyTree, dict[str, Any]]:
        self._check_single()

        def same_data(record: dict[str, Any]) -> None:
            check_data(self.folder, record['data'], self.dataset.fingerprint)

        found = read_best(self.folder, self.experiment.state_shapes(), same_data)
        if found is None:
            raise UserError(
                f'The run in {self.folder} has no validated checkpoint yet; go on with '
                f'--mode=train --workdir={self.folder}.'
            )
        return found


def load_run(
    workdir: epath.PathLike,
    config: ml_collections.ConfigDict | None = None,
    dataset: Dataset | None = None,
) -> TrainedRun:
    """Opens a trained run. Configuration and data come from the workdir.

    Where runs trained together in the workdir, the one that is best on validation is opened.

    Args:
      workdir: of the run.
      config: the stored configuration with other options that do not change results, such as
        those of recommendation; None: the stored one.
      dataset: the data of the run, where it is at hand.

    Raises:
      UserError: the folder holds no run, or one with another configuration or other data.
    """
    config = config or stored_config(workdir)
    folder = epath.Path(workdir)
    check_same_config(folder, config)
    parent = folder
    if len(expand_sweep(config)) > 1:
        folder, config = _best_of_several(folder)
    if dataset is None:
        dataset = stored_data(folder, parent) or data.load(config.data)
    return TrainedRun(folder, config, make_experiment(config, dataset))


def stored_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The configuration of the run in a workdir.

    Raises:
      UserError: the folder holds no run, or a damaged one.
    """
    if not holds_run(workdir):
        raise UserError(
            f'{workdir} holds no run; train one with --config=NAME, or correct --workdir.'
        )
    return from_json(read_config(epath.Path(workdir)))


def stored_data(*workdirs: epath.PathLike) -> Dataset | None:
    """The copy of the data in a workdir, or in that of the sweep or study around the first one."""
    folders = [epath.Path(workdir) for workdir in workdirs]
    around = folders[0].parent
    for folder in dict.fromkeys([*folders, around, around.parent]):
        if holds_dataset(folder / 'data'):
            return read_dataset(folder / 'data')
    return None


def evaluate(run: TrainedRun) -> dict[str, Any]:
    """`--mode=evaluate`: tests the best checkpoint, prints the tables and returns the results."""
    announce(run.experiment, run.folder)
    params = run.experiment.place(run.params)
    results = evaluate_test(run.experiment, params, run.counts)
    print_tests(results)
    return results


def _best_of_several(folder: epath.Path) -> tuple[epath.Path, ml_collections.ConfigDict]:
    results = {
        run.name: found
        for run in expand_sweep(stored_config(folder))
        if (found := read_results(folder / run.name))
    }
    if not results:
        raise UserError(f'No run in {folder} has finished yet; go on with --mode=train.')
    best = max(results, key=lambda name: results[name]['best_validation'])
    say(f'Of {len(results)} runs in {folder}, {best} is the best on validation and is used.')
    return folder / best, stored_config(folder / best)
