"""The split by time: nothing that happens after a cut is known before it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from emkd_jax.data.dataset import Holdout, Ragged, Split
from emkd_jax.data.event_log.events import Events
from emkd_jax.data.event_log.report import Report
from emkd_jax.errors import UserError


class TimeSplit(NamedTuple):
    """The histories and ids of the users who are left, and their split."""

    histories: Ragged
    user_ids: Shaped[np.ndarray, ' users']
    split: Split


def by_time(events: Events, report: Report) -> TimeSplit:
    """Splits events at their cuts; users who are neither trained on nor tested are left out.

    Trained on: what the users in `events.trained` did in the training period. Held out: of every
    user the first event in the validation (or test) period, after all of the user's events before
    that period, where there are any.

    Raises:
      UserError: a period holds nothing to predict.
    """
    histories, lengths = events.histories, events.histories.lengths
    starts = histories.offsets[:-1]
    # Every row has an event, as reduceat needs.
    before_validation = np.add.reduceat(events.periods < 1, starts, dtype=np.int64)
    before_test = np.add.reduceat(events.periods < 2, starts, dtype=np.int64)
    trained = np.zeros(len(histories), bool)
    trained[events.trained] = True

    validated = (before_validation > 0) & (before_test > before_validation)
    tested = (before_test > 0) & (lengths > before_test)
    for period, users in (('validation', validated), ('test', tested)):
        if not users.any():
            raise UserError(
                f'No user has an event both before and in the {period} period (data.cuts are at '
                f'{events.cuts}, UTC); move the cuts.'
            )
    taken = np.flatnonzero(trained | validated | tested)
    report.left_out(len(histories) - len(taken), 'users who are neither trained on nor tested')
    report.say(
        f'  split by time at {events.cuts}, UTC: {before_validation[trained].sum():,} events to '
        f'train on, {validated.sum():,} users in validation, {tested.sum():,} in the test'
    )

    def held_out(users: np.ndarray, seen: np.ndarray) -> Holdout:
        rows = np.flatnonzero(users)
        return Holdout(
            histories.take(rows, drop_last=(lengths - seen)[rows]),
            histories.values[starts[rows] + seen[rows]],
            np.searchsorted(taken, rows),
        )

    split = Split(
        train=histories.take(
            taken, drop_last=(lengths - np.where(trained, before_validation, 0))[taken]
        ),
        validation=held_out(validated, before_validation),
        test=held_out(tested, before_test),
    )
    return TimeSplit(histories.take(taken), events.user_ids[taken], split)
