"""Configurations: how they are made from the options, changed, checked and compared."""

import difflib
import importlib.util
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np

from emkd_jax.errors import UserError
from emkd_jax.options import EVENT_LOG_OPTIONS, OPTIONS, Option

_LARGEST = 2**31 - 1  # steps, rows and seeds are 32-bit integers on the devices


def base_config(event_log: bool = False) -> ml_collections.ConfigDict:
    """All options with their defaults.

    Args:
      event_log: whether the options of event logs are among them.
    """
    options = OPTIONS | (EVENT_LOG_OPTIONS if event_log else {})
    tree: dict[str, Any] = {}
    for name, option in options.items():
        *groups, leaf = name.split('.')
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = option.default
    return ml_collections.ConfigDict(tree)


# An ensemble of causal encoders that learn the next item at every position: the way to the best
# accuracy that is known here, in minutes on two CPU cores.
NEXT_ITEM_RECIPE: dict[str, Any] = {
    'model.encoder': 'sasrec_plus',
    'model.max_len': 51,
    'model.hidden_dim': 128,
    'model.num_blocks': 2,
    'model.num_heads': 1,
    'model.dropout': 0.5,
    'model.tied': True,
    'model.item_bias': False,
    'model.attribute_inputs': True,
    'ensemble.counts': True,
    'objective.kd_weight': 0.0,
    'objective.contrast_weight': 0.0,
    'objective.attribute_weight': 0.0,
    'optimizer.average_decay': 0.999,
    'train.batch_size': 4,
    'train.row_width': 64,
    'train.num_epochs': 14,
    'eval.rule': 'history',
    'eval.first_epoch': 6,
    'eval.every_epochs': 2,
}

# What options are called in other libraries, and in this one's Python interface.
_ALSO_CALLED = {
    'items': 'data.attributes',
    'item_file': 'data.attributes',
    'path': 'data.source',
    'file': 'data.source',
    'lr': 'optimizer.learning_rate',
    'n_layers': 'model.num_blocks',
    'num_layers': 'model.num_blocks',
    'embedding_size': 'model.hidden_dim',
    'hidden_size': 'model.hidden_dim',
    'max_seq_length': 'model.max_len',
}


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies one of the variants that all data sets share: '', `best`, `quick` or `released`.

    Raises:
      UserError: there is no such variant.
    """
    if variant == 'released':  # all quirks of the released code
        config.update_from_flattened_dict(
            {
                'model.dtype': 'float32',
                'ensemble.shared_init': True,
                'eval.first_epoch': 102,
                'eval.every_epochs': 1,
            }
        )
    elif variant == 'quick':  # a small model, for a machine without an accelerator
        config.update_from_flattened_dict(
            {
                'data.window_step': max(20, 4 * config.data.window_step),
                'model.hidden_dim': 64,
                'model.num_blocks': 1,
                'model.dropout': 0.1,
                'ensemble.num_networks': 2,
                'objective.num_views': 1,
                'objective.mask_prob': 0.3,
                'optimizer.learning_rate': 0.01,
                'train.batch_size': 128,
                'train.num_epochs': 7,
                'eval.first_epoch': 1,
                'eval.every_epochs': 1,
            }
        )
    elif variant == 'best':  # next-item training; each configuration adds its sizes
        config.update_from_flattened_dict(NEXT_ITEM_RECIPE)
    elif variant:
        raise UserError(
            f"configs/{config.data.name}.py has no variant '{variant}'; use :best, :released, "
            ':quick or none.'
        )
    config.name = f'{config.data.name}_{variant}' if variant else config.data.name
    return config


def get_config(name: str, **options: Any) -> ml_collections.ConfigDict:
    """A configuration by name, with some options changed.

    Args:
      name: 'toys', 'custom:quick' and so on: a file of `configs/` and its variant; or the path of
        a file of your own with a function `get_config(variant)`.
      **options: values by dotted name, as in `get_config('toys', **{'train.batch_size': 64})`.

    Raises:
      UserError: there is no such configuration or option, or a value is not allowed.
    """
    path, _, variant = name.rpartition(':') if ':' in name else (name, '', '')
    file = _config_file(path)
    spec = importlib.util.spec_from_file_location(f'emkd_jax_config_{file.stem}', file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(variant) if variant else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's file does wrong
        raise UserError(f'{file} cannot be used ({type(error).__name__}: {error}).') from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f'{file} cannot be used: its get_config returns no configuration.')
    set_options(config, options)
    check_networks(options, config)
    check_effects(options, config)
    if unread := unread_options(options, config):
        warnings.warn(unread, stacklevel=2)
    return config


def config_names() -> list[str]:
    """The configurations in `configs/`, by the names that `get_config` takes."""
    return sorted(file.stem for file in _config_folder().glob('[a-z]*.py'))


def set_options(config: ml_collections.ConfigDict, options: Mapping[str, Any]) -> None:
    """Changes options by dotted name, in place.

    Raises:
      UserError: there is no such option, or the value has another type.
    """
    check_names(options, config)
    for name, value in options.items():
        try:
            config.update_from_flattened_dict({name: _without_numpy(value)})
        except (TypeError, ValueError) as error:
            current = flatten(config.to_dict())[name]
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


def check_networks(names: Iterable[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError where an encoder or a number of networks is given, and others are named.

    Args:
      names: the options that the user gave.
      config: the configuration with these options.
    """
    members, number = config.ensemble.members, config.ensemble.num_networks
    if not members:
        return
    names, named = set(names), members.count(',') + 1
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


