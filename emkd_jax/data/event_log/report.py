"""What was read from a user's files, what was left out and why."""

import pathlib

from emkd_jax.errors import UserError


class Report:
    """Gathers lines for the user, and ends the reading where too much cannot be read."""

    def __init__(self, max_bad_lines: int, file_format: str = ''):
        """Starts without lines.

        Args:
          max_bad_lines: lines that may be left out because they cannot be read.
          file_format: the format that the events are read in, for the complaint about them.
        """
        self.max_bad_lines, self.file_format = max_bad_lines, file_format
        self._num_bad_lines = 0
        self._bad_lines: dict[pathlib.PurePath, tuple[int, str]] = {}
        self._said: list[str] = []

    def bad_lines(self, path: pathlib.PurePath, place: str, complaint: str, count: int = 1) -> None:
        """`count` lines of `path` are left out; the first of them is at `place` ('line 3').

        Raises:
          UserError: with those before, they are more than `max_bad_lines`.
        """
        before, first = self._bad_lines.get(path, (0, f'{place}: {complaint}'))
        self._bad_lines[path] = before + count, first
        self._num_bad_lines += count
        if self._num_bad_lines > self.max_bad_lines:
            more = f' (and {before + count - 1:,} more bad lines)' if before + count > 1 else ''
            read_as = self.file_format and f' (read as data.format={self.file_format})'
            raise UserError(
                f'{path}, {first}{more}; mend the file{read_as}, or let lines be left out '
                f'with --config.data.max_bad_lines, which is {self.max_bad_lines}.'
            )

    def say(self, text: str) -> None:
        """A line of the report."""
        self._said.append(text)

    def say_once(self, text: str) -> None:
        """A line of the report, unless it is there."""
        if text not in self._said:
            self.say(text)

    def left_out(self, count: int, what: str) -> None:
        """`count` of `what` were not taken; nothing is said of none."""
        if count:
            self.say(f'  left out {count:,} {what}')

    def warn(self, text: str) -> None:
        """A line that the user should not miss."""
        self.say(f'  WARNING: {text}')

    def __str__(self) -> str:
        bad = [
            f'{path.name}: left out {count:,} bad lines, the first at {first}'
            for path, (count, first) in self._bad_lines.items()
        ]
        return '\n'.join(self._said + bad)
