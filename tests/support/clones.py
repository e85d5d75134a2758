"""A stand-in for a clone of the authors' code."""

import json
import shutil

from tests.support import ROOT

_PREPROCESSED = 'Data/preprocessed/toys_min_rating0-min_uc5-min_sc5-splitleave_one_out'

COUNTS = {'users': 600, 'items': 40, 'attributes': 5, 'windows': 50}


def make_clone(folder, counts=COUNTS):
    """A folder with the fake, its data set and an attribute file."""
    shutil.copytree(
        ROOT / 'tests' / 'support' / 'fake_clone',
        folder,
        ignore=lambda *_: ['__pycache__'],
        dirs_exist_ok=True,
    )
    (folder / _PREPROCESSED).mkdir(parents=True)
    (folder / _PREPROCESSED / 'dataset.pkl').write_text(json.dumps(counts))
    (folder / 'Toys_and_Games_item2attributes.json').write_text('{}')
    return folder
