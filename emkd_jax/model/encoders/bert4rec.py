"""BERT4Rec: a bidirectional Transformer over item sequences (Sun et al., CIKM 2019).

In the form of the released EMKD code: pre-norm blocks, no final norm, and a third dropout on every
block's output. sqrt(0) has no gradient, so an all-zero token must not reach a norm: slot embeddings
see to that.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from emkd_jax.model import hash_rng as counted
from emkd_jax.model.encoders.layers import (
    Affine,
    ItemEmbedding,
    JoinHeads,
    LayerNorm,
    Linear,
    absorb,
    linear_params,
    split_heads,
)
from emkd_jax.model.precision import wide

_MASKED = -1e9  # added nowhere: it replaces the score of a padding key, as in the released code


class Attention(nn.Module):
    """Multi-head self-attention of `affine` applied to `x`; keys at padding slots are masked."""

    num_heads: int
    dropout: counted.Rate
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
        kernel, bias = absorb(affine, *linear_params(self, 'qkv_', 3 * dim, dim))
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
            head_keys = counted.fold(keys[:, None], jnp.arange(heads)[None, :, None])
            weights = counted.dropout(weights, head_keys, site, self.dropout)
        return join(jnp.einsum('rhqk,rkhd->rqhd', weights, value))


def _softmax(scores):
    """Softmax, summed in float32 or wider.

    Of each weight's logarithm, so that nothing wide but sums is needed of the forward pass; the
    usual quotient has wide weights kept.
    """
    widened = scores.astype(wide(scores.dtype))
    shifted = widened - jax.lax.stop_gradient(widened.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return jnp.exp(shifted - log_sum).astype(scores.dtype)


def _attend_from_last(x, real, kernel, bias, heads):
    """Attention of the last slot alone, with no projection of the other slots.

    q·(W_k x + b_k) = (W_k^T q)·x + a constant that softmax does not see, and weights that sum to 1
    let W_v x + b_v be applied to the weighted sum of x.
    """
    to_query, to_key, to_value = kernel.reshape(3, heads, -1, x.shape[-1])
    of_query, _, of_value = bias.reshape(3, 1, heads, -1)
    query = jnp.einsum('rd,hed->rhe', x[:, -1], to_query) + of_query
    scores = (
        jnp.einsum(
            'rhd,rkd->rhk',
            jnp.einsum('rhe,hed->rhd', query, to_key),
            x,
            preferred_element_type=wide(x.dtype),
        )
        * query.shape[-1] ** -0.5
    )
    weights = jax.nn.softmax(jnp.where(real[:, None], scores, _MASKED)).astype(x.dtype)
    mixed = jnp.einsum('rhk,rkd->rhd', weights, x)
    return (jnp.einsum('rhd,hed->rhe', mixed, to_value) + of_value)[:, None]


class FeedForward(nn.Module):
    """`affine`, dim -> 4 dim, GELU (tanh form), dropout, 4 dim -> dim."""

    dropout: counted.Rate
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
            widened = jax.nn.gelu(inner.astype(wide(inner.dtype)), approximate=True)
            return counted.dropout(widened, keys, site, self.dropout).astype(inner.dtype)

        # Computed again in the backward pass. In float32, on CPUs, XLA must be told and then needs
        # a seventh less memory; in bfloat16, on TPUs, it does so unasked, and told it moves more.
        inner = jax.checkpoint(activate, prevent_cse=self.dtype == jnp.float32)(inner)
        return Linear(x.shape[-1], self.dtype, name='down')(inner)


class Block(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(ffn(norm(x))), then dropout on the output."""

    num_heads: int
    dropout: counted.Rate
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
        x = x + counted.dropout(attended, keys, 1, self.dropout)
        fed = FeedForward(self.dropout, self.dtype, name='feed_forward')(
            *LayerNorm(name='feed_forward_norm')(x), keys, site=2
        )
        x = x + counted.dropout(fed, keys, 3, self.dropout)
        return counted.dropout(x, keys, 4, self.dropout)


class BERT4Rec(nn.Module):
    """Bidirectional encoder of item sequences; see `__call__`."""

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
        """Hidden states of every slot.

        Args:
          items: 0 = padding (left), 1..num_items, num_items + 1 = mask token; the rightmost slots
            of the `max_len` the encoder knows.
          keys: counted-randomness keys of the tokens; None switches dropout off.
          last_only: compute the last block at the last slot alone; one slot comes out.
        """
        real = items > 0
        x = ItemEmbedding(self.num_items, self.max_len, self.dim, self.dtype, name='embedding')(
            items
        )
        x = counted.dropout(x, keys, 0, self.dropout)
        for block in range(self.num_blocks):
            block_keys = None if keys is None else counted.fold(keys, block + 1)
            x = Block(self.num_heads, self.dropout, self.dtype, name=f'block_{block}')(
                x, real, block_keys, last_only=last_only and block == self.num_blocks - 1
            )
        return x
