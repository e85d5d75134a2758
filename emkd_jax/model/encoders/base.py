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
from emkd_jax.model.encoders.layers import ItemEmbedding, positions_in_segments, shift_right

Items = Int[Array, 'rows slots']  # padded on the left with 0
Segments = Int[Array, 'rows slots']  # the number of the sequence at each slot; 0 is padding
SlotKeys = UInt32[Array, 'rows slots'] | None  # for `hash_rng.dropout`; None: no dropout
Hidden = Float[Array, 'rows slots dim']
HiddenOut = Float[Array, 'rows slots_out dim']  # slots_out: `slots`, or 1 with `last_only`


class SequenceEncoder(nn.Module):
    """Base class of the encoders, which map items to hidden states.

    A subclass defines `blocks`, which maps embedded items to hidden states, and sets the class
    attributes below where it differs. To train an encoder of your own, write one in a module that
    Python can import, and set the option `model.encoder` to `package.module:Class`, in Python or on
    the command line. Nothing needs to be registered:

        class MeanOfHistory(emkd.SequenceEncoder):
            has_slot_embeddings = False

            def blocks(self, x, segments, keys, last_only):
                count = jnp.cumsum(segments > 0, axis=1).clip(1)[..., None]
                mean = jnp.cumsum(x, axis=1) / count.astype(x.dtype)
                return mean[:, -1:] if last_only else mean

    With the task 'cloze', a row is one sequence, and the hidden state of slot t predicts the item
    at slot t. A bidirectional encoder reads the whole row, in which the mask token hides this item.
    A causal encoder reads only the items before slot t; for it, the base class shifts the input to
    the right by one slot. A masked slot is then a next-item prediction after a corrupted history.

    With the task 'next_item', a row holds several sequences one after another, its segments, and
    the hidden state of slot t predicts the item that follows slot t in its segment. Only a causal
    encoder that keeps segments apart can be trained in this way; it says so with `packs = True`.

    An encoder must keep these rules. Those that a few small rows can show are tried before an
    encoder of your own is used (`contract.py`):

    - Rows do not influence each other, and slots of a causal encoder are not influenced by later
      ones.
    - Padding does not influence the hidden states of real slots.
    - An input of T slots gives the hidden states that it would have with padding on its left, as
      the rightmost T of `max_len` slots.
    - With `packs`, the hidden states of a segment are those that it would have in a row of its own.
    - Random numbers come from `hash_rng` and the given keys alone, so that a run is the same on
      any number of devices.

    Fields with defaults may be added to those below, for options that the configuration does not
    have.

    Attributes:
      num_items: V; items are 1..V, 0 is padding and V + 1 the mask token.
      max_len: L, the largest number of slots in an input.
      dim: d, the width of the hidden states.
      num_blocks: number of blocks or layers.
      num_heads: number of attention heads.
      dropout: the probability that an activation is dropped. It is a traced number where runs with
        different probabilities train together.
      dtype: type of the activations; parameters are float32.
      task: 'cloze' or 'next_item'; see above.
      tied: whether the item head shares its weights with the item embeddings, which then start
        small.
      fast_memory: whether the device has one that holds what is computed for some of the rows; see
        `in_parts.py`.
    """

    num_items: int
    max_len: int
    dim: int
    num_blocks: int
    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype
    task: str = 'cloze'
    tied: bool = False
    fast_memory: bool = False

    packs: ClassVar[bool] = False  # keeps the segments of packed rows apart
    scales_embeddings: ClassVar[bool] = False  # multiplies item embeddings by sqrt(dim)
    causal: ClassVar[bool] = True  # reads only the items before a slot
    has_heads: ClassVar[bool] = False  # uses num_heads, which must divide dim
    has_slot_embeddings: ClassVar[bool] = True  # adds a learned embedding of the slot
    drops_embeddings: ClassVar[bool] = True  # applies dropout to the embedded items
    embedding_scale: ClassVar[float] = 0.02  # standard deviation of the initial embeddings

    @classmethod
    def from_config(
        cls, model: ml_collections.ConfigDict, num_items: int, dtype: np.dtype, task: str = 'cloze'
    ) -> 'SequenceEncoder':
        """Makes the encoder that `config.model` describes.

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
            task=task,
            tied=model.tied,
        )

    @classmethod
    def natural_task(cls) -> str:
        """The task that `objective.task=auto` stands for."""
        return 'next_item' if cls.packs else 'cloze'

    @property
    def initial_scale(self) -> float:
        """The standard deviation of the initial item embeddings."""
        return 0.02 if self.tied else self.embedding_scale

    @nn.compact
    def __call__(
        self,
        items: Items,
        keys: SlotKeys = None,
        last_only: bool = False,
        segments: Segments | None = None,
    ) -> HiddenOut:
        """Computes the hidden states of all slots, or of the last one.

        Args:
          items: item at each slot, padded on the left with 0.
          keys: a hash key for each slot, from which the dropout at this slot is drawn. Equal keys
            draw equal dropout, so keys must differ by row, slot, network and step. None switches
            dropout off, as in evaluation.
          last_only: whether to return the last slot alone; other slots are then computed only as
            far as the last one needs them.
          segments: the number of the sequence at each slot of packed rows, counted from 1 in each
            row; 0 is padding. None: each row is one sequence.
        """
        if self.causal and self.task == 'cloze':
            items = shift_right(items)
        if segments is None:
            segments = (items > 0).astype(jnp.int32)
        next_item = self.task == 'next_item'
        x = ItemEmbedding(
            # The mask token V + 1 exists only for the cloze task.
            self.num_items + (1 if next_item else 2),
            self.max_len,
            self.dim,
            self.dtype,
            self.initial_scale,
            self.has_slot_embeddings,
            self.dim**0.5 if self.scales_embeddings else 1.0,
            name='embedding',
        )(items, positions_in_segments(segments) if next_item else None)
        if self.drops_embeddings:
            x = hash_rng.dropout(x, keys, 0, self.dropout)
        return self.blocks(x, segments, keys, last_only)

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Maps embedded items to hidden states. A subclass must define it.

        Flax calls it within a compact method, so it may create submodules and parameters.

        Args:
          x: the embedded items.
          segments: of each slot, the number of its segment in the row; 0 is padding.
          keys: a hash key for each slot, or None; see `__call__`. `each_block` derives the keys of
            the blocks, with which the `site` of `hash_rng.dropout` starts from 0 in each block.
          last_only: whether to return the last slot alone.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define `blocks`.')

    def each_block(self, keys: SlotKeys, last_only: bool) -> Iterator[tuple[int, SlotKeys, bool]]:
        """Yields, for each block, its number, its keys, and whether it needs only the last slot."""
        for block in range(self.num_blocks):
            block_keys = None if keys is None else hash_rng.fold(keys, block + 1)
            yield block, block_keys, last_only and block == self.num_blocks - 1
