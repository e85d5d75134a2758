"""The exceptions whose message is for the user; `launch.py` prints it without a traceback.

A message is one sentence that names the file, line or option, and what to do.
"""

import importlib
from typing import Any


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


def import_extra(module: str, purpose: str, install: str) -> Any:
    """Imports a module that is installed only by those who use it.

    Args:
      module: its name.
      purpose: what needs it, as the subject of a sentence.
      install: what pip installs to have it.

    Raises:
      UserError: it, or what it imports itself, is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        broken = '' if isinstance(error, ModuleNotFoundError) else f' ({error})'
        raise UserError(
            f'{purpose} needs {error.name or module}{broken}; run: pip install {install}'
        ) from error
