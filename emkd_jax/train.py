"""Training, from a configuration to results.json."""

import contextlib
import time
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.checkpoints import Checkpoints
from emkd_jax.devices import check_same, replicate
from emkd_jax.errors import PreemptedError
from emkd_jax.evaluation import Evaluator, Result
from emkd_jax.experiment import Experiment, make_experiment
from emkd_jax.preemption import StopSignals
from emkd_jax.reporting import MetricsLog, ProgressBar, say
from emkd_jax.results import (
    announce,
    default_workdir,
    print_results,
    read_results,
    test,
    write_results,
)
from emkd_jax.step import TrainState
from emkd_jax.trainer import NOTHING, SAVE, STOP, Trainer
from emkd_jax.workdir import check_data, open_workdir, sole_writer, writing

BEST_METRIC = 'NDCG@10'  # of the ensemble on validation; picks the checkpoint


def train(config: ml_collections.ConfigDict, workdir: str = '') -> dict[str, Any]:
    """Trains, resuming what `workdir` holds, tests the best checkpoint and returns the results.

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
        folder = open_workdir(workdir or default_workdir(experiment), experiment.config)
        announce(experiment, folder)
        results = read_results(folder)
        check_same('configuration or workdir', f'{config} {results}')
        if results is None:
            with sole_writer(folder):
                results = _run(experiment, folder, signals)
                with writing(folder / 'results.json'):
                    write_results(folder, results)
    print_results(results)
    return results


def _run(experiment: Experiment, folder: epath.Path, signals: StopSignals) -> dict[str, Any]:
    config = experiment.config
    checkpoints = Checkpoints(folder)
    state, record = _begin(experiment, folder, checkpoints)
    trainer = Trainer(experiment, state, record['timed'])
    validate = Evaluator(config.eval, experiment.ensemble, experiment.split.validation)
    log = MetricsLog(folder, trainer.step)
    began = saved = time.monotonic()
    every_steps, every_minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    bar = ProgressBar(trainer.num_steps, trainer.step, config.train.batch_size)

    def wish() -> int:
        if signals.requested:
            return STOP
        due = every_minutes and time.monotonic() - saved > 60 * every_minutes
        return SAVE if due else NOTHING

    def watch():
        signals.at_once = False  # from now on there is something to save
        bar.show(trainer.step, epoch, trainer.means)
        checkpoints.seal()

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
                log.write('train', trainer.step, epoch, trainer.means | speed)
                if _validates(config.eval, epoch) or trainer.step == trainer.num_steps:
                    result = validate(trainer.state.params)
                    log.write('validation', trainer.step, epoch, _by_name(result))
                    value = result.ensemble[config.eval.rule][BEST_METRIC]
                    if record['best'] is None or value > record['best']['value']:
                        record['best'] = {'step': trainer.step, 'epoch': epoch, 'value': value}
                        save = True
            if save:
                saved = time.monotonic()
                spent = {'seconds': record['seconds'] + saved - began, 'timed': trainer.timed}
                checkpoints.save(trainer.state, record | spent)
            if wished == STOP:
                checkpoints.close()
                raise PreemptedError(
                    f'Stopped after step {trainer.step}; its state is saved in {folder}.'
                )
    checkpoints.seal(wait=True)
    signals.at_once = True
    best, _ = checkpoints.restore(record['best']['step'], experiment.state_shapes())
    tested = test(experiment, replicate(best.params, jax.devices()))
    log.write('test', trainer.num_steps, record['best']['epoch'], tested['test'])
    log.close()
    checkpoints.close()
    return tested | {
        'best_epoch': record['best']['epoch'],
        'steps': trainer.step,
        'seconds': record['seconds'] + time.monotonic() - began,
        'sequences_per_second': config.train.batch_size * trainer.timed['steps']
        / max(trainer.timed['seconds'], 1e-9),
    }


def _begin(experiment, folder, checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """The state and the record to go on from: the newest checkpoint's, or those of step 0."""
    fingerprint = experiment.data.fingerprint()
    if checkpoints.latest is None:
        return experiment.initial_state(), {
            'data': fingerprint, 'best': None, 'seconds': 0.0, 'timed': {'steps': 0, 'seconds': 0.0}
        }
    state, record = checkpoints.restore(checkpoints.latest, experiment.state_shapes())
    check_data(folder, record['data'], fingerprint)
    say(f'Resuming {folder} after step {checkpoints.latest}.')
    return state, record


def _by_name(result: Result) -> dict[str, Any]:
    networks = {f'network_{n}': metrics for n, metrics in enumerate(result.networks)}
    return {'ensemble': result.ensemble} | networks


def _validates(options: ml_collections.ConfigDict, epoch: int) -> bool:
    late = epoch - options.first_epoch
    return late >= 0 and late % options.every_epochs == 0
