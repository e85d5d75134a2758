"""A run's folder: which configuration it belongs to, and the files written whole or not at all."""

import json
import os
from typing import Any

import jax
import ml_collections
from etils import epath

from emkd_jax.errors import UserError

_NOT_COMPARED = ('data.source',)  # where the files were; what they hold is fingerprinted


def open_workdir(workdir: str, config: ml_collections.ConfigDict) -> epath.Path:
    """Makes the folder, or checks that it belongs to a run of the same configuration.

    Raises:
      UserError: it belongs to another configuration, or cannot be written.
    """
    folder = epath.Path(workdir)
    file = folder / 'config.json'
    ours = json.loads(config.to_json_best_effort())
    try:
        if file.exists():
            _compare(json.loads(file.read_text()), ours, file)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK) and '://' not in workdir:
            raise PermissionError(13, 'Permission denied')
        if jax.process_index() == 0 and not file.exists():
            write_json(file, ours)
    except OSError as error:
        raise UserError(
            f'The workdir {folder} cannot be used ({error.strerror or error}); '
            'choose another with --workdir.'
        ) from error
    except ValueError as error:
        raise UserError(
            f'{file} is not the configuration of a run; choose another --workdir, or delete it.'
        ) from error
    return folder


def write_json(file: epath.Path, value: Any) -> None:
    """Writes a whole file or none."""
    partial = file.parent / f'{file.name}.partial'
    partial.write_text(json.dumps(value, indent=2) + '\n')
    partial.replace(file)


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """'option: their value -> our value' for every option that differs."""
    theirs, ours = _flat(theirs), _flat(ours)
    return [
        f'{name}: {theirs.get(name, "not there")} -> {ours.get(name, "not there")}'
        for name in sorted(theirs.keys() | ours.keys())
        if name not in _NOT_COMPARED and theirs.get(name) != ours.get(name)
    ]


def _compare(theirs, ours, file):
    differing = differences(theirs, ours)
    if differing:
        raise UserError(
            f'{file} is of a run with another configuration ({"; ".join(differing)}); '
            'choose another --workdir, or the same configuration.'
        )


def _flat(tree, prefix=''):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {
        name: value
        for key, branch in tree.items()
        for name, value in _flat(branch, f'{prefix}{key}.').items()
    }
