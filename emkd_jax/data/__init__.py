"""Data sets: the released ones, event logs of your own, and made-up data."""

import os
import pathlib
from typing import Any

import ml_collections

from emkd_jax.data import movielens_small, prepared, released, stand_in
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError

_EVENT_LOG = 'custom'


def load_dataset(name: str, source: str | os.PathLike[str] = '', stand_in: bool = False) -> Dataset:
    """Loads a data set by name; the first call downloads and prepares it.

        data = load_dataset('toys')
        data.counts()  # {'users': 19412, 'items': 11924, 'interactions': 167597, ...}

    Prepared data is kept in the folder `TFDS_DATA_DIR`, by default `~/tensorflow_datasets`.
    `read_events` reads data of your own.

    Args:
      name: 'toys' (Amazon Toys and Games), 'beauty' (Amazon Beauty), 'ml_1m' (MovieLens-1M),
        'movielens' (a small MovieLens that comes with the package), or 'quickstart', a small data
        set that is made up.
      source: a folder with the files that the authors of EMKD released, in the layout of their
        repository; empty: download the files unless the data is prepared already.
      stand_in: make up data that resembles the data set, instead of loading it. It needs no files
        and no network, and its results have no meaning.

    Raises:
      UserError: there is no such data set, its files are not the released ones, or they can neither
        be found nor downloaded.
    """
    options = {'name': name, 'source': str(source), 'stand_in': stand_in}
    return load(ml_collections.ConfigDict(options))


def read_events(events: Any, items: Any = None, **options: Any) -> Dataset:
    """Reads an event log of your own: which user took which item, and when.

        data = read_events('events.csv', items='items.csv', k_core=3)
        data = read_events(frame[['user', 'item', 'time']])
        print(data.notes)  # what was read, left out and assumed

    Args:
      events: the path of a file or folder, a pandas or polars DataFrame, or an Arrow table.
      items: the same for the attributes and titles of the items; None: those that lie beside the
        events, if there are any.
      **options: options of event logs without their prefix `data.`, such as `user_column`,
        `min_rating`, `k_core` or `split`.

    Raises:
      UserError: an option is not known, or the events cannot be read.
    """
    from emkd_jax.data import event_log

    return event_log.read_events(events, items, **options)


def load(options: ml_collections.ConfigDict) -> Dataset:
    """Loads the data set that `config.data` describes, and prepares it first if it is not.

    Raises:
      UserError: the options contradict each other, or the data cannot be had.
    """
    _check(options)
    if options.name == _EVENT_LOG:
        from emkd_jax.data import event_log

        return event_log.load(options)
    if options.name == movielens_small.NAME:
        return movielens_small.load()
    if options.stand_in or options.name == stand_in.QUICKSTART:
        return stand_in.make(options.name)
    prepared.prepare(options.name, options.source)
    return prepared.read(options.name)


def prepare(options: ml_collections.ConfigDict) -> pathlib.Path:
    """Prepares the data set that `config.data` describes, and returns its folder.

    Raises:
      UserError: the data is made up, the options contradict each other, or the data cannot be had.
    """
    _check(options)
    if options.name == _EVENT_LOG:
        from emkd_jax.data import event_log

        return event_log.prepare(options)
    if options.name == movielens_small.NAME:
        raise UserError('The movielens data comes with the package: nothing to prepare.')
    if options.stand_in or options.name == stand_in.QUICKSTART:
        raise UserError(f'The {options.name} data is made up at each start: nothing to prepare.')
    return prepared.prepare(options.name, options.source)


def _check(options: ml_collections.ConfigDict) -> None:
    names = (*released.RELEASES, movielens_small.NAME, stand_in.QUICKSTART, _EVENT_LOG)
    if options.name not in names:
        raise UserError(f"data.name is '{options.name}'; use one of {', '.join(names)}.")
    if options.name == stand_in.QUICKSTART and options.source:
        raise UserError(
            f'data.name={stand_in.QUICKSTART} is always made up; leave data.source empty, or take '
            f'one of {", ".join(released.RELEASES)}.'
        )
    if options.name == movielens_small.NAME and (options.source or options.stand_in):
        raise UserError(
            'data.name=movielens comes with the package; leave data.source and data.stand_in out.'
        )
    if options.stand_in and options.name == _EVENT_LOG:
        raise UserError(
            f'data.name={_EVENT_LOG} has no made-up stand-in; leave data.stand_in=False.'
        )
    if options.stand_in and options.source:
        raise UserError(
            'data.stand_in=True trains on made-up data and data.source names real data; set only '
            'one of them.'
        )
