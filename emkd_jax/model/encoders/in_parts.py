"""A block of layers that is applied to a few rows at a time, for chips with a large fast memory.

What it computes between its input and its output is then small enough for that memory, and never
moves to the main memory. The backward pass computes it again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

# Kinds of devices, as JAX calls them, for which XLA keeps such arrays in fast memory. For TPU v5p
# it does not: the bytes to and from main memory stay the same there.
WITH_FAST_MEMORY = ('TPU v5 lite', 'TPU v6 lite')
_FAST = 10e6  # bytes that the widest array of one network may have within a part


def rows_per_part(rows: int, bytes_per_row: int) -> int:
    """The most rows, among the divisors of `rows`, that are small enough; at least one."""
    most = max(_FAST // bytes_per_row, 1)
    return next(count for count in range(rows, 0, -1) if rows % count == 0 and count <= most)


def map_in_parts(
    function: Callable[[Any, Any, Any], Any],
    x: Float[Array, 'rows slots dim'],
    fixed: Any,
    params: Any,
    rows: int,
) -> Float[Array, 'rows slots dim']:
    """Returns function(x, fixed, params), which maps every row by itself.

    Args:
      function: it must use no other traced arrays. Its result has the shape and type of `x`.
      x: the input.
      fixed: arrays with as many rows that have no gradient, such as hash keys.
      params: arrays, whose gradients are summed over the parts in their own type.
      rows: how many are mapped at a time; it divides the rows of `x`.
    """

    def part(arrays, number):
        return jax.tree.map(lambda array: _part(array, number * rows, rows), arrays)

    def put(array, new, number):
        return _put(array, new, number * rows)

    # A loop whose steps write into one array: stacked outputs would be stored in another order.
    def each_part(step, start):
        return jax.lax.fori_loop(0, x.shape[0] // rows, step, start)

    @jax.custom_vjp
    def mapped(x, fixed, params):
        def step(number, result):
            return put(result, function(part(x, number), part(fixed, number), params), number)

        return each_part(step, jnp.zeros_like(x))

    def forward(x, fixed, params):
        return mapped(x, fixed, params), (x, fixed, params)

    def backward(kept, grad):
        x, fixed, params = kept

        def step(number, sums):
            x_grad, params_grad = sums
            some = part(fixed, number)
            # The barrier brings both into fast memory once, for all the products that read them.
            some_x, some_grad = jax.lax.optimization_barrier(part((x, grad), number))
            _, back = jax.vjp(lambda x, params: function(x, some, params), some_x, params)
            new_x, new_params = back(some_grad)
            return put(x_grad, new_x, number), jax.tree.map(jnp.add, params_grad, new_params)

        x_grad, params_grad = each_part(step, jax.tree.map(jnp.zeros_like, (x, params)))
        none = jax.tree.map(lambda array: np.zeros(array.shape, jax.dtypes.float0), fixed)
        return x_grad, none, params_grad

    mapped.defvjp(forward, backward)
    return mapped(x, fixed, params)


def _part(array, start, rows, axis=0):
    """Takes rows. Under `vmap` it stays one slice; that of JAX becomes a gather."""

    @custom_vmap
    def part(array, start):
        return jax.lax.dynamic_slice_in_dim(array, start, rows, axis)

    @part.def_vmap
    def of_several(size, batched, array, start):
        del size
        assert batched == [True, False]
        return _part(array, start, rows, axis + 1), True

    return part(array, start)


def _put(array, new, start, axis=0):
    """Replaces rows. Under `vmap` it stays one update; that of JAX becomes a scatter."""

    @custom_vmap
    def put(array, new, start):
        return jax.lax.dynamic_update_slice_in_dim(array, new, start, axis)

    @put.def_vmap
    def of_several(size, batched, array, new, start):
        assert batched[1:] == [True, False]
        if not batched[0]:
            array = jnp.broadcast_to(array[None], (size, *array.shape))
        return _put(array, new, start, axis + 1), True

    return put(array, new, start)
