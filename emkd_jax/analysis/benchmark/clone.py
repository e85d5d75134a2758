"""A clone of the authors' code, hw-du/EMKD, which is read and never written to."""

import pathlib
import subprocess
from typing import NamedTuple

from emkd_jax.errors import UserError

_URL = 'https://github.com/hw-du/EMKD'
_CODE = (
    'options.py',
    'templates.py',
    'utils.py',
    'datasets/__init__.py',
    'models/__init__.py',
    'dataloaders/bert.py',
    'trainers/bert.py',
)


class Clone(NamedTuple):
    """A clone of the authors' code.

    Attributes:
      path: its folder.
      commit: the commit that is checked out; None if git does not know it.
      modified: whether its Python files differ from the commit; None if that is not known.
    """

    path: pathlib.Path
    commit: str | None
    modified: bool | None


def open_clone(path: str, dataset_code: str) -> Clone:
    """Checks that a folder has the authors' code and their prepared data set.

    Raises:
      UserError: it does not.
    """
    folder = pathlib.Path(path).expanduser().resolve()
    missing = [name for name in _CODE if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f'--pytorch_repo={path} is not a clone of hw-du/EMKD (there is no {missing[0]}); '
            f'run git clone {_URL} and give its folder.'
        )
    data = f'Data/preprocessed/{dataset_code}_min_rating0-min_uc5-min_sc5-splitleave_one_out'
    if not (folder / data / 'dataset.pkl').is_file():
        raise UserError(
            f'--pytorch_repo={path} has no {data}/dataset.pkl, which is part of the repository; '
            f'run git clone {_URL} again and give its folder.'
        )
    commit = _git(folder, 'rev-parse', 'HEAD')
    return Clone(folder, commit, _modified(folder) if commit else None)


def _modified(folder):
    """Whether Python files differ from the commit; None: git does not tell.

    The files themselves are compared, because a checkout that could not get a large file of data
    leaves an index without the others.
    """
    listed = _git(folder, 'ls-tree', '-r', 'HEAD')
    if listed is None:
        return None
    entries = (line.split('\t') for line in listed.splitlines() if line.endswith('.py'))
    blobs = {folder / name: facts.split()[2] for facts, name in entries}
    if not all(path.is_file() for path in blobs):
        return True
    found = _git(folder, 'hash-object', '--', *map(str, blobs))
    return None if found is None else found.split() != list(blobs.values())


def link_data(clone: Clone, folder: pathlib.Path) -> None:
    """Links the data of a clone into `folder`, which is then a working directory for its code."""
    for name in ('Data', *(path.name for path in clone.path.glob('*_item2attributes.json'))):
        (folder / name).symlink_to(clone.path / name)


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    command = ['git', f'--git-dir={folder}/.git', f'--work-tree={folder}', *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
