"""From original ids to the numbers of users and items, counting the ids that are not known."""

import functools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped

from emkd_jax.cli.console import warn
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError

_SHOWN = 80  # characters of an id in a message
_FRACTION_OF_ZERO = re.compile(r'-?[0-9]+\.0')


class Unknown:
    """Ids that the data does not have. They are skipped and counted, or are an error if `strict`.

    Args:
      strict: whether an unknown id is an error.
      hint: what a user may do about such an error.
    """

    def __init__(self, strict: bool, hint: str = 'with strict=False it is skipped'):
        self._strict, self._hint = strict, hint
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: Any, place: str) -> None:
        """Counts an unknown id.

        Args:
          kind: 'user' or 'item'.
          name: the id.
          place: where it was met.

        Raises:
          UserError: unknown ids are an error.
        """
        name = str(name)[:_SHOWN]
        if self._strict:
            raise UserError(f"{place}: {kind} '{name}' is not in the data; {self._hint}.")
        count, first = self._found.get(kind, (0, f"'{name}' at {place}"))
        self._found[kind] = count + 1, first

    def report(self) -> None:
        """Prints how many ids were skipped, if any."""
        for kind, (count, first) in self._found.items():
            plural = 's' if count > 1 else ''
            warn(f'Skipped {count:,} unknown {kind}{plural}, the first {first}.')


class IdIndex:
    """Finds users and items of a data set by their original ids.

    They are compared as text, without the blanks around it. As in an event log, a whole number may
    have a fraction of zero: 101.0 finds 101.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def user(self, name: Any, unknown: Unknown, place: str) -> int | None:
        """The row of a user in the data; None for an unknown user, who is counted in `unknown`."""
        row = self.row(name)
        if row is None:
            unknown.add('user', name, place)
        return row

    def row(self, name: Any) -> int | None:
        """The row of a user in the data; None for an unknown one."""
        return _find(self._users, name)

    def item(self, name: Any) -> int | None:
        """The number of an item, from 1; None for an unknown one."""
        return _find(self._items, name)

    def items(
        self, names: Iterable[Any], unknown: Unknown, place: str
    ) -> Int32[np.ndarray, ' known']:
        """The numbers of items, from 1; unknown ones are left out and counted in `unknown`."""
        numbers = []
        for name in names:
            number = self.item(name)
            if number is None:
                unknown.add('item', name, place)
            else:
                numbers.append(number)
        return np.array(numbers, np.int32)

    @functools.cached_property
    def _users(self) -> dict[str, int]:
        return _numbers(self.dataset.user_ids, 0)

    @functools.cached_property
    def _items(self) -> dict[str, int]:
        return _numbers(self.dataset.item_ids, 1)


def _find(numbers: dict[str, int], name: Any) -> int | None:
    text = str(name).strip()
    found = numbers.get(text)
    if found is None and _FRACTION_OF_ZERO.fullmatch(text):
        found = numbers.get(text.removesuffix('.0'))
    return found


def _numbers(ids: Shaped[np.ndarray, ' ids'], first: int) -> dict[str, int]:
    return {str(name): number for number, name in enumerate(ids.tolist(), first)}
