"""Embeddings of attributes as a part of the embeddings of items."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32


class AttributePairs:
    """The pairs of an item and one of its attributes, as a constant of compiled programs.

    Objects with the same pairs are equal, so that they can be part of what a program is cached by.

    Attributes:
      items: the item of each pair, ascending.
      attributes: its attribute.
    """

    def __init__(self, item_attributes: Int[np.ndarray, 'items most']):
        """Lists the pairs of a table of attribute ids by item, padded with -1."""
        items, column = np.nonzero(item_attributes[1:] >= 0)  # row 0 is the padding item
        self.items: Int32[np.ndarray, ' pairs'] = (items + 1).astype(np.int32)
        self.attributes = item_attributes[1:][items, column].astype(np.int32)
        self._digest = hashlib.sha256(self.items.tobytes() + self.attributes.tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributePairs) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def add_to(
        self, tokens: Float[Array, 'tokens dim'], embeddings: Float[Array, 'attributes dim']
    ) -> Float[Array, 'tokens dim']:
        """Adds the embeddings of its attributes to the embedding of each item.

        Args:
          tokens: embeddings of the items 0..V, and of the mask token if there is one.
          embeddings: embeddings of the attributes 0..A.
        """
        sums = jax.ops.segment_sum(
            embeddings[self.attributes],
            jnp.asarray(self.items),
            num_segments=len(tokens),
            indices_are_sorted=True,
        )
        return tokens + sums
