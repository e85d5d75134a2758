"""Miniature data sets in the layout of the released files."""

import hashlib
import json
import pathlib
import pickle

import numpy as np

from emkd_jax.data import released


def make_parts(users=12, items=30, listed=False):
    """The content of a `dataset.pkl`.

    With `listed`, the numbers of the items are in lists of one, as in the file of ML-1M.
    """
    random = np.random.default_rng(5)
    rows = [random.integers(1, items + 1, random.integers(3, 9)).tolist() for _ in range(users)]
    return {
        'train': {user: row[:-2] for user, row in enumerate(rows)},
        'val': {user: row[-2:-1] for user, row in enumerate(rows)},
        'test': {user: row[-1:] for user, row in enumerate(rows)},
        'umap': {100 + user: user for user in range(users)},
        'smap': {
            7 * item: [item] if listed else item
            for item in random.permutation(items).tolist()
            for item in [item + 1]
        },
    }


def make_attributes(items=30):
    """The content of an `*_item2attributes.json`; one list has a repeated attribute."""
    lists = {str(item): [1 + item % 5, 6 + item % 3] for item in range(items, 0, -1)}
    lists |= {'3': [9, 4, 9], '5': [2]}
    return lists


def write(folder: pathlib.Path, name, histories: bytes, attributes: bytes) -> released.Release:
    """Writes both files to the paths that the release of `name` has, and returns their release."""
    contents = (histories, attributes)
    written = []
    for file, content in zip(released.RELEASES[name], contents, strict=True):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(released.ReleasedFile(file.path, hashlib.sha256(content).hexdigest()))
    return released.Release(*written)


def write_miniature(folder: pathlib.Path, name) -> released.Release:
    """Writes a miniature of the data set `name`, with the quirks of its files."""
    attributes = make_attributes()
    if name == 'ml_1m':
        attributes['0'] = [5]
    return write(
        folder,
        name,
        pickle.dumps(make_parts(listed=name == 'ml_1m')),
        json.dumps(attributes).encode(),
    )
