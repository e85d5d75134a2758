"""Training, from a configuration to results.json: the loop on one page."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.cli.console import warn
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import PreemptedError, UserError
from emkd_jax.evaluation import Diversity, Evaluator
from emkd_jax.runs.cluster import check_same
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.progress import ProgressBar
from emkd_jax.runs.results import announce, finished_results, print_results, write_results
from emkd_jax.runs.signals import KeyboardInterrupts, StopSignals
from emkd_jax.runs.sinks import check_sinks
from emkd_jax.runs.summary import print_summary, summarise_sweep
from emkd_jax.runs.tables import fit_tables
from emkd_jax.runs.teacher import Teacher, load_teacher
from emkd_jax.runs.trained import TrainedRun, default_workdir, stored_config, stored_data
from emkd_jax.runs.training_run import TrainingRun
from emkd_jax.runs.workdir import holds_run, keep_data, open_workdir, sole_writer
from emkd_jax.training.placement import rows_per_device
from emkd_jax.training.state import stack_states
from emkd_jax.training.sweep import SweepRun, expand_sweep, stack_hyper_parameters
from emkd_jax.training.trainer import Request, Trainer


def train(
    config: ml_collections.ConfigDict | None = None,
    data: Dataset | None = None,
    workdir: str = '',
    signals: StopSignals | None = None,
) -> TrainedRun:
    """Trains, resuming what `workdir` holds, and tests the best checkpoint.

    Where `train.num_seeds` or `sweep` ask for several runs, they train together, each in a folder
    of its own inside the workdir, and the results are their summary. Every process of a run on
    several hosts calls this with the same arguments; process 0 writes.

    Args:
      config: the options of the run, as `get_config` returns them; None: those of the run in
        `workdir`, which goes on.
      data: the data set; None loads the one that `config.data` names or, without `config`, that of
        the run.
      workdir: folder of the run, shared by all processes; empty for `runs/<config.name>`.
      signals: the signals that may stop the run; None: the first Ctrl-C, as notebooks send it.

    Returns:
      The finished run.

    Raises:
      UserError: an option, the data or the workdir is wrong.
      RunError: loss or gradients are not finite, or the disk failed.
      PreemptedError: a signal stopped the run; its state is saved.
    """
    if config is None and workdir:
        config, data = stored_config(workdir), data or stored_data(workdir)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f'config is {config!r}; make it with get_config, or name the workdir of a run that is '
            'to go on.'
        )
    if signals is None:
        with KeyboardInterrupts() as signals:
            return train(config, data, workdir, signals)
    check_sinks(config.log.sinks)
    experiment = fit_tables(make_experiment(config, data))
    runs = expand_sweep(experiment.config)
    workdir = workdir or default_workdir(config)
    teacher = None
    if not holds_run(workdir):  # refuse what cannot work before anything is written
        rows_per_device(experiment.config.train.batch_size, jax.device_count())
        teacher = load_teacher(experiment)
    folder = open_workdir(workdir, experiment.config)
    announce(experiment, folder)
    results = finished_results(folder, experiment)
    check_same(
        'configuration, data or workdir', f'{config} {experiment.data.fingerprint} {results}'
    )
    if results is None:
        teacher = teacher or load_teacher(experiment)
        with sole_writer(folder):
            keep_data(experiment.data, folder)
            done = train_runs(experiment, runs, folder, signals, teacher)
            results = done[0]
            if len(runs) > 1:
                results = summarise_sweep(experiment.config, done)
                write_results(folder, results)
    if len(runs) > 1:
        print_summary(results)
    else:
        print_results(results)
    return TrainedRun(folder, experiment.config, experiment)


def train_runs(
    experiment: Experiment,
    runs: Sequence[SweepRun],
    folder: epath.Path,
    signals: StopSignals,
    teacher: Teacher | None = None,
) -> list[dict[str, Any]]:
    """Trains runs that share a compiled step and returns the results of each.

    Args:
      experiment: the runs differ from it in their seeds and hyper-parameters alone.
      runs: `train.max_together` of them train at a time; finished ones are only read.
      folder: each run has a folder of its name inside; a run without a name has this one.
      signals: may stop the runs.
      teacher: an ensemble that teaches every run.
    """
    results: dict[str, dict[str, Any] | None] = {}
    most = experiment.config.train.max_together
    for first in range(0, len(runs), most):
        with contextlib.ExitStack() as writers:
            unfinished = []
            for run in runs[first : first + most]:
                place = open_workdir(folder / run.name, run.config) if run.name else folder
                results[run.name] = finished_results(place, experiment)
                if results[run.name] is None:
                    if run.name:
                        writers.enter_context(sole_writer(place))
                    unfinished.append(
                        TrainingRun(experiment.with_config(run.config), place, run.name)
                    )
            if unfinished:
                done = _train_together(unfinished, folder, signals, teacher)
                results |= {run.name: r for run, r in zip(unfinished, done, strict=True)}
    return [result for result in results.values() if result is not None]


def _train_together(
    runs: Sequence[TrainingRun], folder: epath.Path, signals: StopSignals, teacher: Teacher | None
) -> list[dict[str, Any]]:
    experiment, config = runs[0].experiment, runs[0].experiment.config
    start = _common_step(runs)
    states = [run.restore_or_init(start) for run in runs]
    before = runs[0].record
    trainer = Trainer(
        config,
        experiment.placed_ensemble,
        experiment.rows,
        experiment.data.item_attributes,
        stack_states(states),
        stack_hyper_parameters([run.experiment.config for run in runs]),
        [run.name for run in runs],
        before['timed'],
        teacher,
    )
    validate = Evaluator(config.eval, experiment.placed_ensemble, experiment.split.validation)
    diversity = Diversity(experiment.placed_ensemble, experiment.split.validation)
    epoch = trainer.epoch
    began = saved = time.monotonic()
    every_steps, every_minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    sequences = trainer.sequences_per_step * len(runs)
    bar = ProgressBar(trainer.num_steps, trainer.step, sequences, config.data.name)

    def request() -> Request:
        if signals.requested:
            return Request.STOP
        due = every_minutes and time.monotonic() - saved > 60 * every_minutes
        return Request.SAVE if due else Request.NONE

    def on_dispatch() -> None:
        signals.at_once = False  # from now on there is something to save
        best = runs[0].record['best']
        bar.show(trainer.step, epoch, trainer.means[0], best and best['value'])
        for run in runs:
            run.checkpoints.seal()

    def spent() -> dict[str, Any]:
        return {'seconds': before['seconds'] + time.monotonic() - began, 'timed': trainer.timed}

    with contextlib.closing(bar):
        while trainer.step < trainer.num_steps and not _patience_is_over(runs, trainer):
            epoch = trainer.epoch
            epoch_end = min(epoch * trainer.per_epoch, trainer.num_steps)
            next_save = trainer.num_steps
            if every_steps:
                next_save = (trainer.step // every_steps + 1) * every_steps
            answer = trainer.advance_to(min(epoch_end, next_save), request, on_dispatch)
            save = answer != Request.NONE or trainer.step in (next_save, trainer.num_steps)
            if trainer.step == epoch_end:
                seconds = spent()['seconds']
                speed = {'sequences_per_second': trainer.speed, 'seconds': seconds}
                for run, means in zip(runs, trainer.means, strict=True):
                    run.log('train', trainer.step, epoch, means | speed)
                if _validates(config.eval, epoch) or trainer.step == trainer.num_steps:
                    for run, params in zip(runs, trainer.params(), strict=True):
                        better = run.record_validation(
                            validate(params), diversity(params), trainer.step, epoch, seconds
                        )
                        save = save or better
            if save:
                saved = time.monotonic()
                _save(runs, trainer, spent())
            if answer == Request.STOP:
                for run in runs:
                    run.checkpoints.close()
                raise PreemptedError(
                    f'Stopped after step {trainer.step}; its state is saved in {folder}.'
                )
    for run in runs:
        run.checkpoints.seal(wait=True)
    signals.at_once = True
    return [run.finish(validate, trainer.step, spent(), trainer.sequences_per_step) for run in runs]


def _common_step(runs: Sequence[TrainingRun]) -> int | None:
    """The newest step that every run can go on from; None: all start from the beginning."""
    saved = [set(run.checkpoints.steps) for run in runs]
    common = set.intersection(*saved)
    if not common and any(saved):
        warn(
            'The runs have no checkpoint of the same step left, so all of them start from the '
            'beginning.'
        )
    return max(common, default=None)


def _save(runs: Sequence[TrainingRun], trainer: Trainer, spent: dict[str, Any]) -> None:
    # All runs have the save before this one when the first begins it, so that a step exists that
    # all of them have.
    for run in runs:
        run.checkpoints.seal(wait=True)
    for run, state in zip(runs, trainer.unstacked(), strict=True):
        run.save(state, spent)
        # Orbax numbers the barriers of all saves of a process: hosts that write several at a time
        # may number them differently and then wait for each other in vain.
        if jax.process_count() > 1:
            run.checkpoints.seal(wait=True)


def _patience_is_over(runs: Sequence[TrainingRun], trainer: Trainer) -> bool:
    """Whether `train.patience` epochs passed since the best validation of every run.

    It depends on nothing but the step and the records, so that a resumed run stops where it would
    have stopped.
    """
    patience = runs[0].experiment.config.train.patience
    bests = [run.record['best'] for run in runs]
    if not patience or not all(bests):
        return False
    epochs = trainer.step / trainer.per_epoch
    return all(epochs - best['epoch'] >= patience for best in bests)


def _validates(options: ml_collections.ConfigDict, epoch: int) -> bool:
    late = epoch - options.first_epoch
    return late >= 0 and late % options.every_epochs == 0
