"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake the user can mend.

    Its message is one sentence that names the file, line or option and what to do. `launch.py`
    prints it without a traceback and exits with code 2.
    """
