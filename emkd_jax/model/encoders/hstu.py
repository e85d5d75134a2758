"""HSTU: gated attention without a softmax (Zhai et al., ICML 2024, Section 3).

The modern one of the set, chosen by RecBoard's comparison under one protocol: there it is ahead of
BERT4Rec on Beauty and Toys by a quarter and more, with a block smaller than a Transformer's.
Without the bias by time, as sequences come without times.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from emkd_jax.model import hash_rng as counted
from emkd_jax.model.encoders.layers import (
    ItemEmbedding,
    Linear,
    causal_mask,
    shift_right,
    standard_norm,
)


class Block(nn.Module):
    """x + W' (norm(sum_k a_k v_k) * u),  a_k = silu(q k + bias) / max_len.

    u, v, q and k are silu(W norm(x)). The bias is learned for each head and distance between slots.
    """

    max_len: int
    num_heads: int
    dropout: counted.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'rows slots dim'],
        mask: Bool[Array, 'rows queries slots'],
        keys: UInt32[Array, 'rows queries'] | None,
    ) -> Float[Array, 'rows queries dim']:
        rows, slots, dim = x.shape
        queries = mask.shape[1]  # the last ones
        normed = standard_norm(x, 'input_norm')

        def mapped(name, of=normed):
            return jax.nn.silu(Linear(dim, self.dtype, name=name)(of))

        def heads(of):
            return of.reshape(rows, -1, self.num_heads, dim // self.num_heads)

        key, value = heads(mapped('key')), heads(mapped('value'))
        query = heads(mapped('query', normed[:, -queries:]))
        bias = self.param('bias', nn.initializers.normal(0.02), (self.num_heads, self.max_len))
        slot = jnp.arange(slots)
        distance = jnp.maximum(slot[-queries:, None] - slot[None, :], 0)
        scores = jnp.einsum('rqhd,rkhd->rhqk', query, key)
        scores += bias[:, distance][None].astype(scores.dtype)
        weights = jnp.where(mask[:, None], jax.nn.silu(scores), 0) / self.max_len
        mixed = jnp.einsum('rhqk,rkhd->rqhd', weights, value).reshape(rows, queries, dim)
        gated = standard_norm(mixed, 'output_norm')
        gated *= mapped('gate', normed[:, -queries:])
        gated = counted.dropout(gated, keys, 1, self.dropout)
        return x[:, -queries:] + Linear(dim, self.dtype, name='out')(gated)


class HSTU(nn.Module):
    """Causal encoder; fields and call as `BERT4Rec`'s."""

    num_items: int
    max_len: int
    dim: int
    num_blocks: int
    num_heads: int
    dropout: counted.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None = None,
        last_only: bool = False,
    ) -> Float[Array, 'rows slots_out dim']:
        """Hidden states; slot t sees the items before it."""
        items = shift_right(items)
        mask = causal_mask(items)
        x = ItemEmbedding(
            self.num_items, self.max_len, self.dim, self.dtype, scale=0.02, name='embedding'
        )(items)
        x = counted.dropout(x, keys, 0, self.dropout)
        for block in range(self.num_blocks):
            block_keys = None if keys is None else counted.fold(keys, block + 1)
            last = last_only and block == self.num_blocks - 1
            x = Block(
                self.max_len, self.num_heads, self.dropout, self.dtype, name=f'block_{block}'
            )(x, mask[:, -1:] if last else mask, block_keys)
        return x
