"""Layers the encoders share. Parameters are float32; `dtype` is that of the activations."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from emkd_jax.model.encoders.cpu_matmul import matmul
from emkd_jax.model.precision import accumulation_dtype


def uniform_fan_in(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for linear weights and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Affine(NamedTuple):
    """x -> gain * x + offset."""

    gain: Float[Array, ' dim']
    offset: Float[Array, ' dim']


class Linear(nn.Module):
    """y = x W^T + b over the last axis.

    W is stored (features, inputs), PyTorch's layout: a block of output features is then
    contiguous, which the streamed loss and the item head live on.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, '*lead inputs'], affine: Affine | None = None
    ) -> Float[Array, '*lead features']:
        """The map of `x`, or of `affine` applied to it."""
        kernel, bias = linear_params(self, '', self.features, x.shape[-1])
        if affine is not None:
            kernel, bias = fold_affine(affine, kernel, bias)
        return linear(x.astype(self.dtype), kernel, bias)


def linear_params(module: nn.Module, prefix: str, features: int, inputs: int):
    """Declares the weight (features, inputs) and bias (features,) of a linear map."""
    init = uniform_fan_in(inputs)
    kernel = module.param(f'{prefix}kernel', init, (features, inputs))
    bias = module.param(f'{prefix}bias', init, (features,))
    return kernel, bias


def linear(
    x: Float[Array, '*lead inputs'],
    kernel: Float[Array, 'features inputs'],
    bias: Float[Array, ' features'],
) -> Float[Array, '*lead features']:
    """x W^T + b in the dtype of x."""
    lead = 'abcde'[: x.ndim - 1]
    return matmul(f'{lead}i,fi->{lead}f', x, kernel, bias)


def split_heads(
    x: Float[Array, 'rows slots inputs'],
    kernel: Float[Array, 'features inputs'],
    bias: Float[Array, ' features'],
    num_heads: int,
) -> Float[Array, 'rows slots heads width']:
    """x W^T + b, its features cut into heads.

    The heads are an axis of the product itself: cut afterwards they cost a copy in another layout.
    """
    kernel, bias = kernel.reshape(num_heads, -1, x.shape[-1]), bias.reshape(num_heads, -1)
    return matmul('rsi,hwi->rshw', x, kernel, bias)


class JoinHeads(nn.Module):
    """`Linear` over all heads together; see `split_heads`."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, 'rows slots heads width']
    ) -> Float[Array, 'rows slots features']:
        heads, width = x.shape[2:]
        kernel, bias = linear_params(self, '', self.features, heads * width)
        return matmul('rshw,fhw->rsf', x.astype(self.dtype), kernel.reshape(-1, heads, width), bias)


class LayerNorm(nn.Module):
    """(x - mean) / (std + epsilon) with the unbiased standard deviation, and its gain and bias.

    The released code's form: n - 1 in the variance and epsilon added to the deviation, not to the
    variance. Statistics are float32 whatever the dtype of `x`. Gain and bias are left to the linear
    map that follows; see `fold_affine`.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, '*lead dim']) -> tuple[Float[Array, '*lead dim'], Affine]:
        dim = x.shape[-1]
        gain = self.param('gain', nn.initializers.ones, (dim,))
        bias = self.param('bias', nn.initializers.zeros, (dim,))
        widened = x.astype(accumulation_dtype(x.dtype))
        mean = widened.mean(-1, keepdims=True)
        # Both moments in one pass over x. Rounding bounds what the difference can tell.
        squares = jnp.square(widened).sum(-1, keepdims=True)
        least = jnp.finfo(widened.dtype).eps * squares
        variance = jnp.maximum(squares - dim * jnp.square(mean), least) / (dim - 1)
        scale = 1 / (jnp.sqrt(variance) + self.epsilon)
        return ((widened - mean) * scale).astype(x.dtype), Affine(gain, bias)


def fold_affine(
    affine: Affine, kernel: Float[Array, 'features dim'], bias: Float[Array, ' features']
) -> tuple[Float[Array, 'features dim'], Float[Array, ' features']]:
    """The weight and bias of the linear map of `affine`'s output, as a map of its input.

    So the gradients of gain and offset follow from the map's own, without a pass over activations.
    """
    return kernel * affine.gain[None], bias + (kernel * affine.offset[None]).sum(1)


def standard_norm(x: Float[Array, '*lead dim'], name: str) -> Float[Array, '*lead dim']:
    """The usual layer norm: unlike `LayerNorm` it has a gradient where `x` is constant."""
    return nn.LayerNorm(name=name)(x.astype(accumulation_dtype(x.dtype))).astype(x.dtype)


class ItemEmbedding(nn.Module):
    """Token and slot embeddings, N(0, scale^2); the padding token (0) is the zero vector for good.

    Inputs of T slots are the rightmost T of `max_len`, so the last slot is the same in all.
    """

    num_items: int
    max_len: int
    dim: int
    dtype: jnp.dtype
    scale: float = 1.0
    with_slots: bool = True

    @nn.compact
    def __call__(self, items: Int[Array, 'rows slots']) -> Float[Array, 'rows slots dim']:
        normal = nn.initializers.normal(self.scale)

        def without_padding(key, shape):
            return normal(key, shape).at[0].set(0)

        tokens = self.param('tokens', without_padding, (self.num_items + 2, self.dim))
        slots = None
        if self.with_slots:
            slots = self.param('slots', normal, (self.max_len, self.dim))
            slots = slots[self.max_len - items.shape[1] :]
        return _embed(tokens, slots, items, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _embed(tokens, slots, items, dtype):
    """tokens[items] + slots, (rows, slots, dim), the padding token being zero for good.

    Gradients are summed in the tables' own dtype.
    """
    # Looked up slots first: the order in which TPUs hold activations.
    slot_first = items.T
    embedded = jnp.where((slot_first > 0)[..., None], tokens[slot_first], 0).astype(dtype)
    if slots is not None:
        embedded += slots.astype(dtype)[:, None]
    return embedded.swapaxes(0, 1)


def _embed_forward(tokens, slots, items, dtype):
    return _embed(tokens, slots, items, dtype), (tokens, slots, items)


def _embed_backward(dtype, residuals, gradients):
    del dtype
    tokens, slots, items = residuals
    gradients = gradients.swapaxes(0, 1).astype(tokens.dtype)
    place = jnp.where(items > 0, items, len(tokens)).T
    toward_tokens = jnp.zeros_like(tokens).at[place].add(gradients, mode='drop')
    toward_slots = None if slots is None else gradients.sum(1)
    return toward_tokens, toward_slots, np.zeros(items.shape, jax.dtypes.float0)


_embed.defvjp(_embed_forward, _embed_backward)


def shift_right(items: Int[Array, 'rows slots']) -> Int[Array, 'rows slots']:
    """What a causal encoder reads at each slot: the item before it."""
    return jnp.pad(items[:, :-1], ((0, 0), (1, 0)))


def causal_mask(items: Int[Array, 'rows slots']) -> Bool[Array, 'rows queries keys']:
    """Which slots each slot attends to: real ones before it, and itself (so that none has none)."""
    slot = jnp.arange(items.shape[1])
    earlier = slot[:, None] > slot[None, :]
    itself = slot[:, None] == slot[None, :]
    return (earlier[None] & (items > 0)[:, None, :]) | itself[None]
