"""A loop over the blocks of an axis, of which only one at a time is in memory."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree


def over_blocks(visit: Callable[..., PyTree], carry: PyTree, length: int, block: int) -> PyTree:
    """Runs carry = visit(first, size, carry) for every block of an axis.

    Args:
      visit: reads `size` places from `first` on. `size` is an integer, `first` is traced.
      carry: what the first visit gets.
      length: of the axis.
      block: the size of a block; the last one may be smaller.

    Returns:
      What the last visit returned.
    """
    full, rest = divmod(length, block)
    if full:
        carry = jax.lax.fori_loop(
            np.int32(0), np.int32(full), lambda i, carry: visit(i * block, block, carry), carry
        )
    return visit(np.int32(full * block), rest, carry) if rest else carry
