"""Finds items and users by a part of their text."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from emkd_jax.serving.model import Model


class Catalogue:
    """The items and users of a model, for people who look for one."""

    def __init__(self, model: Model):
        """Prepares the texts."""
        self._ids, self._users = model.item_ids.tolist(), model.user_ids.tolist()
        self._titles = model.titles.tolist()
        names = self._titles or [''] * len(self._ids)
        pairs = zip(self._ids, names, strict=True)
        self._items = [f'{item}\n{name}'.casefold() for item, name in pairs]
        self._user_texts = [str(user).casefold() for user in self._users]

    def item(self, number: int) -> dict[str, Any]:
        """Describes an item by its number, from 1: its id and, if there is one, its title."""
        title = {'title': self._titles[number - 1]} if self._titles else {}
        return {'item': self._ids[number - 1], **title}

    def items(self, text: str, limit: int) -> list[dict[str, Any]]:
        """The first items whose id or title has a text in it; case does not matter."""
        found = itertools.islice(_containing(self._items, text), limit)
        return [self.item(place + 1) for place in found]

    def users(self, text: str, limit: int) -> list[Any]:
        """The first users whose id has a text in it."""
        found = itertools.islice(_containing(self._user_texts, text), limit)
        return [self._users[place] for place in found]


def _containing(texts: Sequence[str], part: str) -> Iterator[int]:
    part = part.casefold().strip()
    return (place for place, text in enumerate(texts) if part in text)
