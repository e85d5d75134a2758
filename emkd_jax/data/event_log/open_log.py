"""What every format is given to read the events of a log."""

from typing import NamedTuple

import ml_collections

from emkd_jax.data.event_log.database import Database
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source


class OpenLog(NamedTuple):
    """A log whose events are read into a database.

    Attributes:
      database: where the events go, into the table `read` (see `rows.store`).
      source: the file of the events, or the folder.
      options: `config.data`.
      report: what was read, left out and assumed.
    """

    database: Database
    source: Source
    options: ml_collections.ConfigDict
    report: Report
