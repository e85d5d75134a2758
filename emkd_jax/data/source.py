"""A user's file: opened whatever its compression, read line by line, and named in complaints."""

import contextlib
import gzip
import hashlib
import io
import pathlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from emkd_jax.errors import UserError

_SNIFFED_LINES = 20
_SNIFFED_BYTES = 2**16  # of a line
_NOT_READ = {
    b'\xff\xfe': 'is UTF-16; convert it to UTF-8',
    b'\xfe\xff': 'is UTF-16; convert it to UTF-8',
    b'PK\x03\x04': 'is a zip archive; unpack it first',
    b'BZh': 'is compressed with bzip2; unpack it first, or compress it with gzip',
    b'\xfd7zXZ': 'is compressed with xz; unpack it first, or compress it with gzip',
    b'\x28\xb5\x2f\xfd': 'is compressed with zstd; unpack it first, or compress it with gzip',
}


class Source(NamedTuple):
    """A file that is there and not empty, plain or gzipped."""

    path: pathlib.Path
    gzipped: bool
    parquet: bool

    def lines(self, encoding: str = 'utf-8') -> contextlib.AbstractContextManager[TextIO]:
        """The opened text. Bytes that are not `encoding` come as surrogates; see `decoded`."""
        return _reading(self, encoding)

    def first_lines(self) -> list[str]:
        """Some lines from the beginning, without a byte order mark; long ones are cut."""
        with _reading(self, 'utf-8') as file:
            read = [file.readline(_SNIFFED_BYTES) for _ in range(_SNIFFED_LINES)]
        return [line.rstrip('\r\n') for line in read if line]

    def digest(self) -> str:
        """SHA-256 (hex) of the file as it is."""
        with self.path.open('rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()


def find(path: str | pathlib.Path, option: str) -> Source:
    """The file at `path`, which `option` named (as it is written on the command line).

    Raises:
      UserError: it is missing, empty, a folder, or of a kind that is not read.
    """
    path = pathlib.Path(path).expanduser()
    try:
        if path.is_dir():
            raise UserError(
                f'{path} is a folder{_content(path)}; name the file itself with {option}.'
            )
        with path.open('rb') as file:
            start = file.read(8)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or 'bad name'
        raise UserError(f'{path} cannot be read ({reason}); mend {option}.') from error
    if not start:
        raise UserError(f'{path} is empty; mend {option}.')
    for magic, complaint in _NOT_READ.items():
        if start.startswith(magic):
            raise UserError(f'{path} {complaint}.')
    return Source(path, start.startswith(b'\x1f\x8b'), start.startswith(b'PAR1'))


def decoded(text: str) -> bool:
    """Did all of the text's bytes make sense in the encoding it was read with?"""
    return text.isascii() or not any('\udc80' <= letter <= '\udcff' for letter in text)


@contextlib.contextmanager
def _reading(source: Source, encoding: str) -> Iterator[TextIO]:
    try:
        with source.path.open('rb') as file, contextlib.ExitStack() as stack:
            if source.gzipped:
                file = stack.enter_context(gzip.open(file))  # type: ignore[arg-type]
            if encoding == 'utf-8':
                encoding = 'utf-8-sig'  # takes a byte order mark off
            yield stack.enter_context(
                io.TextIOWrapper(file, encoding, errors='surrogateescape', newline='')
            )
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{source.path} cannot be read to its end ({error}).') from error


def _content(folder: pathlib.Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    shown = ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
    return f' (in it: {shown})' if shown else ''
