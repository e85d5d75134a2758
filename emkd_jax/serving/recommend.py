"""`--mode=recommend`: from a trained workdir to ranked items, for anybody's history.

requests.py      who asks: users of the data, or histories never seen before
recommender.py   the best items of a batch of histories, on the devices
answers.py       the lines that come out
"""

import itertools
import sys
import time

import jax
import ml_collections
import numpy as np
import tqdm
from jaxtyping import Bool

from emkd_jax import data as data_room
from emkd_jax.data.dataset import Dataset, Ragged
from emkd_jax.errors import UserError
from emkd_jax.runs.evaluate import best_params
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.results import default_workdir
from emkd_jax.serving.answers import open_answers
from emkd_jax.serving.recommender import Recommender
from emkd_jax.serving.requests import Unknown, read_ids, read_requests
from emkd_jax.training.placement import replicate

_REQUESTS = 16_384  # answered at a time


def recommend(
    config: ml_collections.ConfigDict,
    workdir: str = '',
    requests: str = '',
    output: str = '',
    strict: bool = False,
) -> None:
    """Writes the best items of everybody in `requests`, as `config.recommend` asks.

    Args:
      config: the run's.
      workdir: of the trained run; '' for `runs/<config.name>`.
      requests: file of users or histories (see `requests.py`), '-' for standard input, '' for all
        users of the data.
      output: file to write, JSON lines or (*.csv) CSV; '' or '-' for standard output.
      strict: an unknown user or item is an error; else it is skipped and reported.

    Raises:
      UserError: an option, the workdir or a file is wrong.
    """
    options = config.recommend
    _check(options, config.ensemble.num_networks)
    experiment = make_experiment(config)
    data, ensemble = experiment.data, experiment.ensemble
    params, _ = best_params(experiment, workdir or default_workdir(experiment))
    titles = None
    if options.titles and not (titles := data_room.titles(config.data)):
        raise UserError(
            'recommend.titles is set, but the data came without titles; name a column of '
            'data.attributes with --config.data.title_column.'
        )
    unknown = Unknown(strict)
    networks = range(ensemble.num_networks) if options.network < 0 else [options.network]
    recommender = Recommender(
        ensemble,
        replicate(params, jax.local_devices()),
        networks,
        allowed=_allowed(options, data, unknown),
        k=options.k,
        exclude_seen=options.exclude_seen,
        rows=config.eval.batch_size,
    )
    asked = read_requests(requests, data, unknown)
    total = None if requests else len(data.histories)
    began, count = time.monotonic(), 0
    with (
        open_answers(output, data.item_ids, titles) as write,
        tqdm.tqdm(total=total, unit=' users', file=sys.stderr, disable=None) as bar,
    ):
        while block := list(itertools.islice(asked, _REQUESTS)):
            histories = Ragged.from_rows([request.history for request in block])
            for request, *answer in zip(block, *recommender(histories, bar.update), strict=True):
                write(request.user, *answer)
            count += len(block)
    spent = time.monotonic() - began
    users = 'user' if count == 1 else 'users'
    print(f'{count:,} {users} in {spent:.1f} s ({count / spent:,.0f} users/s)', file=sys.stderr)
    unknown.report()


def _allowed(
    options: ml_collections.ConfigDict, data: Dataset, unknown: Unknown
) -> Bool[np.ndarray, ' classes']:
    """Which classes may be recommended: never 0, the padding item."""
    allowed = np.full(data.num_items + 1, not options.only)
    if options.only:
        allowed[read_ids(options.only, 'recommend.only', data, unknown)] = True
    if options.exclude:
        allowed[read_ids(options.exclude, 'recommend.exclude', data, unknown)] = False
    allowed[0] = False
    if not allowed.any():
        raise UserError('recommend.only and recommend.exclude leave no item to recommend.')
    return allowed


def _check(options, num_networks):
    if options.k < 1:
        raise UserError(f'recommend.k is {options.k}; it must be at least 1.')
    if not -1 <= options.network < num_networks:
        raise UserError(
            f'recommend.network is {options.network}; use 0 to {num_networks - 1}, or -1 for the '
            'ensemble.'
        )
