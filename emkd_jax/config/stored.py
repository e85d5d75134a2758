"""Configurations as a run keeps them: written to JSON, read again and compared."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from emkd_jax.config.checks import set_options
from emkd_jax.config.options import EVENT_LOG_OPTIONS, OPTIONS, base_config, flatten


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
