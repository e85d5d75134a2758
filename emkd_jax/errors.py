"""The exceptions whose message is for the user; `launch.py` prints it without a traceback.

A message is one sentence that names the file, line or option, and what to do.
"""


class UserError(Exception):
    """A mistake the user can mend."""

    exit_code = 2


class RunError(Exception):
    """The run cannot go on: numbers not finite, a disk full, a host lost."""

    exit_code = 1


class Preempted(Exception):
    """A signal asked the run to stop, and it has saved its state."""

    exit_code = 143  # 128 + SIGTERM, by convention
