"""Layers that the encoders share. Parameters are float32; `dtype` is the type of activations."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from emkd_jax.model.encoders.cpu_matmul import matmul
from emkd_jax.model.precision import accumulation_dtype

# Which slots each query attends to. The queries are the last slots, or all.
Mask = Bool[Array, 'rows queries slots']


class Normed(NamedTuple):
    """A normalised array before its gain and offset: it stands for gain * values + offset.

    The linear map that follows multiplies them into its own weights. Their gradients then follow
    from the gradients of these weights, which saves passes over the activations.
    """

    values: Float[Array, '*lead dim']
    gain: Float[Array, ' dim']
    offset: Float[Array, ' dim']

    def fold_affine(
        self, kernel: Float[Array, 'features dim'], bias: Float[Array, ' features']
    ) -> tuple[Float[Array, 'features dim'], Float[Array, ' features']]:
        """Returns the weight and bias that map `values` to what the given ones map `self` to."""
        return kernel * self.gain[None], bias + (kernel * self.offset[None]).sum(1)


class LayerNorm(nn.Module):
    """Layer norm in the form of the released code; its gain and bias are left to the next layer.

    The norm is (x - mean) / (std + epsilon): the variance has n - 1 in its denominator, and epsilon
    is added to the standard deviation instead of the variance. Statistics are at least float32.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, '*lead dim']) -> Normed:
        """Normalises the last axis."""
        dim = x.shape[-1]
        gain = self.param('gain', nn.initializers.ones, (dim,))
        bias = self.param('bias', nn.initializers.zeros, (dim,))
        widened = x.astype(accumulation_dtype(x.dtype))
        mean = widened.mean(-1, keepdims=True)
        # Both moments need one pass over x. A variance below the rounding error of the difference
        # is not known, so that the error bounds it from below.
        squares = jnp.square(widened).sum(-1, keepdims=True)
        least = jnp.finfo(widened.dtype).eps * squares
        variance = jnp.maximum(squares - dim * jnp.square(mean), least) / (dim - 1)
        scale = 1 / (jnp.sqrt(variance) + self.epsilon)
        return Normed(((widened - mean) * scale).astype(x.dtype), gain, bias)


def standard_norm(x: Float[Array, '*lead dim'], name: str) -> Float[Array, '*lead dim']:
    """The usual layer norm. Unlike `LayerNorm`, it has a gradient where `x` is constant."""
    return nn.LayerNorm(name=name)(x.astype(accumulation_dtype(x.dtype))).astype(x.dtype)


class Linear(nn.Module):
    """y = x W^T + b over the last axis.

    W is stored as (features, inputs), which is the layout of PyTorch. A range of output features is
    then contiguous; the loss over the catalogue reads the item head in such ranges.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, '*lead inputs'] | Normed) -> Float[Array, '*lead features']:
        """Maps `x`."""
        values = x.values if isinstance(x, Normed) else x
        kernel, bias = linear_params(self, '', self.features, values.shape[-1])
        if isinstance(x, Normed):
            kernel, bias = x.fold_affine(kernel, bias)
        return linear(values.astype(self.dtype), kernel, bias)


def normal(scale: float) -> Callable[..., Array]:
    """Initialises from N(0, scale^2), with the same bits in a larger compiled program and alone."""

    def init(key, shape, dtype=jnp.float32):
        drawn = jax.random.normal(key, shape, dtype)
        # XLA would join the scale with a factor within the drawing, which rounds in another way.
        return jax.lax.optimization_barrier(drawn) * jnp.asarray(scale, dtype)

    return init


def linear_params(
    module: nn.Module, prefix: str, features: int, inputs: int, with_bias: bool = True
) -> tuple[Float[Array, 'features inputs'], Float[Array, ' features']]:
    """Declares the weight and bias of a linear map in `module`; without a bias, it is zero.

    Both start from U(-1/sqrt(inputs), 1/sqrt(inputs)), as in PyTorch.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = module.param(f'{prefix}kernel', init, (features, inputs))
    if not with_bias:
        return kernel, jnp.zeros(features)
    return kernel, module.param(f'{prefix}bias', init, (features,))


def linear(
    x: Float[Array, '*lead inputs'],
    kernel: Float[Array, 'features inputs'],
    bias: Float[Array, ' features'],
) -> Float[Array, '*lead features']:
    """Computes x W^T + b in the dtype of x."""
    lead = 'abcde'[: x.ndim - 1]
    return matmul(f'{lead}i,fi->{lead}f', x, kernel, bias)


def split_heads(
    x: Float[Array, 'rows slots inputs'],
    kernel: Float[Array, 'features inputs'],
    bias: Float[Array, ' features'],
    num_heads: int,
) -> Float[Array, 'rows slots heads width']:
    """Computes x W^T + b with the features split into heads.

    The heads are an axis of the product itself, since splitting its result would copy the result
    into another memory layout.
    """
    kernel, bias = kernel.reshape(num_heads, -1, x.shape[-1]), bias.reshape(num_heads, -1)
    return matmul('rsi,hwi->rshw', x, kernel, bias)


