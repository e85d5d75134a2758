"""What a program tells its user: lines, warnings and tables. Only process 0 prints."""

import sys
from collections.abc import Sequence

import jax
import tqdm
from tabulate import tabulate


def say(text: str) -> None:
    """Prints a line to standard output without breaking the progress bar."""
    _print(text)


def warn(text: str) -> None:
    """Prints a warning to standard error without breaking the progress bar."""
    _print(f'Warning: {text}', to_stderr=True)


def banner(text: str) -> str:
    """Puts a line above and below `text`, so that nobody overlooks it."""
    line = '=' * min(100, len(text))
    return f'{line}\n{text}\n{line}'


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> None:
    """Prints a table.

    Args:
      title: a line above the table; empty for none.
      columns: the heading of each column; without headings if all of them are empty.
      rows: the cells of each row.
      text_columns: this many columns from the left hold text; the others hold numbers, which are
        aligned on the right.
    """
    form = 'simple' if any(columns) else 'plain'
    say(
        '\n'.join(filter(None, [title and f'\n{title}', _table(form, columns, rows, text_columns)]))
    )


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """Returns a table in Markdown; the arguments are those of `print_table`."""
    return _table('pipe', columns, rows, text_columns)


def _table(
    form: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int
) -> str:
    alignment = ['left'] * text_columns + ['right'] * (len(columns) - text_columns)
    # Cells are printed as they are given: '0.1000' must not become '0.1'.
    text: str = tabulate(
        rows,
        columns if any(columns) else (),
        form,
        disable_numparse=True,
        colalign=alignment[: len(columns)],
    )
    return text


def _print(text: str, to_stderr: bool = False) -> None:
    # Without jax.distributed there is one process, and asking for its index would start a backend.
    if jax.distributed.is_initialized() and jax.process_index() != 0:
        return
    stream = sys.stderr if to_stderr else sys.stdout
    tqdm.tqdm.write(text, file=stream)
    stream.flush()
