"""MovieLens ml-latest-small, which comes with the package: see TERMS.md in this folder."""

import dataclasses
import pathlib

from emkd_jax.data.dataset import Dataset

NAME = 'movielens'

_FOLDER = pathlib.Path(__file__).parent


def load() -> Dataset:
    """Reads the 5-core of the ratings: every user has rated five of the films, and every film is
    rated by five of the users. The titles and genres of the films are there too.
    """
    from emkd_jax.data import event_log

    read = event_log.read_events(
        _FOLDER / 'ratings.parquet', _FOLDER / 'movies.parquet', attribute_columns='genres'
    )
    return dataclasses.replace(read, name=NAME)
