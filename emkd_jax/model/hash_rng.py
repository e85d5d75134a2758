"""Counter-based random numbers: each one is a hash of the place where it is used.

Masks, replacement items and dropout are functions of (seed, step, row, slot, network, site). A run
is therefore the same on any number of devices and after any resume. A random number costs a few
integer operations, which XLA fuses with the operations around them. The hash is the multiply-
xorshift mixer "lowbias32" of two rounds (C. Wellons, "Prospecting for hash functions", 2018).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt32

from emkd_jax.model.precision import accumulation_dtype

Rate = float | Float[Array, '']  # an array where runs with different rates train together

_GOLDEN = 0x9E3779B9  # odd, 2^32 / golden ratio: spreads consecutive counters over all bits


def mix(x: UInt32[Array, '*shape']) -> UInt32[Array, '*shape']:
    """Maps 32-bit integers one to one, so that the result looks independent of the input."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def fold(key: UInt32[Array, '...'], *counters) -> UInt32[Array, '...']:
    """Derives new keys from keys and integer counters, which broadcast against each other."""
    for counter in counters:
        counter = jnp.asarray(counter).astype(jnp.uint32) * jnp.uint32(_GOLDEN)
        key, counter = jnp.broadcast_arrays(key, counter)
        key = mix(key + counter + jnp.uint32(1))
    return key


def bits(keys: UInt32[Array, '*lead'], count: int) -> UInt32[Array, '*lead count']:
    """Draws `count` random 32-bit integers for each key."""
    counter = jax.lax.broadcasted_iota(jnp.uint32, (*keys.shape, count), keys.ndim)
    return mix(keys[..., None] + counter * jnp.uint32(_GOLDEN))


def bernoulli(random: UInt32[Array, '*shape'], probability: Rate) -> Bool[Array, '*shape']:
    """Turns random 32-bit integers into booleans that are true with `probability`, in float32."""
    if isinstance(probability, jax.Array):
        return random < jnp.round(probability.astype(jnp.float32) * 2.0**32).astype(jnp.uint32)
    return random < jnp.uint32(min(round(float(np.float32(probability)) * 2**32), 2**32 - 1))


def dropout(
    x: Shaped[Array, '*lead features'], keys: UInt32[Array, '*lead'] | None, site: int, rate: Rate
) -> Shaped[Array, '*lead features']:
    """Drops elements of `x` and divides the others by 1 - rate, so that the mean stays.

    Args:
      x: activations.
      keys: a key for each vector along the last axis; None switches dropout off.
      site: tells apart the dropouts that use the same keys; they draw independently.
      rate: probability that an element is dropped, in [0, 1).
    """
    if keys is None or is_static_zero(rate):
        return x
    dropped = bernoulli(bits(fold(keys, site), x.shape[-1]), rate)
    widened = x.astype(accumulation_dtype(x.dtype))  # bfloat16 would round the factor
    kept = widened * jnp.asarray(1 / (1 - rate), widened.dtype)
    return jnp.where(dropped, jnp.zeros_like(kept), kept).astype(x.dtype)


def is_static_zero(value: Rate) -> bool:
    """Whether a number is 0 at compile time, so that nothing scaled by it need be computed."""
    return not isinstance(value, jax.Array) and value == 0
