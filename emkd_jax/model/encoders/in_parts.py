"""A map of every slot that is applied to a few slots at a time, for TPUs.

What a layer computes between its input and its output is then small enough for the fast memory of
the chip, and never moves to the main memory. The backward pass computes it again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

_FAST = 10e6  # bytes that one network may use between the input and the output of a part


def slots_per_part(rows: int, slots: int, inner_width: int, dtype: np.dtype) -> int:
    """The most slots, among the divisors of `slots`, whose inner activations are small enough."""
    most = _FAST // (rows * inner_width * jnp.dtype(dtype).itemsize)
    return next(
        count for count in range(slots, 0, -1) if slots % count == 0 and count <= max(most, 1)
    )


def map_in_parts(
    function: Callable[[Any, Any, Any], Any],
    x: Float[Array, 'rows slots dim'],
    keys: UInt32[Array, 'rows slots'],
    params: Any,
    slots: int,
) -> Float[Array, 'rows slots dim']:
    """Returns function(x, keys, params), which maps every slot by itself.

    Args:
      function: it must use no other traced arrays. Its result has the shape and type of `x`.
      x: the input.
      keys: hash keys of the slots.
      params: arrays, whose gradients are summed over the parts in their own type.
      slots: how many are mapped at a time; it divides the slots of `x`.
    """

    def part(array, number):
        return jax.lax.dynamic_slice_in_dim(array, number * slots, slots, axis=1)

    def put(array, new, number):
        return jax.lax.dynamic_update_slice_in_dim(array, new, number * slots, axis=1)

    # A loop whose steps write into one array: stacked outputs would be stored in another order.
    def each_part(step, *start):
        return jax.lax.fori_loop(0, x.shape[1] // slots, step, *start)

    @jax.custom_vjp
    def mapped(x, keys, params):
        def step(number, result):
            return put(result, function(part(x, number), part(keys, number), params), number)

        return each_part(step, jnp.zeros_like(x))

    def forward(x, keys, params):
        return mapped(x, keys, params), (x, keys, params)

    def backward(kept, grad):
        x, keys, params = kept

        def step(number, sums):
            x_grad, params_grad = sums
            some_keys = part(keys, number)
            # The barrier brings both into fast memory once, for all the products that read them.
            some_x, some_grad = jax.lax.optimization_barrier((part(x, number), part(grad, number)))
            _, back = jax.vjp(lambda x, params: function(x, some_keys, params), some_x, params)
            new_x, new_params = back(some_grad)
            return put(x_grad, new_x, number), jax.tree.map(jnp.add, params_grad, new_params)

        zeros = jax.tree.map(jnp.zeros_like, (x, params))
        x_grad, params_grad = each_part(step, zeros)
        return x_grad, np.zeros(keys.shape, jax.dtypes.float0), params_grad

    mapped.defvjp(forward, backward)
    return mapped(x, keys, params)
