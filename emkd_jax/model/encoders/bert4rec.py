"""BERT4Rec: a bidirectional Transformer over item sequences (Sun et al., CIKM 2019).

It has the form of the released EMKD code: norms come before the sublayers, there is no norm at the
end, and the output of every block gets a third dropout.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.in_parts import map_in_parts, rows_per_part
from emkd_jax.model.encoders.layers import (
    JoinHeads,
    LayerNorm,
    Linear,
    Normed,
    linear_params,
    split_heads,
)
from emkd_jax.model.precision import accumulation_dtype

_MASKED = -1e9  # the score of a padding slot, as in the released code


class Attention(nn.Module):
    """Multi-head self-attention that ignores padding slots."""

    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, normed: Normed, real: Bool[Array, 'rows slots'], keys: SlotKeys, last_only: bool
    ) -> HiddenOut:
        """Attends from all slots, or from the last one, to the slots that are `real`."""
        x, heads = normed.values, self.num_heads
        dim = x.shape[-1]
        kernel, bias = normed.fold_affine(*linear_params(self, 'qkv_', 3 * dim, dim))
        join = JoinHeads(dim, self.dtype, name='out')
        if last_only:
            kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
            return join(_attend_from_last(x, real, kernel, bias, heads))
        query, key, value = (
            split_heads(x, *params, heads)
            for params in zip(jnp.split(kernel, 3), jnp.split(bias, 3), strict=True)
        )
        query *= query.dtype.type(query.shape[-1] ** -0.5)
        scores = jnp.einsum('rqhd,rkhd->rhqk', query, key)
        weights = _softmax(jnp.where(real[:, None, None, :], scores, _MASKED))
        if keys is not None:
            head_keys = hash_rng.fold(keys[:, None], jnp.arange(heads)[None, :, None])
            weights = hash_rng.dropout(weights, head_keys, 0, self.dropout)
        return join(jnp.einsum('rhqk,rkhd->rqhd', weights, value))


def _softmax(scores):
    """Softmax with sums in float32 or wider.

    Each weight is computed from its logarithm. The backward pass then needs only the sums in the
    wider type, whereas a quotient would keep all weights in it.
    """
    widened = scores.astype(accumulation_dtype(scores.dtype))
    shifted = widened - jax.lax.stop_gradient(widened.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return jnp.exp(shifted - log_sum).astype(scores.dtype)


def _attend_from_last(x, real, kernel, bias, heads):
    """Attention from the last slot alone, which does not project the other slots.

    q·(W_k x + b_k) is (W_k^T q)·x and a constant that does not change the softmax. Since the
    weights sum to 1, W_v x + b_v can be applied after the weighted sum.
    """
    query_kernel, key_kernel, value_kernel = kernel.reshape(3, heads, -1, x.shape[-1])
    query_bias, _, value_bias = bias.reshape(3, 1, heads, -1)
    query = jnp.einsum('rd,hed->rhe', x[:, -1], query_kernel) + query_bias
    scores = jnp.einsum(
        'rhd,rkd->rhk',
        jnp.einsum('rhe,hed->rhd', query, key_kernel),
        x,
        preferred_element_type=accumulation_dtype(x.dtype),
    )
    scores *= query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(real[:, None], scores, _MASKED)).astype(x.dtype)
    mixed = jnp.einsum('rhk,rkd->rhd', weights, x)
    return (jnp.einsum('rhd,hed->rhe', mixed, value_kernel) + value_bias)[:, None]


class FeedForward(nn.Module):
    """Linear map to 4 dim, GELU in its tanh form, dropout, linear map back to dim."""

    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, normed: Normed, keys: SlotKeys) -> Float[Array, 'rows slots dim']:
        """Maps each slot."""
        dim = normed.values.shape[-1]
        inner = Linear(4 * dim, self.dtype, name='up')(normed)

        def activate(inner):
            widened = jax.nn.gelu(inner.astype(accumulation_dtype(inner.dtype)), approximate=True)
            return hash_rng.dropout(widened, keys, 2, self.dropout).astype(inner.dtype)

        # The backward pass computes the activation again. XLA does so by itself in bfloat16 on
        # TPUs. In float32 on CPUs it must be told to, and then needs a seventh less memory.
        inner = jax.checkpoint(activate, prevent_cse=self.dtype == jnp.float32)(inner)
        return Linear(dim, self.dtype, name='down')(inner)


class Block(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(ffn(norm(x))), then dropout on the output."""

    num_heads: int
    dropout: hash_rng.Rate
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Hidden, real: Bool[Array, 'rows slots'], keys: SlotKeys, last_only: bool
    ) -> HiddenOut:
        """Maps all slots, or the last one."""
        attended = Attention(self.num_heads, self.dropout, self.dtype, name='attention')(
            LayerNorm(name='attention_norm')(x), real, keys, last_only
        )
        if last_only:
            x = x[:, -1:]
        x = x + hash_rng.dropout(attended, keys, 1, self.dropout)
        fed = FeedForward(self.dropout, self.dtype, name='feed_forward')(
            LayerNorm(name='feed_forward_norm')(x), keys
        )
        x = x + hash_rng.dropout(fed, keys, 3, self.dropout)
        return hash_rng.dropout(x, keys, 4, self.dropout)


class BERT4Rec(SequenceEncoder):
    """Bidirectional encoder of item sequences.

    The slot embeddings ensure that no vector is constant: the norm has no gradient there.
    """

    causal = False
    has_heads = True
    embedding_scale = 1.0

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies the Transformer blocks."""
        rows, slots, dim = x.shape
        part = rows
        if self.fast_memory and keys is not None and not self.is_initializing():
            part = rows_per_part(rows, slots * 4 * dim * x.dtype.itemsize)
        for block, block_keys, last in self.each_block(keys, last_only):
            name = f'block_{block}'
            if part < rows and not last:
                params = self.variables['params'][name]
                x = self._in_parts(x, segments > 0, block_keys, params, part)
            else:
                x = Block(self.num_heads, self.dropout, self.dtype, name=name)(
                    x, segments > 0, block_keys, last
                )
        return x

    def _in_parts(self, x, real, keys, params, rows):
        """A block of which only the input and the output move to the main memory."""
        rate = self.dropout
        given = (rate,) if isinstance(rate, jax.Array) else ()

        def function(x, fixed, params):
            params, *given = params
            block = Block(self.num_heads, *(given or [rate]), self.dtype, parent=None)
            return block.apply({'params': params}, x, *fixed, False)

        return map_in_parts(function, x, (real, keys), (params, *given), rows)
