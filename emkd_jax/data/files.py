"""The authors' released files: which they are, and how they are read without trusting them.

A data set is two files of the repository that came with the EMKD paper: a pickle of the split
histories and a JSON of the items' attributes. The pickle may hold plain containers, integers and
strings, nothing else; the reader's memory is bounded by the size of the file.
"""

import hashlib
import io
import json
import pathlib
import pickle
import pickletools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from emkd_jax.data.dataset import Ragged, attribute_table
from emkd_jax.errors import UserError

# Opcodes of a protocol-4 pickle of dicts, lists, integers and strings. Without the opcodes that
# name a memo slot or size a buffer, a pickle cannot ask for more memory than it is long.
_PLAIN_OPCODES = frozenset(
    {
        'PROTO',
        'FRAME',
        'STOP',
        'MARK',
        'MEMOIZE',
        'BINGET',
        'LONG_BINGET',
        'EMPTY_DICT',
        'SETITEM',
        'SETITEMS',
        'EMPTY_LIST',
        'APPEND',
        'APPENDS',
        'BININT',
        'BININT1',
        'BININT2',
        'LONG1',
        'SHORT_BINUNICODE',
        'BINUNICODE',
    }
)
_PARTS = ('train', 'val', 'test', 'umap', 'smap')
MOST_BYTES = 64 * 2**20  # of one file; the largest released one has 3 MB


class ReleasedFile(NamedTuple):
    """`path` inside the authors' repository, and the SHA-256 (hex) of the file there."""

    path: str
    sha256: str


class Release(NamedTuple):
    """The two files of a data set."""

    histories: ReleasedFile
    attributes: ReleasedFile


def _release(folder, histories_sha256, attributes, attributes_sha256):
    return Release(
        ReleasedFile(
            f'Data/preprocessed/{folder}_min_rating0-min_uc5-min_sc5-splitleave_one_out/'
            'dataset.pkl',
            histories_sha256,
        ),
        ReleasedFile(f'{attributes}_item2attributes.json', attributes_sha256),
    )


RELEASES = {
    'toys': _release(
        'toys',
        'e6e8f7f188326a3370749055e2a736fbd16ac036f42fe051ebd8eb891ff7bd4a',
        'Toys_and_Games',
        'd371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0',
    ),
    'beauty': _release(
        'beauty',
        '1d5ba224ff02584bcde37d3dd9fd3191d440829e7fcb7fe42dcfd313dd2144cb',
        'Beauty',
        '129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4',
    ),
    'ml_1m': _release(
        'ml-1m',
        'b3fb3e8b79d5a9d2fc1376dc6bd601a49d39777705370196c9b7f18288621002',
        'ML-1M',
        '6444ceaeea65f889dcd7f58eaf471d0c2be411e8dfca54d2cedf23f4e8f1bb42',
    ),
}


class Histories(NamedTuple):
    """What a `dataset.pkl` says: whole histories, and original ids by index (items from 1)."""

    histories: Ragged
    user_ids: Int64[np.ndarray, ' users']
    item_ids: Int64[np.ndarray, ' items']


def verify(release: Release, folder: pathlib.Path) -> None:
    """Raises UserError unless `folder` holds the release's files, unchanged."""
    for file in release:
        path = folder / file.path
        if hashlib.sha256(_read(path)).hexdigest() != file.sha256:
            raise UserError(
                f'{path} is not the file that the authors released (its SHA-256 is not '
                f'{file.sha256[:12]}...); fetch it again.'
            )


def read_histories(path: pathlib.Path) -> Histories:
    """Reads a `dataset.pkl`: `{train, val, test: {user: [items]}, umap, smap: {original id: id}}`.

    Raises UserError where it is anything else.
    """
    content = _read(path)
    parts = _unpickle(content, path)
    _check(
        type(parts) is dict and all(type(parts.get(name)) is dict for name in _PARTS),
        path,
        f'it does not hold the dictionaries {", ".join(_PARTS)}',
    )
    item_ids = _original_ids(parts['smap'], 1, 'smap', path)
    user_ids = _original_ids(parts['umap'], 0, 'umap', path)
    for name in ('train', 'val', 'test'):
        lists = parts[name]
        _check(
            set(lists) == set(range(len(user_ids))),
            path,
            f'{name} does not have exactly the users of umap',
        )
        _check(
            all(type(row) is list and row for row in lists.values()),
            path,
            f'{name} has a user without a list of items',
        )
        # Also bounds what many references to one list can unfold to.
        most = len(content) if name == 'train' else len(user_ids)
        _check(
            sum(map(len, lists.values())) <= most,
            path,
            f'{name} has more items than {"its file bytes" if name == "train" else "users"}',
        )
    rows = [
        parts['train'][user] + parts['val'][user] + parts['test'][user]
        for user in range(len(user_ids))
    ]
    items = [item for row in rows for item in row]
    _check(_integers(items, 1, len(item_ids)), path, f'an item is not in 1..{len(item_ids)}')
    return Histories(Ragged.from_rows(rows), user_ids, item_ids)


