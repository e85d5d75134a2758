"""Configurations: the options, the variants of every data set, and the files in `configs/`."""

import importlib.util
import os
import pathlib
import warnings
from typing import Any

import ml_collections

from emkd_jax.config.checks import check_given, set_options
from emkd_jax.config.options import base_config
from emkd_jax.errors import UserError

__all__ = ['apply_variant', 'base_config', 'config_names', 'get_config']

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


def get_config(name: str | os.PathLike[str], **options: Any) -> ml_collections.ConfigDict:
    """A configuration by name, with some options changed.

    Args:
      name: 'toys', 'custom:quick' and so on: a file of `configs/` and its variant; or the path of
        a file of your own with a function `get_config(variant)`.
      **options: values by dotted name, as in `get_config('toys', **{'train.batch_size': 64})`.

    Raises:
      UserError: there is no such configuration or option, or a value is not allowed.
    """
    text = os.fspath(name)
    path, _, variant = text.rpartition(':') if ':' in text else (text, '', '')
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
    if unread := check_given(options, config):
        warnings.warn(unread, stacklevel=2)
    return config


def config_names() -> list[str]:
    """The configurations in `configs/`, by the names that `get_config` takes."""
    return sorted(file.stem for file in _config_folder().glob('[a-z]*.py'))


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
    package = pathlib.Path(__file__).resolve().parents[1]
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'
