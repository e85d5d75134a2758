"""`--mode=recommend`: the best items for users of the data, or after any histories."""

import itertools
import sys
import time

import tqdm

from emkd_jax.cli.console import note
from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.serving.answers import check_output, open_answers
from emkd_jax.serving.grown_log import read_grown_log
from emkd_jax.serving.ids import Unknown
from emkd_jax.serving.model import Model
from emkd_jax.serving.requests import read_item_file, read_requests

_REQUESTS = 16_384  # answered at a time


def recommend(
    run: TrainedRun, requests: str = '', output: str = '', strict: bool = False, events: str = ''
) -> None:
    """Writes the best items for each request, as `config.recommend` asks.

    Args:
      run: a trained run.
      requests: file of users or histories (see `requests.py`); '-' for standard input, and '' for
        all users of the data.
      output: file to write (see `answers.py`); '' or '-' for standard output.
      strict: whether an unknown user or item is an error; otherwise it is skipped and counted.
      events: a log that has grown since the training, for all of whose users items are
        recommended; it takes the place of `requests`.

    Raises:
      UserError: an option, the workdir or a file is wrong.
    """
    check_output(output)
    if requests and events:
        raise UserError('--requests and --events both say who asks; leave one of them out.')
    options, model = run.config.recommend, Model.from_run(run)
    if options.titles and not len(model.titles):
        raise UserError(
            'recommend.titles is set, but the data came without titles; name a column of '
            'data.attributes with --config.data.title_column when you train.'
        )
    unknown = Unknown(strict, 'without --strict it is skipped')
    only, exclude = (
        read_item_file(options[name], f'recommend.{name}', model.ids, unknown)
        for name in ('only', 'exclude')
    )
    network = options.network if options.network >= 0 else None
    recommender = model.recommender(options.k, options.exclude_seen, network, only, exclude)
    if events:
        asked = read_grown_log(events, run.config.data, model.ids, unknown)
    else:
        asked = read_requests(requests, model.ids, unknown, run.config.data)
    total = None if requests or events else len(model.user_ids)
    began, count = time.monotonic(), 0
    with (
        open_answers(output, model, options.titles, labels=bool(requests or events)) as write,
        tqdm.tqdm(total=total, unit=' users', file=sys.stderr, disable=None) as bar,
    ):
        while block := list(itertools.islice(asked, _REQUESTS)):
            histories = Ragged.from_rows([request.history for request in block])
            answers = recommender(histories, bar.update)
            count += len(block)
            write([request.user for request in block], *answers)
    spent = time.monotonic() - began
    users = 'user' if count == 1 else 'users'
    note(f'{count:,} {users} in {spent:.1f} s ({count / spent:,.0f} users/s)')
    unknown.report()