def read_attributes(path: pathlib.Path, num_items: int) -> Int32[np.ndarray, 'rows most']:
    """Reads an `*_item2attributes.json`: `{item: [attributes]}`, attributes numbered 1..A.

    Repeats in a list and the attributes of item 0, which is not an item, are left out. Raises
    UserError where the file is anything else.

    Returns:
      `Dataset.item_attributes`.
    """
    try:
        lists = json.loads(_read(path))
    except (ValueError, RecursionError, MemoryError) as error:
        raise _damaged(path, 'it is not JSON') from error
    _check(type(lists) is dict and len(lists) > 0, path, 'it is not a filled JSON object')
    rows = [[] for _ in range(num_items + 1)]
    for key, attributes in lists.items():
        _check(
            len(key) < 10
            and key.isascii()
            and key.isdigit()
            and str(int(key)) == key
            and int(key) <= num_items,
            path,
            f'{_shown(key)} is not an item in 1..{num_items}',
        )
        _check(
            type(attributes) is list and _integers(attributes, 1, 2**31 - 1),
            path,
            f'the attributes of item {key} are not a list of numbers from 1',
        )
        rows[int(key)] = list(dict.fromkeys(attributes))
    rows[0] = [0]
    used = {attribute for row in rows for attribute in row}
    _check(max(used) == len(used) - 1, path, 'its attributes are not numbered 1, 2, 3, ...')
    most = max(map(len, rows))
    _check(len(rows) * most <= MOST_BYTES, path, f'an item has {most} attributes')
    return attribute_table(rows)


def _read(path: pathlib.Path) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise UserError(
                f'There is no file {path}; data.source must be a folder with the layout of the '
                "authors' repository."
            )
        with path.open('rb') as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}); make it readable.') from error
    _check(len(content) <= MOST_BYTES, path, f'it has more than {MOST_BYTES} bytes')
    return content


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global, so that a pickle cannot name code, let alone run it."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f'{module}.{name}')


def _unpickle(content: bytes, path: pathlib.Path) -> Any:
    try:
        for opcode, _, position in pickletools.genops(content):
            if opcode.name not in _PLAIN_OPCODES:
                raise _damaged(
                    path,
                    f'its byte {position} is {opcode.name}, which plain containers and integers '
                    'do not need',
                )
        return _PlainUnpickler(io.BytesIO(content)).load()
    except UserError:
        raise
    except Exception as error:  # which one a broken pickle raises is anybody's guess
        raise _damaged(path, 'it is not a whole pickle') from error


def _original_ids(numbers: dict, first: int, name: str, path) -> Int64[np.ndarray, ' ids']:
    """Turns `{original id: number}`, numbers from `first` without gaps, around.

    In ML-1M's file each number stands in a list of one.
    """
    pairs = [
        (value[0] if type(value) is list and len(value) == 1 else value, key)
        for key, value in numbers.items()
    ]
    _check(
        len(pairs) > 0
        and _integers([number for number, _ in pairs], first, first + len(pairs) - 1)
        and len({number for number, _ in pairs}) == len(pairs),
        path,
        f'{name} does not number its ids from {first} without gaps',
    )
    _check(
        _integers([key for _, key in pairs], 0, 2**63 - 1),
        path,
        f'{name} has an id that is not a 64-bit number',
    )
    return np.array([key for _, key in sorted(pairs)], np.int64)


def _integers(values: list, least: int, most: int) -> bool:
    """Are these integers (no booleans) in least..most?"""
    return not values or (
        set(map(type, values)) == {int} and least <= min(values) and max(values) <= most
    )


def _check(condition: bool, path: pathlib.Path, complaint: str) -> None:
    if not condition:
        raise _damaged(path, complaint)


def _damaged(path: pathlib.Path, complaint: str) -> UserError:
    return UserError(f'{path} is damaged: {complaint}; fetch the file again.')


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 20 else f'{text[:20]}...')
