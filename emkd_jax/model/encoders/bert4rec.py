"""BERT4Rec: a bidirectional Transformer over item sequences (Sun et al., CIKM 2019).

In the form of the released EMKD code: pre-norm blocks, no final norm, and a third dropout on the
output of every block. Slot embeddings keep an all-zero vector, at which the norm has no gradient,
away from the norms.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import SequenceEncoder
from emkd_jax.model.encoders.layers import (
    Affine,
    JoinHeads,
    LayerNorm,
    Linear,
    fold_affine,
    linear_params,
    split_heads,
)
from emkd_jax.model.precision import accumulation_dtype

_MASKED = -1e9  # replaces the score of a padding key, as in the released code


class Attention(nn.Module):
    """Multi-head self-attention over `affine(x)`; keys at padding slots are masked."""

    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'rows slots dim'],
        affine: Affine,
        real: Bool[Array, 'rows slots'],
        keys: UInt32[Array, 'rows queries'] | None,
        site: int,
        last_only: bool,
    ) -> Float[Array, 'rows queries dim']:
        dim, heads = x.shape[-1], self.num_heads
        kernel, bias = fold_affine(affine, *linear_params(self, 'qkv_', 3 * dim, dim))
        join = JoinHeads(dim, self.dtype, name='out')
        if last_only:
            return join(
                _attend_from_last(x, real, kernel.astype(x.dtype), bias.astype(x.dtype), heads)
            )
        query, key, value = (
            split_heads(x, *params, heads)
            for params in zip(jnp.split(kernel, 3), jnp.split(bias, 3), strict=True)
        )
        query *= query.dtype.type(query.shape[-1] ** -0.5)
        scores = jnp.einsum('rqhd,rkhd->rhqk', query, key)
        weights = _softmax(jnp.where(real[:, None, None, :], scores, _MASKED))
        if keys is not None:
            head_keys = hash_rng.fold(keys[:, None], jnp.arange(heads)[None, :, None])
            weights = hash_rng.dropout(weights, head_keys, site, self.dropout)
        return join(jnp.einsum('rhqk,rkhd->rqhd', weights, value))


def _softmax(scores):
    """Softmax with float32 or wider sums.

    It is computed from the logarithm of each weight, so that the backward pass needs only the sums
    in the wider dtype; the usual quotient would keep all weights in it.
    """
    widened = scores.astype(accumulation_dtype(scores.dtype))
    shifted = widened - jax.lax.stop_gradient(widened.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return jnp.exp(shifted - log_sum).astype(scores.dtype)


def _attend_from_last(x, real, kernel, bias, heads):
    """Attention of the last slot alone, without projecting the other slots.

    q·(W_k x + b_k) = (W_k^T q)·x + a constant that does not change the softmax; and since the
    weights sum to 1, W_v x + b_v can be applied to the weighted sum of x.
    """
    to_query, to_key, to_value = kernel.reshape(3, heads, -1, x.shape[-1])
    query_bias, _, value_bias = bias.reshape(3, 1, heads, -1)
    query = jnp.einsum('rd,hed->rhe', x[:, -1], to_query) + query_bias
    scores = (
        jnp.einsum(
            'rhd,rkd->rhk',
            jnp.einsum('rhe,hed->rhd', query, to_key),
            x,
            preferred_element_type=accumulation_dtype(x.dtype),
        )
        * query.shape[-1] ** -0.5
    )
    weights = jax.nn.softmax(jnp.where(real[:, None], scores, _MASKED)).astype(x.dtype)
    mixed = jnp.einsum('rhk,rkd->rhd', weights, x)
    return (jnp.einsum('rhd,hed->rhe', mixed, to_value) + value_bias)[:, None]


class FeedForward(nn.Module):
    """`affine`, dim -> 4 dim, GELU (tanh form), dropout, 4 dim -> dim."""

    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'rows slots dim'],
        affine: Affine,
        keys: UInt32[Array, 'rows slots'] | None,
        site: int,
    ) -> Float[Array, 'rows slots dim']:
        inner = Linear(4 * x.shape[-1], self.dtype, name='up')(x, affine)

        def activate(inner):
            widened = jax.nn.gelu(inner.astype(accumulation_dtype(inner.dtype)), approximate=True)
            return hash_rng.dropout(widened, keys, site, self.dropout).astype(inner.dtype)

        # The backward pass computes this again. In float32 on CPUs, XLA must be told to and then
        # needs a seventh less memory; in bfloat16 on TPUs it does so by itself.
        inner = jax.checkpoint(activate, prevent_cse=self.dtype == jnp.float32)(inner)
        return Linear(x.shape[-1], self.dtype, name='down')(inner)


class Block(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(ffn(norm(x))), then dropout on the output."""

    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'rows slots dim'],
        real: Bool[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None,
        last_only: bool = False,
    ) -> Float[Array, 'rows queries dim']:
        attended = Attention(self.num_heads, self.dropout, self.dtype, name='attention')(
            *LayerNorm(name='attention_norm')(x), real, keys, site=0, last_only=last_only
        )
        if last_only:
            x = x[:, -1:]
        x = x + hash_rng.dropout(attended, keys, 1, self.dropout)
        fed = FeedForward(self.dropout, self.dtype, name='feed_forward')(
            *LayerNorm(name='feed_forward_norm')(x), keys, site=2
        )
        x = x + hash_rng.dropout(fed, keys, 3, self.dropout)
        return hash_rng.dropout(x, keys, 4, self.dropout)


class BERT4Rec(SequenceEncoder):
    """Bidirectional encoder of item sequences."""

    causal = False
    has_heads = True
    embedding_scale = 1.0

    def blocks(
        self,
        x: Float[Array, 'rows slots dim'],
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None,
        last_only: bool,
    ) -> Float[Array, 'rows slots_out dim']:
        """Pre-norm Transformer blocks."""
        for block, block_keys, last in self.each_block(keys, last_only):
            x = Block(self.num_heads, self.dropout, self.dtype, name=f'block_{block}')(
                x, items > 0, block_keys, last
            )
        return x
