"""Translates a configuration into the command-line arguments of the authors' code."""

from typing import Any

import ml_collections

from emkd_jax.config.options import base_config, flatten
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
_GROUPS = ('model', 'ensemble', 'objective', 'optimizer')  # options that decide what is computed
_SAME_WORK = ('model.dtype', 'ensemble.shared_init')  # these do not change how much there is to do


def dataset_code(config: ml_collections.ConfigDict) -> str:
    """Returns the name of the data set in the authors' code.

    Raises:
      UserError: the authors' code has no such data set.
    """
    if config.data.name not in _DATASET_CODES:
        raise UserError(
            f'--pytorch_repo: the original has no data set {config.data.name}; use a configuration '
            f'for {", ".join(_DATASET_CODES)}.'
        )
    return _DATASET_CODES[config.data.name]


def arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns {argument: value} with which the authors' code does the work of `config`.

    Raises:
      UserError: the configuration asks for something that the authors' code cannot do.
    """
    values, released = flatten(config.to_dict()), flatten(base_config().to_dict())
    for name, value in values.items():
        fixed = name.partition('.')[0] in _GROUPS and name not in (*_ARGUMENTS, *_SAME_WORK)
        if fixed and value != released[name]:
            raise UserError(
                f'--pytorch_repo: the original cannot do {name}={value}; '
                f'compare with --config.{name}={released[name]}.'
            )
    return {argument: values[name] for name, argument in _ARGUMENTS.items()}
