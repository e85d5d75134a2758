"""The exceptions whose message is for the user; `launch.py` prints it without a traceback.

A message is one sentence that names the file, line or option, and what to do. The commands that it
names are written so that they work as they stand, in the environment of this process.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
from typing import Any

_CHECKOUT = pathlib.Path(__file__).resolve().parents[1]


class UserError(Exception):
    """A mistake the user can mend."""

    exit_code = 2


class RunError(Exception):
    """The run cannot go on: numbers not finite, memory or disk full."""

    exit_code = 1


class HostLostError(RunError):
    """Another process of the run is gone."""

    exit_code = 134  # as where JAX aborts; cluster managers restart what ends with more than 127


class PreemptedError(Exception):
    """A signal asked the run to stop; nothing that was done is lost."""

    exit_code = 143  # 128 + SIGTERM, by convention


def this_program() -> str:
    """The command line as the user called it, as in `emkd-jax` or `python launch.py`."""
    called = pathlib.Path(sys.argv[0])
    if called.name == 'launch.py':
        return f'{_typed(sys.executable)} {sys.argv[0]}'
    return _typed(sys.argv[0]) if called.name == 'emkd-jax' else 'emkd-jax'


def install_command(extra: str) -> str:
    """The command that installs an extra of this project, or a package with another name.

    Args:
      extra: its name in pyproject.toml, in brackets, as in '[serve]'; or the name of a package.
    """
    python = _typed(sys.executable)
    has_pip = importlib.util.find_spec('pip') is not None
    pip = f'{python} -m pip install' if has_pip else f'uv pip install --python {python}'
    if not extra.startswith('['):
        return f'{pip} {extra}'
    # Only an installed project is known to pip by its name; a mere checkout has a folder.
    project: str | pathlib.Path = 'emkd-jax'
    if not _is_installed() and (_CHECKOUT / 'pyproject.toml').exists():
        project = '.' if pathlib.Path.cwd() == _CHECKOUT else _CHECKOUT
    return f"{pip} '{project}{extra}'"


def _is_installed() -> bool:
    # What setuptools leaves in a checkout looks like an installation, but no installer made it.
    found = importlib.metadata.distributions(name='emkd-jax')
    return any(one.read_text('INSTALLER') for one in found)


def _typed(program: str) -> str:
    """The shortest form of the path of a program that finds it from the current folder."""
    path = pathlib.Path(program)
    if not program or shutil.which(path.name) == os.path.abspath(program):
        return path.name or 'python'
    if path.is_absolute() and path.is_relative_to(pathlib.Path.cwd()):
        return str(path.relative_to(pathlib.Path.cwd()))
    return program


def import_extra(module: str, purpose: str, extra: str) -> Any:
    """Imports a module that is installed only by those who use it.

    Args:
      module: its name.
      purpose: what needs it, as the subject of a sentence.
      extra: what is installed to have it; see `install_command`.

    Raises:
      UserError: it, or what it imports itself, is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        broken = '' if isinstance(error, ModuleNotFoundError) else f' ({error})'
        raise UserError(
            f'{purpose} needs {error.name or module}{broken}; run: {install_command(extra)}'
        ) from error
