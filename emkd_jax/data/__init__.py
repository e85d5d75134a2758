"""From the authors' files to histories, attributes and ids in memory."""

import pathlib

import ml_collections

from emkd_jax.data import prepared, stand_in
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError

_CUSTOM = 'custom'  # the name of anybody's own data


def load(options: ml_collections.ConfigDict) -> Dataset:
    """The data set that `config.data` asks for, decoded; prepared first where need be.

    With `stand_in`, where real data is neither prepared nor in `source`, made-up data.
    """
    if options.name == _CUSTOM:
        from emkd_jax.data import event_log as custom

        return custom.load(options)
    _check(options)
    if options.name == stand_in.ONLY or (
        options.stand_in and not options.source and not prepared.is_prepared(options.name)
    ):
        return stand_in.make(options.name)
    prepared.prepare(options.name, options.source)
    return prepared.read(options.name)


def prepare(options: ml_collections.ConfigDict) -> pathlib.Path:
    """Prepares the real data that `config.data` names, and returns its folder."""
    if options.name == _CUSTOM:
        from emkd_jax.data import event_log as custom

        return custom.prepare(options)
    _check(options)
    if options.name == stand_in.ONLY:
        raise UserError(f'The {stand_in.ONLY} data is made up at each start: nothing to prepare.')
    return prepared.prepare(options.name, options.source)


def titles(options: ml_collections.ConfigDict) -> list[str]:
    """Titles of the items, that of item i at i - 1; empty where the data has none."""
    if options.name == _CUSTOM:
        from emkd_jax.data import event_log as custom

        return custom.titles(options)
    return []


def _check(options):
    names = (*prepared.BUILDERS, stand_in.ONLY, _CUSTOM)
    if options.name not in names:
        raise UserError(f"data.name is '{options.name}'; use one of {', '.join(names)}.")
    if options.name == stand_in.ONLY and (options.source or not options.stand_in):
        raise UserError(
            f'data.name={stand_in.ONLY} has made-up data only; leave data.stand_in=True and '
            f'data.source empty, or take one of {", ".join(prepared.BUILDERS)}.'
        )
