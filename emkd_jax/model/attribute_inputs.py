"""Embeddings of attributes as a part of the embeddings of items."""

import copy
import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from emkd_jax.model.sharded_tables import AXIS

_PAIRS_ON_CPU = 2048


class AttributePairs:
    """The pairs of an item and one of its attributes, as a constant of compiled programs.

    Objects with the same pairs are equal, so that they can be part of what a program is cached by.

    Attributes:
      items: the item of each pair, ascending.
      attributes: its attribute.
      at_a_time: pairs that are added at a time. A CPU adds few, which stay in its cache between
        the lookup and the sum; other devices add all at once.
      rows_per_device: how many rows of the table of items a device holds; 0: it holds all.
    """

    def __init__(self, item_attributes: Int[np.ndarray, 'items most'], on_cpu: bool = True):
        """Lists the pairs of a table of attribute ids by item, padded with -1."""
        items, column = np.nonzero(item_attributes[1:] >= 0)  # row 0 is the padding item
        self.items: Int32[np.ndarray, ' pairs'] = (items + 1).astype(np.int32)
        self.attributes = item_attributes[1:][items, column].astype(np.int32)
        self.at_a_time = _PAIRS_ON_CPU if on_cpu else max(1, len(self.items))
        self.rows_per_device = 0
        content = np.int64(self.at_a_time), self.items, self.attributes
        self._digest = hashlib.sha256(b''.join(part.tobytes() for part in content)).digest()

    def split(self, rows_per_device: int) -> 'AttributePairs':
        """Returns the same pairs for a table of items whose rows are split over the devices."""
        pairs = copy.copy(self)
        pairs.rows_per_device = rows_per_device
        return pairs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributePairs) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def add_to(
        self, tokens: Float[Array, 'tokens dim'], embeddings: Float[Array, 'attributes dim']
    ) -> Float[Array, 'tokens dim']:
        """Adds the embeddings of its attributes to the embedding of each item.

        Args:
          tokens: embeddings of the items 0..V, and of the mask token if there is one.
          embeddings: embeddings of the attributes 0..A.
        """
        return _add(self, tokens, embeddings) if len(self.items) else tokens

    def _identity(self) -> tuple[bytes, int]:
        return self._digest, self.rows_per_device

    def _chunks(self, no_item: int, no_attribute: int) -> tuple[Array, Array]:
        """The pairs in chunks of equal size, filled up with pairs that do not exist.

        Where the rows of the table are split, the pairs are those of this device's rows.
        """
        if not self.rows_per_device:
            pairs = [(self.items, self.attributes)]
        else:
            last = int(self.items[-1]) // self.rows_per_device
            firsts = np.searchsorted(self.items, np.arange(last + 2) * self.rows_per_device)
            pairs = [
                (self.items[a:b] - device * self.rows_per_device, self.attributes[a:b])
                for device, (a, b) in enumerate(itertools.pairwise(firsts))
            ]
        most = max(len(items) for items, _ in pairs)
        size = min(self.at_a_time, most)
        longest = -(-most // size) * size

        def chunks(arrays, nothing):
            filled = [
                np.pad(array, (0, longest - len(array)), constant_values=nothing)
                for array in arrays
            ]
            return jnp.asarray(np.reshape(filled, (len(filled), -1, size)))

        items, attributes = zip(*pairs, strict=True)
        found = chunks(items, no_item), chunks(attributes, no_attribute)
        if not self.rows_per_device:
            return found[0][0], found[1][0]
        # A device behind the last item has no pairs: those that it finds are dropped.
        device = jax.lax.axis_index(AXIS)
        place = jnp.minimum(device, last)
        own = device <= last
        return jnp.where(own, found[0][place], no_item), jnp.where(
            own, found[1][place], no_attribute
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add(pairs, tokens, embeddings):
    items, attributes = pairs._chunks(no_item=len(tokens), no_attribute=0)

    def add(i, sums):
        rows = embeddings[attributes[i]].astype(sums.dtype)
        return sums.at[items[i]].add(rows, mode='drop', indices_are_sorted=True)

    return jax.lax.fori_loop(0, len(items), add, tokens)


def _forward(pairs, tokens, embeddings):
    return _add(pairs, tokens, embeddings), jnp.zeros_like(embeddings)


def _backward(pairs, zeros, sums_grad):
    items, attributes = pairs._chunks(no_item=0, no_attribute=len(zeros))

    def add(i, grad):
        rows = sums_grad[items[i]].astype(grad.dtype)
        return grad.at[attributes[i]].add(rows, mode='drop')

    return sums_grad, jax.lax.fori_loop(0, len(items), add, zeros)


_add.defvjp(_forward, _backward)
