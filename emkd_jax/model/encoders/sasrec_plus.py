"""SASRec+: the causal Transformer with which strong reruns of SASRec reach their results.

It differs from the encoder of the SASRec paper by an output projection of the attention, a
feed-forward network that is four times as wide and has a GELU, a learned bias by distance, inputs
scaled by sqrt(dim), and dropout in these places only: the embeddings, the attention weights, and
the outputs of both sublayers. What such a network reaches with the full softmax is in Klenitskiy
and Vasilev, "Turning dross into gold loss: is BERT4Rec really better than SASRec?" (RecSys 2023).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import Linear, Mask, causal_mask, distance_bias, standard_norm
from emkd_jax.model.precision import accumulation_dtype


class Attention(nn.Module):
    """Multi-head attention with a bias by distance and an output projection."""

    max_len: int
    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, context: Hidden, mask: Mask, keys: SlotKeys) -> HiddenOut:
        """Attends from the last slots of `context`, as many as the mask has queries."""
        rows, slots, dim = context.shape
        queries = mask.shape[1]

        def heads(x, name):
            return Linear(dim, self.dtype, name=name)(x).reshape(rows, -1, self.num_heads, width)

        width = dim // self.num_heads
        query, key = heads(context[:, -queries:], 'query'), heads(context, 'key')
        wide = accumulation_dtype(query.dtype)
        scores = jnp.einsum('rqhd,rkhd->rhqk', query, key, preferred_element_type=wide)
        bias = distance_bias(self, self.num_heads, self.max_len, queries, slots)
        scores = scores * width**-0.5 + bias[None].astype(wide)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf)).astype(query.dtype)
        if keys is not None:
            head_keys = hash_rng.fold(keys[:, None], jnp.arange(self.num_heads)[None, :, None])
            weights = hash_rng.dropout(weights, head_keys, 0, self.dropout)
        mixed = jnp.einsum('rhqk,rkhd->rqhd', weights, heads(context, 'value'))
        return Linear(dim, self.dtype, name='out')(mixed.reshape(rows, queries, dim))


class FeedForward(nn.Module):
    """Linear map to 4 dim, GELU, and linear map back."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, 'rows slots dim']) -> Float[Array, 'rows slots dim']:
        """Maps each slot."""
        inner = jax.nn.gelu(Linear(4 * x.shape[-1], self.dtype, name='up')(x), approximate=True)
        return Linear(x.shape[-1], self.dtype, name='down')(inner)


class SASRecPlus(SequenceEncoder):
    """Causal Transformer; see the text at the top of this file."""

    packs = True
    has_heads = True
    scales_embeddings = True

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies attention and feed-forward networks in turn, and the final norm."""
        mask = causal_mask(segments)
        for block, block_keys, last in self.each_block(keys, last_only):
            queries = mask[:, -1:] if last else mask
            context = standard_norm(x, f'attention_norm_{block}')
            mixed = self.mix(context, queries, segments, block_keys, block)
            x = x[:, -queries.shape[1] :] + mixed
            fed = FeedForward(self.dtype, name=f'feed_forward_{block}')(
                standard_norm(x, f'feed_forward_norm_{block}')
            )
            x = x + hash_rng.dropout(fed, block_keys, 2, self.dropout)
        return standard_norm(x, 'norm')

    def mix(
        self, context: Hidden, mask: Mask, segments: Segments, keys: SlotKeys, block: int
    ) -> HiddenOut:
        """Mixes the slots of each segment: attention, with dropout on its output."""
        attention = Attention(
            self.max_len, self.num_heads, self.dropout, self.dtype, name=f'attention_{block}'
        )
        return hash_rng.dropout(attention(context, mask, keys), keys, 1, self.dropout)
