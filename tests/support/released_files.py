"""Miniature data sets in the layout of the authors' files, and their releases."""

import hashlib
import json
import pathlib
import pickle

import numpy as np

from emkd_jax.data import files


def make_parts(users=12, items=30, listed=False):
    """The content of a `dataset.pkl`; `listed`: the item map's values are lists, as ML-1M's."""
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
    """The content of an `*_item2attributes.json`, one list with a repeat."""
    lists = {str(item): [1 + item % 5, 6 + item % 3] for item in range(items, 0, -1)}
    lists |= {'3': [9, 4, 9], '5': [2]}
    return lists


def write(folder: pathlib.Path, name, histories: bytes, attributes: bytes) -> files.Release:
    """Puts both files where the release of set `name` has them; returns their release."""
    contents = (histories, attributes)
    written = []
    for file, content in zip(files.RELEASES[name], contents, strict=True):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(files.ReleasedFile(file.path, hashlib.sha256(content).hexdigest()))
    return files.Release(*written)


def write_miniature(folder: pathlib.Path, name) -> files.Release:
    """A miniature of the set `name`, with the quirks of its files."""
    attributes = make_attributes()
    if name == 'ml_1m':
        attributes['0'] = [5]
    return write(
        folder,
        name,
        pickle.dumps(make_parts(listed=name == 'ml_1m')),
        json.dumps(attributes).encode(),
    )
