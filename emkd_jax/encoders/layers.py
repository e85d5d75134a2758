"""Layers the encoders share. Parameters are float32; `dtype` is that of the activations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from emkd_jax.precision import wide


def uniform_fan_in(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for linear weights and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """y = x W^T + b over the last axis.

    W is stored (features, inputs), PyTorch's layout: a block of output features is then
    contiguous, which the streamed loss and the item head live on.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, '*lead inputs']) -> Float[Array, '*lead features']:
        kernel, bias = linear_params(self, '', self.features, x.shape[-1])
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
    y = jax.lax.dot_general(x, kernel.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())))
    return y + jnp.reshape(bias.astype(x.dtype), (1,) * (y.ndim - 1) + (-1,))


class LayerNorm(nn.Module):
    """gain * (x - mean) / (std + epsilon) + bias, with the unbiased standard deviation.

    The released code's form: n - 1 in the variance and epsilon added to the deviation, not to the
    variance. Statistics are float32 whatever the dtype of `x`.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, '*lead dim']) -> Float[Array, '*lead dim']:
        dim = x.shape[-1]
        gain = self.param('gain', nn.initializers.ones, (dim,))
        bias = self.param('bias', nn.initializers.zeros, (dim,))
        widened = x.astype(wide(x.dtype))
        centred = widened - widened.mean(-1, keepdims=True)
        variance = (centred * centred).sum(-1, keepdims=True) / (dim - 1)
        scale = 1 / (jnp.sqrt(variance) + self.epsilon)
        lead = (1,) * (x.ndim - 1) + (-1,)
        return (centred * scale * gain.reshape(lead) + bias.reshape(lead)).astype(x.dtype)


def standard_norm(x: Float[Array, '*lead dim'], name: str) -> Float[Array, '*lead dim']:
    """The usual layer norm: unlike `LayerNorm` it has a gradient where `x` is constant."""
    return nn.LayerNorm(name=name)(x.astype(wide(x.dtype))).astype(x.dtype)


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
        embedded = jnp.where((items > 0)[..., None], tokens[items], 0)
        if self.with_slots:
            slots = self.param('slots', normal, (self.max_len, self.dim))
            embedded += slots[None, self.max_len - items.shape[1] :]
        return embedded.astype(self.dtype)


def shift_right(items: Int[Array, 'rows slots']) -> Int[Array, 'rows slots']:
    """What a causal encoder reads at each slot: the item before it."""
    return jnp.pad(items[:, :-1], ((0, 0), (1, 0)))


def causal_mask(items: Int[Array, 'rows slots']) -> Bool[Array, 'rows queries keys']:
    """Which slots each slot attends to: real ones before it, and itself (so that none has none)."""
    slot = jnp.arange(items.shape[1])
    earlier = slot[:, None] > slot[None, :]
    itself = slot[:, None] == slot[None, :]
    return (earlier[None] & (items > 0)[:, None, :]) | itself[None]
