"""Rows of scores made shorter before they are reduced, because CPUs reduce long rows slowly."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Shaped

_SLICES = 8
_LANES = 128  # of a vector register of a TPU; slices begin at multiples of it


def fold(
    combine: Callable[[Array, Array], Array], rows: Shaped[Array, 'rows classes']
) -> Shaped[Array, 'rows fewer']:
    """Combines slices of the rows, number by number, which leaves about an eighth of the numbers.

    XLA reduces a row on CPUs one number after another. Slices are combined in vector instructions,
    so that `fold(jnp.maximum, x).max(1)` takes less than half the time of `x.max(1)`.

    Args:
      combine: an associative and commutative operation, such as `jnp.maximum`.
      rows: what is to be reduced by it over the classes.
    """
    width = rows.shape[1] // _SLICES // _LANES * _LANES
    slices = [rows[:, first * width : (first + 1) * width] for first in range(_SLICES)]
    rest = rows[:, _SLICES * width :]
    return jnp.concatenate([functools.reduce(combine, slices), rest], axis=1)
