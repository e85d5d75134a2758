"""Original ids: their order, and the arrays that keep them."""

import re
from collections.abc import Collection

import numpy as np
from jaxtyping import Shaped

# SQL: is `name` a whole number as people write it, in 64 bits: '7', but neither '007' nor '+7'?
_NUMBER = re.compile('0|-?[1-9][0-9]{0,17}')
IS_NUMBER = f"regexp_matches(name, '^({_NUMBER.pattern})$')"


def are_numbers(names: Collection[str]) -> bool:
    """Are all ids whole numbers as people write them, in 64 bits?"""
    return all(_NUMBER.fullmatch(name) for name in names)


def ordered(names: Collection[str]) -> list[str]:
    """By value if all are numbers, by code point otherwise: the order in which ids are numbered."""
    return sorted(names, key=int if are_numbers(names) else None)


def as_array(names: list[str]) -> Shaped[np.ndarray, ' ids']:
    """int64 if all ids are numbers, text otherwise; `str` of an entry is the id in the file."""
    return np.array(names, np.int64 if are_numbers(names) else str)
