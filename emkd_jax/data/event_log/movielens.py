"""MovieLens as GroupLens distributes it: `ratings.dat` and `movies.dat`, or the 100K layout.

The 100K layout is `u.data` (tab-separated), `u.item` (with a flag per genre) and `u.genre`. Files
are UTF-8 or, in the older sets, Latin-1. (The newer CSVs are plain tables.)
"""

import pathlib
import re
from collections.abc import Iterator, Sequence

import ml_collections

from emkd_jax.data.event_log import text_tables
from emkd_jax.data.event_log.items import Item
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source, decoded

_NAMES = ('user', 'item', 'rating', 'timestamp')
_DAT = text_tables.TextTable(_NAMES, '::', quote='', header_lines=0)
_DATA = text_tables.TextTable(_NAMES, '\t', quote='', header_lines=0)
_NO_GENRES = '(no genres listed)'
_FLAGS = 19  # genres of the 100K layout, the last columns of u.item


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """Four numbers a line, between '::' or tabs."""
    return all(re.fullmatch(r'\d+(::|\t)\d+\1[\d.]+\1\d+', line) for line in lines)


def events_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The event files of a folder."""
    return [path for name in ('ratings.dat', 'u.data') if (path := folder / name).exists()]


def items_beside(source: Source) -> pathlib.Path:
    """The item file that goes with the event file."""
    return source.path.with_name('u.item' if _is_100k(source) else 'movies.dat')


def recognises_items(source: Source, lines: Sequence[str]) -> bool:
    """`number::title::genres`, or a number, a title and so many flags between bars."""
    return bool(
        re.match(r'\d+::.*::', lines[0])
        or re.fullmatch(rf'\d+\|[^|]*\|.*(\|[01]){{{_FLAGS}}}', lines[0])
    )


def read_events(log: OpenLog) -> None:
    """Fills the table `read`."""
    table = _DATA if _is_100k(log.source) else _DAT
    text_tables.read_table(log, table)


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The movies, with their genres as attributes."""
    flags = '|' in source.first_lines()[0].split('::')[0]
    genres = _genres(source)
    with source.lines() as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip('\r\n')
            if not decoded(text):
                text = text.encode('utf-8', 'surrogateescape').decode('latin-1')
            parts = text.split('|' if flags else '::')
            if not text:
                continue
            if len(parts) < 3 or (flags and len(parts) < _FLAGS + 3):
                report.bad_lines(source.path, f'line {number}', f"it is no movie: '{text[:40]}'")
                continue
            if flags:
                marks = parts[-_FLAGS:]
                found = [genres[place] for place, mark in enumerate(marks) if mark == '1']
            else:
                found = [name for name in parts[-1].split('|') if name not in ('', _NO_GENRES)]
            yield Item(f'line {number}', parts[0], found, parts[1])


def _is_100k(source):
    return '\t' in source.first_lines()[0]


def _genres(source):
    """Names of the genres by place, from u.genre where it is there."""
    names = [str(place) for place in range(_FLAGS)]
    file = source.path.with_name('u.genre')
    if file.exists():
        for line in file.read_text('latin-1').splitlines():
            name, _, place = line.partition('|')
            if place.isdigit() and int(place) < _FLAGS:
                names[int(place)] = name
    return names
