"""Output whose reader is gone: `head` has enough, or the terminal was closed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe and of a terminal


@contextlib.contextmanager
def may_be_lost(stream: Any) -> Iterator[None]:
    """Goes on where the block cannot write to `stream` because nobody reads it any more.

    What follows is written nowhere: a run keeps in its workdir all that it prints.

    Args:
      stream: a text stream, such as `sys.stdout`.
    """
    try:
        yield
        stream.flush()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        discard(stream)


def discard(stream: Any) -> None:
    """Writes nowhere what `stream` still holds and what follows, also at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Lasting:
    """A stream that can be written to, with no effect, when nobody reads it any more."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes at once."""
        with may_be_lost(self._stream):
            self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
