"""The files that the authors of EMKD released: where they are, and how they are read.

A data set is two files of the repository that came with the paper: a pickle of the users' histories
and JSON with the items' attributes. A file is read only after its SHA-256 was found to be that of
the released file, so the readers rely on its layout.
"""

import hashlib
import io
import json
import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError, this_program

_REPOSITORY = (
    'https://raw.githubusercontent.com/hw-du/EMKD/984d46cffe8298dc9f55e808ee949f371229ecfe/'
)


class ReleasedFile(NamedTuple):
    """A file's path inside the authors' repository, and the SHA-256 (hex) of its content."""

    path: str
    sha256: str


class Release(NamedTuple):
    """The two files of a data set."""

    histories: ReleasedFile
    attributes: ReleasedFile


# The folder and SHA-256 of the pickle, and the first word and SHA-256 of the JSON.
_FILES = {
    'toys': (
        'toys',
        'e6e8f7f188326a3370749055e2a736fbd16ac036f42fe051ebd8eb891ff7bd4a',
        'Toys_and_Games',
        'd371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0',
    ),
    'beauty': (
        'beauty',
        '1d5ba224ff02584bcde37d3dd9fd3191d440829e7fcb7fe42dcfd313dd2144cb',
        'Beauty',
        '129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4',
    ),
    'ml_1m': (
        'ml-1m',
        'b3fb3e8b79d5a9d2fc1376dc6bd601a49d39777705370196c9b7f18288621002',
        'ML-1M',
        '6444ceaeea65f889dcd7f58eaf471d0c2be411e8dfca54d2cedf23f4e8f1bb42',
    ),
}
_HISTORIES = 'Data/preprocessed/{}_min_rating0-min_uc5-min_sc5-splitleave_one_out/dataset.pkl'
RELEASES = {
    name: Release(
        ReleasedFile(_HISTORIES.format(folder), pickle_sha256),
        ReleasedFile(f'{title}_item2attributes.json', json_sha256),
    )
    for name, (folder, pickle_sha256, title, json_sha256) in _FILES.items()
}


class Histories(NamedTuple):
    """Whole histories, and original ids by number (users from 0, items from 1)."""

    histories: Ragged
    user_ids: Int64[np.ndarray, ' users']
    item_ids: Int64[np.ndarray, ' items']


def download(name: str, folder: pathlib.Path) -> None:
    """Downloads the files of a data set, in the layout of the authors' repository.

    Raises:
      UserError: GitHub cannot be reached, or does not answer with the released files.
    """
    import pooch

    registry = {file.path: f'sha256:{file.sha256}' for file in RELEASES[name]}
    fetcher = pooch.create(folder, _REPOSITORY, registry=registry)
    try:
        for path in registry:
            fetcher.fetch(path)
    except (OSError, ValueError) as error:  # no answer, or an answer with another SHA-256
        reason: BaseException = error
        while reason.__context__:  # the first error in the chain is the clearest
            reason = reason.__context__
        raise UserError(
            f'`{this_program()} --config=movielens` works here at once, on real data. '
            f'The {name} data is not on this machine and cannot be downloaded from GitHub '
            f'({str(reason)[:200]}): name a folder with the files of the authors in '
            '--config.data.source=FOLDER, or run --mode=prepare on a machine with a network and '
            'set TFDS_DATA_DIR to a copy of its result here, or train on a made-up stand-in with '
            '--config.data.stand_in=True.'
        ) from error


def read_verified(file: ReleasedFile, folder: pathlib.Path) -> bytes:
    """Reads a released file from a folder with the layout of the authors' repository.

    Raises:
      UserError: the file is missing, cannot be read, or is not the released one.
    """
    path = folder / file.path
    if not path.is_file():
        raise UserError(
            f'There is no file {path}; data.source must be a folder with the layout of the '
            "authors' repository."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}); make it readable.') from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(
            f'{path} is not the file that the authors released (its SHA-256 is not '
            f'{file.sha256[:12]}...); download it again.'
        )
    return content


def read_histories(content: bytes) -> Histories:
    """Reads a `dataset.pkl`: `{train, val, test: {user: [items]}, umap, smap: {id: number}}`."""
    parts = _PlainUnpickler(io.BytesIO(content)).load()
    user_ids, item_ids = _ids_by_number(parts['umap']), _ids_by_number(parts['smap'])
    rows = [
        parts['train'][user] + parts['val'][user] + parts['test'][user]
        for user in range(len(user_ids))
    ]
    return Histories(Ragged.from_rows(rows), user_ids, item_ids)


def read_attributes(content: bytes, num_items: int) -> list[list[int]]:
    """Reads an `*_item2attributes.json`: `{item: [attributes]}`, attributes numbered from 1.

    Returns:
      The attributes of items 1 to `num_items`, each once. The file of ML-1M also lists attributes
      of item 0, which is no item; they are left out.
    """
    attributes = json.loads(content)
    return [list(dict.fromkeys(attributes.get(str(item), []))) for item in range(1, num_items + 1)]


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name of a class or function, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f'the pickle names {module}.{name}')


def _ids_by_number(numbers: dict[int, Any]) -> Int64[np.ndarray, ' ids']:
    """Inverts `{original id: number}`; in the file of ML-1M each number is in a list of one."""
    pairs = sorted(
        (number[0] if isinstance(number, list) else number, original)
        for original, number in numbers.items()
    )
    return np.array([original for _, original in pairs], np.int64)
