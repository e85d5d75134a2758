"""Where a split by time cuts: the beginnings of the validation and the test period."""

import datetime
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8, Int64

from emkd_jax.data.event_log.engine import Engine
from emkd_jax.errors import UserError


class Cuts(NamedTuple):
    """Beginnings, in microseconds since 1970."""

    validation: int
    test: int

    def periods(self, time: Int64[np.ndarray, ' events']) -> Int8[np.ndarray, ' events']:
        """0 for training, 1 for validation, 2 for test."""
        return (time >= self.validation).astype(np.int8) + (time >= self.test)

    def __str__(self) -> str:
        return ' and '.join(
            datetime.datetime.fromtimestamp(cut / 1e6, datetime.UTC).isoformat(' ', 'seconds')
            for cut in self
        )


def find_cuts(engine: Engine, option: str) -> Cuts:
    """The cuts that `data.cuts` names, among the timestamps of the table `events`.

    'N%' is the timestamp below which N% of the events lie, so events of one timestamp are never
    parted; anything else is an ISO date, UTC where no offset is given.

    Raises:
      UserError: `option` is not two of these, in order.
    """
    parts = [part.strip() for part in option.split(',')]
    try:
        if len(parts) != 2:
            raise ValueError
        cuts = Cuts(*(_cut(engine, part) for part in parts))
    except ValueError as error:
        raise UserError(
            f"data.cuts is '{option}'; give the beginnings of the validation and the test period, "
            "such as '80%,90%' of the events or '2014-01-01,2014-04-01'."
        ) from error
    if not cuts.validation < cuts.test:
        raise UserError(
            f"data.cuts='{option}' leaves no time between the beginnings of the validation and the "
            f'test period ({cuts}, UTC); move them apart.'
        )
    return cuts


def _cut(engine, part):
    if part.endswith('%'):
        share = float(part[:-1]) / 100
        if not 0 < share < 1:
            raise ValueError
        # The quantile functions of engines differ, and some are approximate. No time is missing;
        # BigQuery knows no other place for those that are.
        return engine.rows(f"""
            SELECT min(time) FROM (
                SELECT time, sum(count) OVER (ORDER BY time NULLS FIRST) AS count_up_to
                FROM (SELECT time, count(*) AS count FROM events GROUP BY time)
            ) WHERE count_up_to >= {share!r}::DOUBLE * (SELECT count(*) FROM events)
        """)[0][0]
    date = datetime.datetime.fromisoformat(part)
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return round(date.timestamp() * 10**6)
