"""What turns the hidden states of networks into logits over the catalogue."""

from typing import NamedTuple

from jaxtyping import Array, Float


class ItemHeads(NamedTuple):
    """The item heads of an ensemble; the logits of a network are z = hidden kernel^T + bias.

    Attributes:
      kernel: a vector for each item. Class 0 is the padding item, which is never a label.
      bias: a number for each item.
    """

    kernel: Float[Array, 'networks classes dim']
    bias: Float[Array, 'networks classes']
