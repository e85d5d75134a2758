"""Options that a user gives: whether they exist, what they may be, and whether they do anything."""

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np

from emkd_jax.config.options import EVENT_LOG_OPTIONS, OPTIONS, Option, flatten
from emkd_jax.errors import UserError

_LARGEST = 2**31 - 1  # steps, rows and seeds are 32-bit integers on the devices

# What options are called in other libraries, and in this one's Python interface.
_ALSO_CALLED = {
    'items': 'data.attributes',
    'item_file': 'data.attributes',
    'path': 'data.source',
    'file': 'data.source',
    'lr': 'optimizer.learning_rate',
    'epochs': 'train.num_epochs',
    'batch': 'train.batch_size',
    'n_layers': 'model.num_blocks',
    'num_layers': 'model.num_blocks',
    'embedding_size': 'model.hidden_dim',
    'hidden_size': 'model.hidden_dim',
    'max_seq_length': 'model.max_len',
}


def set_options(config: ml_collections.ConfigDict, options: Mapping[str, Any]) -> None:
    """Changes options by dotted name, in place.

    An option that is written with commas, such as `ensemble.members`, may be a list of texts here.

    Raises:
      UserError: there is no such option, or the value has another type.
    """
    check_names(options, config)
    for name, value in options.items():
        current, value = flatten(config.to_dict())[name], _without_numpy(value)
        if isinstance(current, str) and isinstance(value, list):
            value = ','.join(map(str, value))
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise UserError(
                f'{name} is {value!r}; it must be of the type {type(current).__name__}, such as '
                f'{current!r}.'
            ) from error


def _without_numpy(value: Any) -> Any:
    """The value in the types that options have: notebooks give numbers of NumPy, and paths."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_without_numpy(one) for one in value] if isinstance(value, list | tuple) else value


def check_given(names: Iterable[str], config: ml_collections.ConfigDict) -> str:
    """Refuses options that another one makes useless.

    Args:
      names: the options that the user gave, by dotted name.
      config: the configuration with these options.

    Returns:
      A sentence about options that only the other task reads, '' if there are none. The same
      options may be given to several configurations, so this is no mistake.

    Raises:
      UserError: an encoder or a number of networks is given, and `ensemble.members` names others;
        or a part of the contrast, and the contrast has no weight.
    """
    names = set(names)
    _check_networks(names, config)
    _check_contrast(names, config)
    return _unread(names, config)


def _check_networks(names: set[str], config: ml_collections.ConfigDict) -> None:
    members, number = config.ensemble.members, config.ensemble.num_networks
    if not members:
        return
    named = members.count(',') + 1
    instead = 'or set --config.ensemble.members= to train networks of model.encoder alone.'
    if 'model.encoder' in names:
        raise UserError(
            f'model.encoder is {config.model.encoder}, and ensemble.members={members} names the '
            f'encoders of the networks; leave model.encoder out, {instead}'
        )
    if 'ensemble.num_networks' in names and number != named:
        raise UserError(
            f'ensemble.num_networks is {number}, and ensemble.members={members} names {named} '
            f'networks; leave the number out, {instead}'
        )


def _check_contrast(names: set[str], config: ml_collections.ConfigDict) -> None:
    objective = config.objective
    if objective.contrast_weight or config.sweep.contrast_weight:
        return
    for part in ('icl_weight', 'ccl_weight'):
        if f'objective.{part}' in names and objective[part]:
            raise UserError(
                f'objective.{part} is {objective[part]} and has no effect, since '
                'objective.contrast_weight, by which it is multiplied, is 0; set that as well.'
            )


_TASK_OF = {  # options that one task alone reads
    'objective.mask_prob': 'cloze',
    'objective.num_views': 'cloze',
    'train.row_width': 'next_item',
}


def _unread(names: set[str], config: ml_collections.ConfigDict) -> str:
    if not (given := names & _TASK_OF.keys()):
        return ''
    from emkd_jax.model.encoders import ENCODERS  # imports JAX
    from emkd_jax.model.ensemble import member_encoders

    encoder = ENCODERS.get(next(iter(member_encoders(config)), ''))
    task = config.objective.task
    if task == 'auto' and encoder:
        task = encoder.natural_task()
    unread = sorted(name for name in given if task not in ('auto', _TASK_OF[name]))
    if not unread:
        return ''
    return (
        f'without effect: {", ".join(unread)}, since this run has objective.task={task}; '
        f'--config.objective.task={_TASK_OF[unread[0]]} reads it'
    )


def named_by_part(part: str) -> str | None:
    """The option that a part of a name stands for, such as 'epochs' or 'lr'; None: no option."""
    if part in _ALSO_CALLED:
        return _ALSO_CALLED[part]
    names = (*OPTIONS, *EVENT_LOG_OPTIONS)
    return next((o for o in names if o == part or o.endswith((f'.{part}', f'_{part}'))), None)


def check_names(names: Iterable[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a dotted name that is no option of `config`."""
    known = flatten(config.to_dict())
    for name in names:
        if name in known:
            continue
        # Several options may end alike; the first one is meant: model.dropout, not sweep.dropout.
        ordered = [option for option in (*OPTIONS, *EVENT_LOG_OPTIONS) if option in known]
        leaves = {option.rpartition('.')[2]: option for option in reversed(ordered)}
        own = name.rpartition('.')[2]
        near = (
            [option for option in [_ALSO_CALLED.get(own)] if option in known]
            or difflib.get_close_matches(name, known, 1, 0.6 if '.' in name else 1.0)
            or [leaves[leaf] for leaf in difflib.get_close_matches(own, leaves, 1)]
        )
        hint = f' (did you mean {near[0]}?).' if near else '; docs/configuration.md lists all.'
        raise UserError(f'There is no option {name[:100]}{hint}')


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first option whose value is not allowed."""
    for name, value in flatten(config.to_dict()).items():
        option = OPTIONS.get(name) or EVENT_LOG_OPTIONS.get(name)
        if option is None:
            raise UserError(f'There is no option {name}; docs/configuration.md lists all.')
        if fault := _fault(option, value):
            raise UserError(f'{name} is {value!r}; it must be {fault}.')
    ks = config.eval.ks
    if 10 not in ks or not all(type(k) is int and k >= 1 for k in ks):
        raise UserError(
            f'eval.ks is {tuple(ks)}; it must hold cut-offs of at least 1, and 10 among them, '
            'since validation NDCG@10 selects the checkpoint.'
        )


def _fault(option: Option, value: Any) -> str:
    """What the value must be, if it is not allowed."""
    if option.choices:
        if value in option.choices:
            return ''
        return 'one of ' + ', '.join(str(choice) or "''" for choice in option.choices)
    if isinstance(option.default, tuple):
        numbers = isinstance(value, tuple | list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in value
        )
        return '' if numbers else 'a list of numbers, such as (1e-3,3e-3)'
    if option.least is not None and not value >= option.least:
        return f'at least {option.least}'
    if option.above is not None and not value > option.above:
        return f'more than {option.above}'
    if option.below is not None and not value < option.below:
        return f'less than {option.below}'
    if isinstance(value, int) and value > _LARGEST:
        return f'at most {_LARGEST}'
    return ''
