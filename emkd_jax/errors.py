"""The exceptions whose message is for the user; `launch.py` prints it without a traceback.

A message is one sentence that names the file, line or option, and what to do.
"""


class UserError(Exception):
    """A mistake the user can mend."""

    exit_code = 2


class RunError(Exception):
    """The run cannot go on: numbers not finite, memory or disk full."""

    exit_code = 1


class HostLostError(RunError):
    """Another process of the run is gone."""

    exit_code = 134  # as where JAX aborts; cluster managers restart what ends with more than 127


class PreemptedError(Exception):
    """A signal asked the run to stop; nothing that was done is lost."""

    exit_code = 143  # 128 + SIGTERM, by convention
