"""EMKD on JAX: an ensemble of sequence encoders for recommendation that teach one another.

    import emkd_jax as emkd

    data = emkd.read_events('events.csv', items='items.csv')
    run = emkd.train(emkd.get_config('custom'), data, workdir='runs/shop')
    model = emkd.load('runs/shop')
    model.recommend([['COF-01', 'COF-02']], k=10)

Importing the package starts no backend of JAX and changes no global state; each name below is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.2.0'

_PUBLIC = {
    # Data
    'load_dataset': 'data',
    'read_events': 'data',
    'Dataset': 'data.dataset',
    # Training
    'get_config': 'config',
    'train': 'runs.loop',
    'continue_training': 'runs.continuation',
    'distill': 'runs.distill',
    'load_run': 'runs.trained',
    'TrainedRun': 'runs.trained',
    # A trained model
    'load': 'serving.model',
    'Model': 'serving.model',
    # Building blocks for researchers
    'Ensemble': 'model.ensemble',
    'make_ensemble': 'model.ensemble',
    'SequenceEncoder': 'model.encoders.base',
    'emkd_loss': 'objective.emkd',
    'next_item_loss': 'objective.next_item',
    'TrainState': 'training.state',
    'one_step': 'training.step',
    'compile_train_steps': 'training.dispatch',
    # Errors whose message is for the user
    'UserError': 'errors',
    'RunError': 'errors',
    'PreemptedError': 'errors',
}

__all__ = [*_PUBLIC, '__version__']

if TYPE_CHECKING:
    from emkd_jax.config import get_config as get_config
    from emkd_jax.data import load_dataset as load_dataset
    from emkd_jax.data import read_events as read_events
    from emkd_jax.data.dataset import Dataset as Dataset
    from emkd_jax.errors import PreemptedError as PreemptedError
    from emkd_jax.errors import RunError as RunError
    from emkd_jax.errors import UserError as UserError
    from emkd_jax.model.encoders.base import SequenceEncoder as SequenceEncoder
    from emkd_jax.model.ensemble import Ensemble as Ensemble
    from emkd_jax.model.ensemble import make_ensemble as make_ensemble
    from emkd_jax.objective.emkd import emkd_loss as emkd_loss
    from emkd_jax.objective.next_item import next_item_loss as next_item_loss
    from emkd_jax.runs.continuation import continue_training as continue_training
    from emkd_jax.runs.distill import distill as distill
    from emkd_jax.runs.loop import train as train
    from emkd_jax.runs.trained import TrainedRun as TrainedRun
    from emkd_jax.runs.trained import load_run as load_run
    from emkd_jax.serving.model import Model as Model
    from emkd_jax.serving.model import load as load
    from emkd_jax.training.dispatch import compile_train_steps as compile_train_steps
    from emkd_jax.training.state import TrainState as TrainState
    from emkd_jax.training.step import one_step as one_step
else:  # a type checker would take every name for one that this finds

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        value = getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
