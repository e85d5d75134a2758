"""The lines that come out: JSON, or CSV where the file's name ends so."""

import contextlib
import csv
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from jaxtyping import Shaped

from emkd_jax.errors import UserError

_DIGITS = 5  # of a score, after the point


@contextlib.contextmanager
def open_answers(
    path: str, item_ids: Shaped[np.ndarray, ' items'], titles: Sequence[str] | None
) -> Iterator[Callable[[Any, np.ndarray, np.ndarray], None]]:
    """A function write(user, items, scores) into the file at `path`, which appears when whole.

    JSON lines: `{"user": ..., "items": [...], "scores": [...], "titles": [...]}`, best first. CSV:
    user, rank, item, score, title. Titles come where they are given.

    Raises:
      UserError: the file cannot be written.
    """
    ids = item_ids.tolist()
    with _whole_file(path) as file:
        if not path.endswith('.csv'):

            def write(user: Any, items: np.ndarray, scores: np.ndarray) -> None:
                numbers = items.tolist()
                answer = {
                    'user': user,
                    'items': [ids[item - 1] for item in numbers],
                    'scores': [round(score, _DIGITS) for score in scores.tolist()],
                }
                if titles is not None:
                    answer['titles'] = [titles[item - 1] for item in numbers]
                file.write(json.dumps(answer, ensure_ascii=False) + '\n')

        else:
            table = csv.writer(file, lineterminator='\n')
            table.writerow(['user', 'rank', 'item', 'score', *(['title'] if titles else [])])

            def write(user: Any, items: np.ndarray, scores: np.ndarray) -> None:
                table.writerows(
                    [user, rank, ids[item - 1], round(score, _DIGITS)]
                    + ([titles[item - 1]] if titles else [])
                    for rank, (item, score) in enumerate(
                        zip(items.tolist(), scores.tolist(), strict=True), 1
                    )
                )

        yield write


@contextlib.contextmanager
def _whole_file(path: str) -> Iterator[TextIO]:
    if path in ('', '-'):
        try:
            yield sys.stdout
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            if isinstance(error, BrokenPipeError):  # whoever reads has enough, as `head` does
                sys.exit()
            raise _unwritable('standard output', error) from error
        return
    target = pathlib.Path(path)
    if target.exists() and not (target.is_file() or target.is_dir()):  # a pipe or a device stays
        try:
            with target.open('w', encoding='utf-8', errors='backslashreplace') as file:
                yield file
        except OSError as error:
            raise _unwritable(path, error) from error
        return
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f'.{target.name}-', dir=target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with open(descriptor, 'w', encoding='utf-8', newline='', errors='backslashreplace') as file:
            yield file
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)


def _unwritable(path, error):
    return UserError(f'{path} cannot be written ({error.strerror}); mend --output.')
