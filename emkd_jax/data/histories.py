"""`--mode=prepare`: prepares a data set, and writes its histories for anybody to check."""

import json
import sys
from typing import TextIO

import ml_collections

from emkd_jax import data
from emkd_jax.cli.lost_output import may_be_lost
from emkd_jax.data.atomic import atomic_file
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError


def prepare(options: ml_collections.ConfigDict, output: str = '') -> None:
    """Prepares the data that `config.data` describes, and says where it is.

    Args:
      options: `config.data`.
      output: a file to which the histories are written as JSON lines; '-' for standard output,
        empty for none.

    Raises:
      UserError: the data cannot be had, or the file cannot be written.
    """
    folder = data.prepare(options)
    dataset = data.load(options)
    with may_be_lost(sys.stderr):
        print(dataset.notes or f'{dataset.name}: {dataset.counts()}', file=sys.stderr)
    stream = sys.stderr if output == '-' else sys.stdout
    with may_be_lost(stream):
        print(f'Prepared in {folder}', file=stream)
    if output:
        write_histories(dataset, output)


def write_histories(dataset: Dataset, output: str) -> None:
    """Writes a line `{"user": ..., "items": [...], "times": [...]}` for every user.

    Ids are those of the original data and times are seconds since 1970; 'times' is left out where
    they are not known.

    Args:
      dataset: the data set.
      output: a file, or '-' for standard output.

    Raises:
      UserError: the file cannot be written.
    """
    if output == '-':
        with may_be_lost(sys.stdout):
            _write(dataset, sys.stdout)
        return
    try:
        with atomic_file(output) as partial, partial.open('w', encoding='utf-8') as file:
            _write(dataset, file)
    except OSError as error:
        raise UserError(
            f'{output} cannot be written ({error.strerror or error}); correct --output.'
        ) from error


def _write(dataset: Dataset, file: TextIO) -> None:
    item_ids, offsets = dataset.item_ids.tolist(), dataset.histories.offsets
    for row, user in enumerate(dataset.user_ids.tolist()):
        line = {'user': user, 'items': [item_ids[item - 1] for item in dataset.histories[row]]}
        if dataset.times is not None:
            line['times'] = dataset.times[offsets[row] : offsets[row + 1]].tolist()
        file.write(json.dumps(line, ensure_ascii=False) + '\n')
