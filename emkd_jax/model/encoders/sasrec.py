"""SASRec: a causal Transformer over item sequences (Kang and McAuley, ICDM 2018).

Pre-norm blocks of self-attention and a point-wise feed-forward of the same width with ReLU
(Section III-B), and the last norm of the authors' code.
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
from emkd_jax.model.precision import wide


class Attention(nn.Module):
    """Multi-head attention of `queries` over `context`, without an output map."""

    num_heads: int
    dropout: counted.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, 'rows queries dim'],
        context: Float[Array, 'rows slots dim'],
        mask: Bool[Array, 'rows queries slots'],
        keys: UInt32[Array, 'rows queries'] | None,
        site: int,
    ) -> Float[Array, 'rows queries dim']:
        dim = queries.shape[-1]

        def heads(x, name):
            return Linear(dim, self.dtype, name=name)(x).reshape(*x.shape[:2], self.num_heads, -1)

        query, key = heads(queries, 'query'), heads(context, 'key')
        scores = (
            jnp.einsum('rqhd,rkhd->rqhk', query, key, preferred_element_type=wide(query.dtype))
            * query.shape[-1] ** -0.5
        )
        weights = jax.nn.softmax(jnp.where(mask[:, :, None], scores, -jnp.inf)).astype(query.dtype)
        if keys is not None:
            head_keys = counted.fold(keys[..., None], jnp.arange(self.num_heads)[None, None])
            weights = counted.dropout(weights, head_keys, site, self.dropout)
        mixed = jnp.einsum('rqhk,rkhd->rqhd', weights, heads(context, 'value'))
        return mixed.reshape(queries.shape)


class SASRec(nn.Module):
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
            context = queries = standard_norm(x, f'attention_norm_{block}')
            if last_only and block == self.num_blocks - 1:
                x, queries, mask = x[:, -1:], queries[:, -1:], mask[:, -1:]
            attended = Attention(
                self.num_heads, self.dropout, self.dtype, name=f'attention_{block}'
            )(queries, context, mask, block_keys, site=0)
            x = x + counted.dropout(attended, block_keys, 1, self.dropout)
            fed = standard_norm(x, f'feed_forward_norm_{block}')
            fed = jax.nn.relu(Linear(self.dim, self.dtype, name=f'up_{block}')(fed))
            fed = counted.dropout(fed, block_keys, 2, self.dropout)
            fed = Linear(self.dim, self.dtype, name=f'down_{block}')(fed)
            x = x + counted.dropout(fed, block_keys, 3, self.dropout)
        return standard_norm(x, 'norm')
