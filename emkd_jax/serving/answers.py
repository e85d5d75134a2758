"""Writes recommendations to a file or to standard output; the ending of the name is the format."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from emkd_jax.cli.lost_output import discard
from emkd_jax.data.atomic import atomic_file, is_remote
from emkd_jax.errors import UserError
from emkd_jax.serving.model import Model

Arrays = Sequence[np.ndarray]

_ENDINGS = ('.jsonl', '.json', '.csv', '.parquet')
_DIGITS = 5  # of a score in a text file, after the point


def check_output(path: str) -> None:
    """Raises UserError if the ending of a file's name is not known."""
    if not _is_stream(path) and _ending(path) not in _ENDINGS:
        raise UserError(
            f'--output={path} has an ending that is not known; use one of {", ".join(_ENDINGS)}.'
        )


@contextlib.contextmanager
def open_answers(
    path: str, model: Model, titles: bool, labels: bool
) -> Iterator[Callable[[Sequence[Any], Arrays, Arrays], None]]:
    """Opens an output. A file appears when it is complete.

    JSON lines are `{"user": ..., "items": [...], "scores": [...], "titles": [...]}`, best first.
    CSV and Parquet have a row for each item, with the columns user, rank, item, score and title.

    Args:
      path: the output; '' and '-' are standard output, which gets JSON lines, as pipes do.
      model: names the items.
      titles: whether to write the titles of the items.
      labels: whether users may have any label, which Parquet stores as text, and not only the ids
        of the data's users.

    Yields:
      A function write(users, items, scores); items and scores have an array for each user.

    Raises:
      UserError: the output cannot be written.
    """
    to_stdout = path in ('', '-')
    ending = '.jsonl' if _is_stream(path) else _ending(path)
    columns = ['user', 'rank', 'item', 'score', *(['title'] if titles else [])]
    try:
        with contextlib.ExitStack() as stack:
            file: Any = sys.stdout
            if ending == '.parquet':
                partial = stack.enter_context(atomic_file(path))
                schema = _schema(model, columns, labels)
                file = stack.enter_context(parquet.ParquetWriter(partial, schema))
            elif not to_stdout:
                target = path if _is_stream(path) else stack.enter_context(atomic_file(path))
                # An id may hold what is no Unicode, such as half of a surrogate pair.
                how: Any = {'encoding': 'utf-8', 'errors': 'backslashreplace', 'newline': ''}
                file = stack.enter_context(open(target, 'w', **how))

            def write(users: Sequence[Any], items: Arrays, scores: Arrays) -> None:
                if ending in ('.jsonl', '.json'):
                    file.writelines(_json_lines(model, titles, users, items, scores))
                    return
                table = model.table('user', users, items, scores)[columns]
                if ending == '.csv':
                    table.round({'score': _DIGITS}).to_csv(file, index=False, header=False)
                    return
                if labels:
                    table['user'] = [
                        str(user).encode(errors='backslashreplace').decode()
                        for user in table['user']
                    ]
                file.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))

            if ending == '.csv':
                file.write(','.join(columns) + '\n')
            yield write
            if to_stdout:
                file.flush()
    except OSError as error:
        if to_stdout:
            discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # a reader such as `head` may have enough
            name, reason = 'standard output' if to_stdout else path, error.strerror or error
            raise UserError(f'{name} cannot be written ({reason}); correct --output.') from error


def _ending(path: str) -> str:
    return pathlib.PurePath(path).suffix.lower()


def _is_stream(path: str) -> bool:
    """Whether the output is standard output, a pipe or a device, which no file may replace."""
    if path in ('', '-'):
        return True
    file = pathlib.Path(path)
    return not is_remote(path) and file.exists() and not (file.is_file() or file.is_dir())


def _json_lines(
    model: Model, titles: bool, users: Sequence[Any], items: Arrays, scores: Arrays
) -> Iterator[str]:
    for user, numbers, values in zip(users, items, scores, strict=True):
        answer = {
            'user': user,
            'items': model.item_ids[numbers - 1].tolist(),
            'scores': [round(score, _DIGITS) for score in values.tolist()],
        }
        if titles:
            answer['titles'] = model.titles[numbers - 1].tolist()
        yield json.dumps(answer, ensure_ascii=False) + '\n'


def _schema(model: Model, columns: list[str], labels: bool) -> pa.Schema:
    """The types of a Parquet file: ids are integers if those of the data are."""
    types = dict.fromkeys(columns, pa.string()) | {'rank': pa.int64(), 'score': pa.float32()}
    if model.item_ids.dtype.kind in 'iu':
        types['item'] = pa.int64()
    if model.user_ids.dtype.kind in 'iu' and not labels:
        types['user'] = pa.int64()
    return pa.schema(types)
