"""The authors' code as a user has it: a clone of hw-du/EMKD, read and never written to."""

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
    """`commit` is None where git does not know it; `modified`: its code is not that commit's."""

    path: pathlib.Path
    commit: str | None
    modified: bool | None


def open_clone(path: str, dataset_code: str) -> Clone:
    """Checks that `path` holds the code and the prepared data set.

    Raises:
      UserError: it does not.
    """
    folder = pathlib.Path(path).expanduser().resolve()
    missing = [name for name in _CODE if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f'--pytorch_repo={path} is not a clone of hw-du/EMKD (there is no {missing[0]}); '
            f'git clone {_URL} and name its folder.'
        )
    data = f'Data/preprocessed/{dataset_code}_min_rating0-min_uc5-min_sc5-splitleave_one_out'
    if not (folder / data / 'dataset.pkl').is_file():
        raise UserError(
            f'--pytorch_repo={path} has no {data}/dataset.pkl, which the repository holds; '
            f'git clone {_URL} anew and name its folder.'
        )
    commit = _git(folder, 'rev-parse', 'HEAD')
    changed = _git(folder, 'diff', '--name-only', 'HEAD', '--', '*.py') if commit else None
    return Clone(folder, commit, None if changed is None else bool(changed))


def lay_out(clone: Clone, folder: pathlib.Path) -> None:
    """Makes `folder` what the original expects of its working directory, with links to its data."""
    for name in ('Data', *(path.name for path in clone.path.glob('*_item2attributes.json'))):
        (folder / name).symlink_to(clone.path / name)


def _git(folder, *words):
    command = ['git', f'--git-dir={folder}/.git', f'--work-tree={folder}', *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