class JoinHeads(nn.Module):
    """A linear map over all heads together, the counterpart of `split_heads`."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, 'rows slots heads width']
    ) -> Float[Array, 'rows slots features']:
        """Maps `x`."""
        heads, width = x.shape[2:]
        kernel, bias = linear_params(self, '', self.features, heads * width)
        return matmul('rshw,fhw->rsf', x.astype(self.dtype), kernel.reshape(-1, heads, width), bias)


class ItemEmbedding(nn.Module):
    """Embeddings of items and of slots, initialised from N(0, scale^2).

    The embedding of the padding item 0 is always zero. Without positions, an input of T slots takes
    the rightmost T of the `max_len` slot embeddings, so that the last slot has the same one in
    every input. The item embeddings are multiplied by `item_factor` before those of the slots are
    added.
    """

    num_tokens: int
    max_len: int
    dim: int
    dtype: jnp.dtype
    scale: float = 1.0
    with_slots: bool = True
    item_factor: float = 1.0

    @nn.compact
    def __call__(
        self, items: Int[Array, 'rows slots'], positions: Int[Array, 'rows slots'] | None = None
    ) -> Float[Array, 'rows slots dim']:
        """Embeds items, each at its position where there are positions."""
        initial = normal(self.scale)

        def without_padding(key, shape):
            return initial(key, shape).at[0].set(0)

        tokens = self.param('tokens', without_padding, (self.num_tokens, self.dim))
        slots = None
        if self.with_slots:
            slots = self.param('slots', initial, (self.max_len, self.dim))
            if positions is not None:
                slots = slots[jnp.minimum(positions, self.max_len - 1)]
            else:
                slots = slots[None, self.max_len - items.shape[1] :]
        if positions is None and self.item_factor == 1:  # with fewer passes over memory
            return _embed(tokens, None if slots is None else slots[0], items, self.dtype)
        embedded = _embed(tokens, None, items, self.dtype)
        embedded *= embedded.dtype.type(self.item_factor)
        return embedded if slots is None else embedded + slots.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _embed(tokens, slots, items, dtype):
    """tokens[items] + slots, where item 0 is zero. Gradients are summed in float32 or wider."""
    # The lookup has the slots first because TPUs store activations in this order.
    slot_first = items.T
    embedded = jnp.where((slot_first > 0)[..., None], tokens[slot_first], 0).astype(dtype)
    if slots is not None:
        embedded += slots.astype(dtype)[:, None]
    return embedded.swapaxes(0, 1)


def _embed_forward(tokens, slots, items, dtype):
    return _embed(tokens, slots, items, dtype), (tokens, slots, items)


def _embed_backward(dtype, residuals, grad):
    del dtype
    tokens, slots, items = residuals
    grad = grad.swapaxes(0, 1)
    row = jnp.where(items > 0, items, len(tokens)).T  # the gradient of padding is dropped
    token_grad = jnp.zeros_like(tokens).at[row].add(grad.astype(tokens.dtype), mode='drop')
    slot_grad = None if slots is None else grad.sum(1, dtype=tokens.dtype)
    return token_grad, slot_grad, np.zeros(items.shape, jax.dtypes.float0)


_embed.defvjp(_embed_forward, _embed_backward)


def shift_right(items: Int[Array, 'rows slots']) -> Int[Array, 'rows slots']:
    """Moves items to the right by one slot, so that each slot holds the item before it."""
    return jnp.pad(items[:, :-1], ((0, 0), (1, 0)))


def segment_starts(segments: Int[Array, 'rows slots']) -> Bool[Array, 'rows slots']:
    """Returns whether a segment, or padding, starts at each slot."""
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return segments != before


def positions_in_segments(segments: Int[Array, 'rows slots']) -> Int[Array, 'rows slots']:
    """Returns the place of each slot in its segment, counted from 0; padding has the place 0."""
    slot = jnp.arange(segments.shape[1])[None]
    place = slot - jax.lax.cummax(jnp.where(segment_starts(segments), slot, 0), axis=1)
    return jnp.where(segments > 0, place, 0)


def causal_mask(segments: Int[Array, 'rows slots']) -> Mask:
    """Causal mask: each slot attends to earlier slots of its segment, and to itself.

    Since it attends to itself, no slot attends to nothing.

    Args:
      segments: the number of the sequence at each slot; 0 is padding.
    """
    slot = jnp.arange(segments.shape[1])
    earlier = slot[:, None] > slot[None, :]
    itself = slot[:, None] == slot[None, :]
    together = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
    return (earlier[None] & together) | itself[None]


def distance_bias(
    module: nn.Module, num_heads: int, max_len: int, queries: int, slots: int
) -> Float[Array, 'heads queries slots']:
    """Declares a learned bias for each head and distance, and returns that of the last queries."""
    bias = module.param('bias', normal(0.02), (num_heads, max_len))
    slot = jnp.arange(slots)
    distance = slot[slots - queries :, None] - slot[None, :]
    return bias[:, jnp.clip(distance, 0, max_len - 1)]
