"""Training, from a configuration to results.json."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from emkd_jax.errors import PreemptedError
from emkd_jax.evaluation import Diversity, Evaluator
from emkd_jax.runs.cluster import check_same
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.reporting import ProgressBar
from emkd_jax.runs.results import announce, default_workdir, finished, print_results, write_results
from emkd_jax.runs.run import Run
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.teacher import Teacher, load_teacher
from emkd_jax.runs.workdir import holds_run, open_workdir, sole_writer, writing
from emkd_jax.training.placement import rows_per_device
from emkd_jax.training.sweep import Member, members, print_summary, summary, together
from emkd_jax.training.trainer import NOTHING, SAVE, STOP, Trainer


def train(config: ml_collections.ConfigDict, workdir: str = '') -> dict[str, Any]:
    """Trains, resuming what `workdir` holds, tests the best checkpoint and returns the results.

    Where `train.num_seeds` or `sweep` ask for several runs, they train together, each in a folder
    of its own inside; the results are then their summary.

    Every process of a run on several hosts calls it, with the same arguments; process 0 writes.

    Args:
      config: the run's.
      workdir: folder of the run, which all processes share; '' for `runs/<config.name>`.

    Raises:
      UserError: an option, the data or the workdir is wrong.
      RunError: loss or gradients are not finite, or the disk failed.
      PreemptedError: a signal asked the run to stop; its state is saved.
    """
    with StopSignals() as signals:
        experiment = make_experiment(config)
        several = members(experiment.config)
        workdir = workdir or default_workdir(experiment)
        teacher = None
        if not holds_run(workdir):  # what may be refused, before anything is written
            rows_per_device(config.train.batch_size, jax.device_count())
            teacher = load_teacher(experiment)
        folder = open_workdir(workdir, experiment.config)
        announce(experiment, folder)
        results = finished(folder, experiment)
        check_same(
            'configuration, data or workdir', f'{config} {experiment.data.fingerprint} {results}'
        )
        if results is None:
            teacher = teacher or load_teacher(experiment)
            with sole_writer(folder):
                if several:
                    done = train_together(experiment, several, folder, signals, teacher)
                    results = summary(experiment.config, done)
                    with writing(folder / 'results.json'):
                        write_results(folder, results)
                else:
                    [results] = _run([Run(experiment, folder)], signals, teacher)
    if several:
        print_summary(results)
    else:
        print_results(results)
    return results


def train_together(
    experiment: Experiment,
    several: Sequence[Member],
    folder: epath.Path,
    signals: StopSignals,
    teacher: Teacher | None = None,
) -> list[dict[str, Any]]:
    """The results of runs that train in one compiled step, each in its own place in `folder`.

    Their configurations differ from the experiment's in seeds and `step.SETTINGS` alone, and
    `train.max_together` train at a time. Runs that are finished are only read.
    """
    results = {}
    most = experiment.config.train.max_together
    for first in range(0, len(several), most):
        with contextlib.ExitStack() as writers:
            runs = []
            for name, config in several[first : first + most]:
                place = open_workdir(str(folder / name), config)
                results[name] = finished(place, experiment)
                if results[name] is None:
                    writers.enter_context(sole_writer(place))
                    runs.append(Run(experiment.with_config(config), place, name))
            if runs:
                done = _run(runs, signals, teacher)
                results |= {run.name: result for run, result in zip(runs, done, strict=True)}
    return list(results.values())


def _run(
    runs: Sequence[Run], signals: StopSignals, teacher: Teacher | None
) -> list[dict[str, Any]]:
    """Trains and tests one run, or several that have names."""
    experiment, config = runs[0].experiment, runs[0].experiment.config
    saved_steps = [run.checkpoints.latest for run in runs]
    # Those of the runs that had saved more than others go back to what all have.
    states = [run.begin(None if None in saved_steps else min(saved_steps)) for run in runs]
    before = runs[0].record
    state, several = states[0], None
    if runs[0].name:
        state = jax.tree.map(lambda *of_runs: np.stack(of_runs), *jax.device_get(states))
        several = together([Member(run.name, run.experiment.config) for run in runs])
    trainer = Trainer(experiment, state, before['timed'], several, teacher)
    validate = Evaluator(config.eval, experiment.ensemble, experiment.split.validation)
    diversity = Diversity(experiment.ensemble, experiment.split.validation)
    began = saved = time.monotonic()
    every_steps, every_minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    bar = ProgressBar(trainer.num_steps, trainer.step, config.train.batch_size * len(runs))

    def wish() -> int:
        if signals.requested:
            return STOP
        due = every_minutes and time.monotonic() - saved > 60 * every_minutes
        return SAVE if due else NOTHING

    def watch():
        signals.at_once = False  # from now on there is something to save
        bar.show(trainer.step, epoch, trainer.means[0])
        for run in runs:
            run.checkpoints.seal()

    def spent():
        return {'seconds': before['seconds'] + time.monotonic() - began, 'timed': trainer.timed}

    with contextlib.closing(bar):
        while trainer.step < trainer.num_steps:
            epoch = trainer.step // trainer.per_epoch + 1
            epoch_end = min(epoch * trainer.per_epoch, trainer.num_steps)
            next_save = trainer.num_steps
            if every_steps:
                next_save = (trainer.step // every_steps + 1) * every_steps
            wished = trainer.advance_to(min(epoch_end, next_save), wish, watch)
            save = wished != NOTHING or trainer.step in (next_save, trainer.num_steps)
            if trainer.step == epoch_end:
                speed = {'sequences_per_second': trainer.speed}
                for run, means in zip(runs, trainer.means, strict=True):
                    run.log('train', trainer.step, epoch, means | speed)
                if _validates(config.eval, epoch) or trainer.step == trainer.num_steps:
                    for run, params in zip(runs, trainer.params(), strict=True):
                        better = run.judge(validate(params), diversity(params), trainer.step, epoch)
                        save = save or better
            if save:
                saved = time.monotonic()
                _save(runs, trainer.states(), spent())
            if wished == STOP:
                for run in runs:
                    run.checkpoints.close()
                folder = str(runs[0].folder).removesuffix(f'/{runs[0].name}')
                raise PreemptedError(
                    f'Stopped after step {trainer.step}; its state is saved in {folder}.'
                )
    for run in runs:
        run.checkpoints.seal(wait=True)
    signals.at_once = True
    return [run.finish(trainer.step, spent()) for run in runs]


def _save(runs, states, spent):
    # All have the save before it when the first begins this one: a step that all have can be found.
    for run in runs:
        run.checkpoints.seal(wait=True)
    for run, state in zip(runs, states, strict=True):
        run.save(state, spent)
        # Orbax numbers the barriers of all saves of a process: hosts that write several at a time
        # may number them differently, and wait for each other in vain.
        if jax.process_count() > 1:
            run.checkpoints.seal(wait=True)


def _validates(options: ml_collections.ConfigDict, epoch: int) -> bool:
    late = epoch - options.first_epoch
    return late >= 0 and late % options.every_epochs == 0
