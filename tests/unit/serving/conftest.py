"""A trained run without training: the tiny experiment, made-up ids and parameters as drawn."""

import dataclasses

import jax
import pytest
from etils import epath

from emkd_jax.runs.trained import TrainedRun
from tests.support.tiny import tiny_config, tiny_experiment

EPOCH = 4


@pytest.fixture(scope='package')
def trained():
    """A tiny experiment and its parameters, untrained."""
    experiment = tiny_experiment(tiny_config(model__num_blocks=1))
    return experiment, jax.jit(experiment.ensemble.init)(jax.random.key(3))


@pytest.fixture
def make_run(trained, tmp_path):
    """make_run(titles, recommend__k=3) makes a run of `trained` that claims to be finished."""

    def make_run(titles=(), folder=tmp_path, results=None, **options):
        experiment, params = trained
        config = experiment.config.copy_and_resolve_references()
        config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in options.items()})
        data = dataclasses.replace(experiment.data, titles=tuple(titles))
        experiment = dataclasses.replace(experiment, config=config, data=data)
        run = TrainedRun(epath.Path(folder), config, experiment)
        # What these properties would read from the folder.
        run.__dict__['_best'] = jax.device_get(params), {'best': {'epoch': EPOCH, 'step': 9}}
        run.__dict__['results'] = results or {}
        return run

    return make_run
