"""Requests from a log of events that has grown since the training: today's users, old and new."""

from collections.abc import Iterator

import ml_collections

from emkd_jax.cli.console import note
from emkd_jax.config.options import base_config
from emkd_jax.data import event_log
from emkd_jax.serving.ids import IdIndex, Unknown
from emkd_jax.serving.requests import Request


def read_grown_log(
    path: str, options: ml_collections.ConfigDict, ids: IdIndex, unknown: Unknown
) -> Iterator[Request]:
    """Yields a request for every user of a log, with the whole history that the log has.

    The log is read with the options of the log that the model was trained on, less its filters: a
    user needs one event. Items that the model does not know are left out and counted. The users
    that it does not know are told on standard error; they get recommendations like all others.

    Args:
      path: the log.
      options: `config.data` of the run.
      ids: the users and items of the run's data.
      unknown: counts unknown items.

    Raises:
      UserError: the log cannot be read.
    """
    plain = base_config(event_log=True).data
    known = {name: value for name, value in options.items() if name in plain}
    plain.update(known)
    of_items = dict.fromkeys(('attributes', 'attribute_columns', 'title_column'), '')  # not needed
    plain.update(of_items | {'source': path, 'split': 'leave_one_out'})
    plain.update({'k_core': 0, 'min_length': 1, 'max_items': 2**31 - 1})
    log = event_log.load(plain)
    note(log.notes)
    before = set(map(str, ids.dataset.user_ids.tolist()))
    new = sum(str(user) not in before for user in log.user_ids.tolist())
    note(f'{len(log.user_ids):,} users, of whom {new:,} are new')
    names = log.item_ids.tolist()
    for row, user in enumerate(log.user_ids.tolist()):
        history = [names[item - 1] for item in log.histories[row]]
        yield Request(user, ids.items(history, unknown, f'{path}, user {user}'))
