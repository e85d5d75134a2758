"""SASRec: a causal Transformer over item sequences (Kang and McAuley, ICDM 2018).

The blocks have attention and a point-wise feed-forward network of the same width with ReLU (Section
III-B), both after a norm. The norm at the end is that of the authors' code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import Linear, Mask, causal_mask, standard_norm
from emkd_jax.model.precision import accumulation_dtype


class Attention(nn.Module):
    """Multi-head attention without an output projection."""

    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, queries: HiddenOut, context: Hidden, mask: Mask, keys: SlotKeys
    ) -> HiddenOut:
        """Attends from `queries` to `context`."""
        dim = queries.shape[-1]

        def heads(x, name):
            return Linear(dim, self.dtype, name=name)(x).reshape(*x.shape[:2], self.num_heads, -1)

        query, key = heads(queries, 'query'), heads(context, 'key')
        wide = accumulation_dtype(query.dtype)
        scores = jnp.einsum('rqhd,rkhd->rqhk', query, key, preferred_element_type=wide)
        scores *= query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(mask[:, :, None], scores, -jnp.inf)).astype(query.dtype)
        if keys is not None:
            head_keys = hash_rng.fold(keys[..., None], jnp.arange(self.num_heads)[None, None])
            weights = hash_rng.dropout(weights, head_keys, 0, self.dropout)
        mixed = jnp.einsum('rqhk,rkhd->rqhd', weights, heads(context, 'value'))
        return mixed.reshape(queries.shape)


class SASRec(SequenceEncoder):
    """Causal Transformer."""

    packs = True
    has_heads = True

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies attention and feed-forward networks in turn, and the final norm."""
        mask = causal_mask(segments)
        for block, block_keys, last in self.each_block(keys, last_only):
            context = queries = standard_norm(x, f'attention_norm_{block}')
            if last:
                x, queries, mask = x[:, -1:], queries[:, -1:], mask[:, -1:]
            attended = Attention(
                self.num_heads, self.dropout, self.dtype, name=f'attention_{block}'
            )(queries, context, mask, block_keys)
            x = x + hash_rng.dropout(attended, block_keys, 1, self.dropout)
            fed = standard_norm(x, f'feed_forward_norm_{block}')
            fed = jax.nn.relu(Linear(self.dim, self.dtype, name=f'up_{block}')(fed))
            fed = hash_rng.dropout(fed, block_keys, 2, self.dropout)
            fed = Linear(self.dim, self.dtype, name=f'down_{block}')(fed)
            x = x + hash_rng.dropout(fed, block_keys, 3, self.dropout)
        return standard_norm(x, 'norm')
