"""What a program tells its user: lines, warnings and tables. Only process 0 prints."""

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence

import jax
import tqdm
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emkd_jax.cli.lost_output import may_be_lost

_WIDEST = 1000  # columns of a line that goes into a file


def say(text: str) -> None:
    """Prints a line to standard output without breaking the progress bar."""
    _print(text)


def note(text: str) -> None:
    """Prints a line to standard error, where standard output may hold the answers of a mode."""
    _print(text, to_stderr=True)


def warn(text: str) -> None:
    """Prints a warning to standard error without breaking the progress bar."""
    _print(f'Warning: {text}', to_stderr=True)


def banner(text: str) -> str:
    """Puts a line above and below `text`, so that nobody overlooks it."""
    line = '=' * min(79, len(text))
    return f'{line}\n{text}\n{line}'


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int = 1,
    mark_highest: bool = False,
) -> None:
    """Prints a table.

    Args:
      title: a line above the table; empty for none.
      columns: the heading of each column; without headings if all of them are empty.
      rows: the cells of each row.
      text_columns: this many columns from the left hold text; the others hold numbers, which are
        aligned on the right.
      mark_highest: whether a terminal shows the highest number of each column in bold.
    """
    table = Table(
        box=box.SIMPLE_HEAD if any(columns) else None,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify='left' if place < text_columns else 'right')
    highest = [
        max(map(float, filter(None, (row[place] for row in rows))), default=None)
        if mark_highest and place >= text_columns
        else None
        for place in range(len(columns))
    ]
    for row in rows:
        marked = [
            cell and best is not None and float(cell) == best
            for cell, best in zip(row, highest, strict=True)
        ]
        cells = zip(row, marked, strict=True)
        table.add_row(*(Text(cell, 'bold' if mark else '') for cell, mark in cells))
    terminal = sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        force_jupyter=False,  # which would show an empty box above the text
        width=None if terminal else _WIDEST,
    )
    with console.capture() as text:
        console.print(table)
    lines = [line.rstrip() for line in text.get().splitlines()]
    say('\n'.join([*(['', title] if title else []), *lines]))


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """Returns a table in Markdown; the arguments are those of `print_table`."""
    marks = [':--' if place < text_columns else '--:' for place in range(len(columns))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in [columns, marks, *rows])


def amount(value: int | float, unit: str) -> str:
    """Three digits of a number, with the prefix that suits its size: '1.02 GB'."""
    rounded = float(f'{value:.3g}')
    for prefix, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if rounded >= size:
            return f'{rounded / size:.3g} {prefix}{unit}'
    return f'{rounded:.3g} {unit}'


def _wrapped(text: str) -> str:
    """Breaks lines between words where the terminal ends, but no tables and no commands."""
    width = shutil.get_terminal_size().columns
    return '\n'.join(
        line
        if len(line) <= width or '  ' in line.strip()
        else textwrap.fill(
            line,
            width,
            subsequent_indent=' ' * (len(line) - len(line.lstrip()) + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def _print(text: str, to_stderr: bool = False) -> None:
    # Without jax.distributed there is one process, and asking for its index would start a backend.
    if jax.distributed.is_initialized() and jax.process_index() != 0:
        return
    stream = sys.stderr if to_stderr else sys.stdout
    with may_be_lost(stream):
        tqdm.tqdm.write(_wrapped(text) if stream.isatty() else text, file=stream)
