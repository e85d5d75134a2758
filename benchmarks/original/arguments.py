"""A configuration in the words of the original's command line."""

import functools
from typing import Any

import ml_collections

from emkd_jax.config import base_config
from emkd_jax.errors import UserError

_DATASET_CODES = {'toys': 'toys', 'beauty': 'beauty', 'ml_1m': 'ml-1m'}
_ARGUMENTS = {
    'data.window_step': 'slide_window_step',
    'model.max_len': 'bert_max_len',
    'model.hidden_dim': 'bert_hidden_units',
    'model.num_blocks': 'bert_num_blocks',
    'model.num_heads': 'bert_num_heads',
    'model.dropout': 'bert_dropout',
    'ensemble.num_networks': 'N',
    'objective.num_views': 'num_positive',
    'objective.mask_prob': 'bert_mask_prob',
    'objective.temperature': 'tau',
    'objective.kd_weight': 'mu',
    'objective.contrast_weight': 'lambda_',
    'optimizer.learning_rate': 'lr',
    'train.batch_size': 'train_batch_size',
}
_NOT_WORK = ('model.dtype', 'ensemble.shared_init')  # how a step is computed, not what
_WORK = ('model', 'ensemble', 'objective', 'optimizer')


def dataset_code(config: ml_collections.ConfigDict) -> str:
    """The original's name of the data set.

    Raises:
      UserError: it does not have this data set.
    """
    if config.data.name not in _DATASET_CODES:
        raise UserError(
            f'--pytorch_repo: the original has no data set {config.data.name}; use a configuration '
            f'of {", ".join(_DATASET_CODES)}.'
        )
    return _DATASET_CODES[config.data.name]


def arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The original's arguments, by name, that make its work that of `config`.

    Raises:
      UserError: the configuration asks for something that the original cannot do.
    """
    released = base_config()
    for section in _WORK:
        for option, value in config[section].items():
            name, only = f'{section}.{option}', released[section][option]
            if name not in _ARGUMENTS and name not in _NOT_WORK and value != only:
                raise UserError(
                    f'--pytorch_repo: the original cannot do {name}={value}; '
                    f'compare with --config.{name}={only}.'
                )
    return {
        argument: functools.reduce(getattr, name.split('.'), config)
        for name, argument in _ARGUMENTS.items()
    }
