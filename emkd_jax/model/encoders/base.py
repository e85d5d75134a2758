"""What all encoders have in common, and what an encoder of your own must provide."""

from collections.abc import Iterator
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from emkd_jax.errors import UserError
from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.layers import ItemEmbedding, shift_right


class SequenceEncoder(nn.Module):
    """Base class of encoders: items -> hidden states.

    A subclass defines `blocks`, which maps embedded items to hidden states, and may change the
    class attributes below. To train one of your own, set `model.encoder` to `package.module:Class`;
    nothing else has to be registered.

    The hidden state of slot t predicts the item at slot t. A bidirectional encoder sees the whole
    row, where a mask token hides that item. A causal encoder sees only the items before slot t: the
    base class shifts its input to the right by one. So a masked position is, to a causal encoder, a
    next-item prediction after a corrupted history.

    Three rules keep everything around the encoders one code, and `tests/unit/model` checks them for
    every encoder: padding does not influence real slots; an input of T slots is the rightmost T of
    the `max_len` that the encoder knows; and all randomness comes from `hash_rng` with the given
    keys, so that a run is the same on any number of devices.

    Attributes:
      num_items: V; items are 1..V, 0 is padding and V + 1 the mask token.
      max_len: L, the slots it knows.
      dim: d, the width of the hidden states.
      num_blocks: blocks, or layers.
      num_heads: attention heads.
      dropout: probability that an activation is dropped; traced where runs with different ones
        train together.
      dtype: dtype of the activations; parameters are float32.
    """

    num_items: int
    max_len: int
    dim: int
    num_blocks: int
    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    causal: ClassVar[bool] = True  # sees only earlier items
    has_heads: ClassVar[bool] = False  # uses num_heads, which must divide dim
    has_slot_embeddings: ClassVar[bool] = True  # adds a learned embedding of the slot
    drops_embeddings: ClassVar[bool] = True  # applies dropout to the embedded items
    embedding_scale: ClassVar[float] = 0.02  # standard deviation of the initial embeddings

    @classmethod
    def from_config(
        cls, model: ml_collections.ConfigDict, num_items: int, dtype: np.dtype
    ) -> 'SequenceEncoder':
        """The encoder that `config.model` describes.

        Raises:
          UserError: the options do not fit together.
        """
        if cls.has_heads and model.hidden_dim % model.num_heads:
            raise UserError(
                f'model.hidden_dim={model.hidden_dim} is not divisible by '
                f'model.num_heads={model.num_heads}; choose a multiple.'
            )
        return cls(
            num_items=num_items,
            max_len=model.max_len,
            dim=model.hidden_dim,
            num_blocks=model.num_blocks,
            num_heads=model.num_heads,
            dropout=model.dropout,
            dtype=dtype,
        )

    @nn.compact
    def __call__(
        self,
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None = None,
        last_only: bool = False,
    ) -> Float[Array, 'rows slots_out dim']:
        """Hidden states of every slot.

        Args:
          items: padded on the left with 0.
          keys: hash keys of the slots, for dropout; None switches dropout off.
          last_only: return the last slot alone; the last block computes nothing else.
        """
        if self.causal:
            items = shift_right(items)
        x = ItemEmbedding(
            self.num_items,
            self.max_len,
            self.dim,
            self.dtype,
            self.embedding_scale,
            self.has_slot_embeddings,
            name='embedding',
        )(items)
        if self.drops_embeddings:
            x = hash_rng.dropout(x, keys, 0, self.dropout)
        return self.blocks(x, items, keys, last_only)

    def blocks(
        self,
        x: Float[Array, 'rows slots dim'],
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None,
        last_only: bool,
    ) -> Float[Array, 'rows slots_out dim']:
        """Maps embedded items to hidden states; a subclass defines it.

        Args:
          x: the embedded items.
          items: what is embedded, 0 being padding; shifted if the encoder is causal.
          keys, last_only: as for `__call__`.
        """
        raise NotImplementedError

    def each_block(
        self, keys: UInt32[Array, 'rows slots'] | None, last_only: bool
    ) -> Iterator[tuple[int, UInt32[Array, 'rows slots'] | None, bool]]:
        """(number, dropout keys, whether it computes the last slot alone) of every block."""
        for block in range(self.num_blocks):
            block_keys = None if keys is None else hash_rng.fold(keys, block + 1)
            yield block, block_keys, last_only and block == self.num_blocks - 1
