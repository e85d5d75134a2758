"""HSTU: gated attention without a softmax (Zhai et al., ICML 2024, Section 3).

In the comparison of RecBoard, which uses one protocol for all models, it exceeds BERT4Rec on Beauty
and Toys by a quarter and more, with a smaller block than that of a Transformer. The bias by time is
left out, since the sequences have no times.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import Linear, Mask, causal_mask, distance_bias, standard_norm


class Block(nn.Module):
    """x + W' (norm(sum_k a_k v_k) * u),  a_k = silu(q k + bias) / max_len.

    u, v, q and k are silu(W norm(x)). The bias is learned for each head and distance between slots.
    """

    max_len: int
    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Hidden, mask: Mask, keys: SlotKeys) -> HiddenOut:
        """Maps the last slots of `x`, as many as the mask has queries."""
        rows, slots, dim = x.shape
        queries = mask.shape[1]
        normed = standard_norm(x, 'input_norm')

        def mapped(name, inputs=normed):
            return jax.nn.silu(Linear(dim, self.dtype, name=name)(inputs))

        def heads(x):
            return x.reshape(rows, -1, self.num_heads, dim // self.num_heads)

        key, value = heads(mapped('key')), heads(mapped('value'))
        query = heads(mapped('query', normed[:, -queries:]))
        scores = jnp.einsum('rqhd,rkhd->rhqk', query, key)
        bias = distance_bias(self, self.num_heads, self.max_len, queries, slots)
        scores += bias[None].astype(scores.dtype)
        weights = jnp.where(mask[:, None], jax.nn.silu(scores), 0) / self.max_len
        mixed = jnp.einsum('rhqk,rkhd->rqhd', weights, value).reshape(rows, queries, dim)
        gated = standard_norm(mixed, 'output_norm')
        gated *= mapped('gate', normed[:, -queries:])
        gated = hash_rng.dropout(gated, keys, 1, self.dropout)
        return x[:, -queries:] + Linear(dim, self.dtype, name='out')(gated)


class HSTU(SequenceEncoder):
    """Causal encoder with gated attention."""

    packs = True
    has_heads = True

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies the blocks of gated attention."""
        mask = causal_mask(segments)
        for block, block_keys, last in self.each_block(keys, last_only):
            x = Block(
                self.max_len, self.num_heads, self.dropout, self.dtype, name=f'block_{block}'
            )(x, mask[:, -1:] if last else mask, block_keys)
        return x
