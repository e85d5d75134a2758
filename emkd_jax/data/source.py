"""A user's file: opened whatever its compression, read line by line, and named in complaints."""

import contextlib
import glob
import gzip
import hashlib
import io
import pathlib
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from emkd_jax.errors import UserError

_SNIFFED_LINES = 20
_SNIFFED_BYTES = 2**16  # of a line
_WORKBOOKS = ('.xlsx', '.xlsm', '.ods')
_NOT_READ = {
    b'\xff\xfe': 'is UTF-16; convert it to UTF-8',
    b'\xfe\xff': 'is UTF-16; convert it to UTF-8',
    b'PK\x03\x04': 'is a zip archive; unpack it first',
    b'BZh': 'is compressed with bzip2; unpack it first, or compress it with gzip',
    b'\xfd7zXZ': 'is compressed with xz; unpack it first, or compress it with gzip',
    b'\x28\xb5\x2f\xfd': 'is compressed with zstd; unpack it first, or compress it with gzip',
}


class Source(NamedTuple):
    """A file that is there and not empty.

    Attributes:
      path: the file.
      gzipped: it is compressed with gzip.
      parquet: it is Parquet.
      database: 'sqlite' or 'duckdb' if it is a database of theirs.
      partitions: names and values in the folders of a partitioned log, as in `day=2031-01-09`.
    """

    path: pathlib.Path
    gzipped: bool
    parquet: bool
    database: str = ''
    partitions: tuple[tuple[str, str], ...] = ()

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
            start = file.read(16)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or 'bad name'
        raise UserError(f'{path} cannot be read ({reason}); mend {option}.') from error
    if not start:
        raise UserError(f'{path} is empty; mend {option}.')
    if start.startswith(b'PK') and path.suffix.lower() in _WORKBOOKS:
        raise UserError(
            f'{path} is a workbook; save its table as CSV, and name that with {option}.'
        )
    for magic, complaint in _NOT_READ.items():
        if start.startswith(magic):
            raise UserError(f'{path} {complaint}.')
    database = 'sqlite' if start.startswith(b'SQLite format 3') else ''
    if start[8:12] == b'DUCK':
        database = 'duckdb'
    partitions = (part.split('=', 1) for part in path.parts[:-1] if '=' in part)
    return Source(
        path,
        start.startswith(b'\x1f\x8b'),
        start.startswith(b'PAR1'),
        database,
        tuple((name, urllib.parse.unquote(value)) for name, value in partitions),
    )


def find_all(path: str | pathlib.Path, option: str) -> list[Source]:
    """The file at `path`; or all files in a folder, or of a pattern, in the order of their names.

    Empty files are not taken. A folder is searched at any depth, but for files and folders whose
    names begin with a dot or an underscore.

    Raises:
      UserError: there is none, or one of a kind that is not read.
    """
    folder = pathlib.Path(path).expanduser()
    if folder.is_dir():
        files = (file for file in folder.rglob('*') if _is_part(file.relative_to(folder)))
    elif any(mark in str(path) for mark in '*?[') and not folder.exists():
        files = (pathlib.Path(file) for file in glob.iglob(str(folder), recursive=True))
    else:
        return [find(path, option)]
    # As text, not by their parts, as other programs order them.
    taken = sorted((file for file in files if file.is_file() and file.stat().st_size), key=str)
    if not taken:
        raise UserError(f'{path} holds no files that are not empty; correct {option}.')
    return [find(file, option) for file in taken]


def _is_part(path):
    return not any(part.startswith(('.', '_')) for part in path.parts)


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
