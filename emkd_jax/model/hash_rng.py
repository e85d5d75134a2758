"""Counted randomness: every random number is a hash of where it is used.

Masks, replacement items and dropout are functions of (seed, step, row, slot, network, site), so a
run is the same on any number of devices and after any resume, and an element costs a few integer
operations that fuse into their neighbours. The hash is the two-round multiply-xorshift mixer
"lowbias32" (C. Wellons, "Prospecting for hash functions", 2018).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt32

from emkd_jax.model.precision import accumulation_dtype

Rate = float | Float[Array, '']  # traced where runs with different ones train together

_GOLDEN = 0x9E3779B9  # odd, 2^32 / golden ratio: spreads consecutive counters over all bits


def mix(x: UInt32[Array, '*shape']) -> UInt32[Array, '*shape']:
    """A bijection of the 32-bit integers whose output bits look independent of the input."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def fold(key: UInt32[Array, '...'], *counters) -> UInt32[Array, '...']:
    """Derives keys from keys and integer counters (ints or arrays); all broadcast."""
    for counter in counters:
        counter = jnp.asarray(counter).astype(jnp.uint32) * jnp.uint32(_GOLDEN)
        key, counter = jnp.broadcast_arrays(key, counter)
        key = mix(key + counter + jnp.uint32(1))
    return key


def bits(keys: UInt32[Array, '*lead'], count: int) -> UInt32[Array, '*lead count']:
    """`count` random 32-bit integers for each key."""
    counter = jax.lax.broadcasted_iota(jnp.uint32, (*keys.shape, count), keys.ndim)
    return mix(keys[..., None] + counter * jnp.uint32(_GOLDEN))


def bernoulli(random: UInt32[Array, '*shape'], probability: Rate) -> Bool[Array, '*shape']:
    """True with `probability` (in float32, traced or not) for random 32-bit integers."""
    if isinstance(probability, jax.Array):
        return random < jnp.round(probability.astype(jnp.float32) * 2.0**32).astype(jnp.uint32)
    return random < jnp.uint32(min(round(float(np.float32(probability)) * 2**32), 2**32 - 1))


def dropout(
    x: Shaped[Array, '*lead features'], keys: UInt32[Array, '*lead'] | None, site: int, rate: Rate
) -> Shaped[Array, '*lead features']:
    """Inverted dropout along the last axis.

    Args:
      x: activations.
      keys: a key for each vector of `x`; None switches dropout off.
      site: which dropout of the network this is; sites draw independently.
      rate: probability that an element is dropped, in [0, 1).
    """
    if keys is None or is_static_zero(rate):
        return x
    dropped = bernoulli(bits(fold(keys, site), x.shape[-1]), rate)
    widened = x.astype(
        accumulation_dtype(x.dtype)
    )  # in bfloat16 the factor itself would be 0.1% off
    kept = widened * jnp.asarray(1 / (1 - rate), widened.dtype)
    return jnp.where(dropped, jnp.zeros_like(kept), kept).astype(x.dtype)


def is_static_zero(value: Rate) -> bool:
    """Whether a number is 0 for good, and so what it scales need not be computed."""
    return not isinstance(value, jax.Array) and value == 0