def check_effects(names: Iterable[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a part of the contrast that is asked for where there is no contrast.

    Args:
      names: the options that the user gave.
      config: the configuration with these options.
    """
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


def unread_options(names: Iterable[str], config: ml_collections.ConfigDict) -> str:
    """A sentence about options that were given and belong to the other task; '' if there are none.

    The same options may be given to several configurations, so this is no mistake. The arguments
    are those of `check_effects`.
    """
    if not (given := set(names) & _TASK_OF.keys()):
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


def check_names(names: Iterable[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a dotted name that is no option of `config`."""
    known = flatten(config.to_dict())
    for name in names:
        if name in known:
            continue
        # Several options may end alike; the first one is meant: model.dropout, not sweep.dropout.
        leaves = {option.rpartition('.')[2]: option for option in reversed(known)}
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


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{dotted name: value} of a nested dictionary."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as JSON holds it: nested dictionaries, and lists for tuples."""
    tree: dict[str, Any] = json.loads(config.to_json_best_effort())
    return tree


def from_json(tree: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that `to_json` wrote.

    Options that did not exist then have their defaults.

    Raises:
      UserError: an option is not known, or its value has another type.
    """
    flat = flatten(tree)
    config = base_config(event_log=flat.get('data.name') == 'custom')
    set_options(config, {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()})
    return config


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """'option: stored value -> requested value' for options that change results and differ.

    Args:
      stored: a configuration, as `to_json` gives it.
      requested: another one.
    """
    before, after = flatten(stored), flatten(requested)
    options = OPTIONS | EVENT_LOG_OPTIONS
    found = []
    follows = {  # from the data or from another option, so the stored value is the right one
        'train.batch_size': after.get('train.batch_size') == 0,
        'ensemble.num_networks': bool(after.get('ensemble.members')),
    }
    for name in sorted(before.keys() | after.keys()):
        option = options.get(name)
        if follows.get(name) or (option and not option.changes_results):
            continue
        default = option.default if option else 'not there'
        values = [_plain(values.get(name, default)) for values in (before, after)]
        if values[0] != values[1]:
            found.append(f'{name}: {values[0]} -> {values[1]}')
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _config_file(path: str) -> pathlib.Path:
    if path.endswith('.py'):
        file = pathlib.Path(path)
        if not file.is_file() and (named := _named_config(file.stem)):
            file = named  # configs/toys.py from anywhere, also where only the package is installed
        if file.is_file():
            return file
        raise UserError(f'--config={path}: there is no such file; look into configs/.')
    if named := _named_config(path):
        return named
    names = ', '.join(config_names())
    raise UserError(f"There is no configuration '{path[:100]}'; use one of {names}, or a file.")


def _named_config(name: str) -> pathlib.Path | None:
    file = _config_folder() / f'{name}.py'
    return file if file.is_file() and name != '__init__' else None


def _config_folder() -> pathlib.Path:
    """`configs/` of the repository, or its copy in an installed package."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


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
