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
    changes = _git(folder, 'diff', '--name-only', 'HEAD', '--', '*.py') if commit else None
    return Clone(folder, commit, None if changes is None else bool(changes))


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
