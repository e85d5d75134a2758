"""Products of activations and weights that are fast on CPUs too.

In float32 on CPUs, the gradient of a weight visits the rows in parts. XLA would otherwise compute
everything between two products once more inside the copy that transposes the rows, element by
element and out of order: the loop keeps the rows as they were computed. In bfloat16 on CPUs, a
product with a float32 result takes half the time of one with a bfloat16 result, and the sum of a
bias gradient over the rows takes a tenth of its time as a product with ones. On other devices, a
float32 result would only be more memory to move.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from emkd_jax.model.blocks import over_blocks
from emkd_jax.model.precision import accumulation_dtype

_ROWS = 1024  # rows of a part; fewer rows in all are one product


def matmul(
    spec: str, x: Float[Array, '...'], kernel: Float[Array, '...'], bias: Float[Array, '...']
) -> Float[Array, '...']:
    """Computes einsum(spec, x, kernel) + bias in the dtype of x.

    Args:
      spec: 'x,kernel->y', where the axes of y that x does not have come last, and first in the
        kernel.
      x: activations.
      kernel, bias: float32, or wider; the bias has the last axes of y, those that x does not have.
    """
    return _matmul(spec, x, kernel, bias)


def _product(spec, result_dtype, x, kernel, bias):
    y = jnp.einsum(spec, x, kernel.astype(x.dtype), preferred_element_type=result_dtype)
    bias = bias.astype(y.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    return (y + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(spec, x, kernel, bias):
    return _on_each_platform(functools.partial(_product, spec), x, kernel, bias)


def _forward(spec, x, kernel, bias):
    return _matmul(spec, x, kernel, bias), (x, kernel, bias)


def _backward(spec, residuals, y_grad):
    x, kernel, bias = residuals
    x_axes, kernel_axes, y_axes = spec.replace('->', ',').split(',')

    def gradients(result_dtype, x, kernel, y_grad):
        product = functools.partial(jnp.einsum, preferred_element_type=result_dtype)
        x_grad = product(f'{y_axes},{kernel_axes}->{x_axes}', y_grad, kernel.astype(x.dtype))
        rows = y_grad.size // bias.size
        if result_dtype is not None and x.dtype != jnp.bfloat16 and rows > _ROWS:
            kernel_grad, bias_grad = _in_parts(x.reshape(rows, -1), y_grad.reshape(rows, -1))
        else:
            kernel_grad = product(f'{x_axes},{y_axes}->{kernel_axes}', x, y_grad)
            bias_grad = _sum_of_rows(result_dtype, x, y_grad, bias.ndim)
        return (
            x_grad.astype(x.dtype),
            kernel_grad.reshape(kernel.shape).astype(kernel.dtype),
            bias_grad.reshape(bias.shape).astype(bias.dtype),
        )

    return _on_each_platform(gradients, x, kernel, y_grad)


def _in_parts(x, y_grad):
    """The gradients of the kernel and the bias, summed over parts of the rows."""

    def visit(first, size, sums):
        x_part, y_part = (jax.lax.dynamic_slice_in_dim(a, first, size) for a in (x, y_grad))
        return sums[0] + y_part.T @ x_part, sums[1] + y_part.sum(0)

    features = y_grad.shape[1]
    zeros = jnp.zeros((features, x.shape[1]), x.dtype), jnp.zeros(features, x.dtype)
    return over_blocks(visit, zeros, len(x), _ROWS)


def _sum_of_rows(result_dtype, x, y_grad, axes):
    """The gradient of a bias with so many axes; in bfloat16 on CPUs as a product with ones."""
    if result_dtype is None or x.dtype != jnp.bfloat16:
        return y_grad.sum(tuple(range(y_grad.ndim - axes)))
    y_grad = y_grad.reshape(-1, math.prod(y_grad.shape[y_grad.ndim - axes :]))
    # The ones are computed from x, so that they get its batch axis under `vmap`: only a product of
    # two batched arrays is fast.
    ones = x.reshape(len(y_grad), -1)[:, :8] * 0 + 1
    return jnp.einsum('rk,rf->kf', ones, y_grad, preferred_element_type=result_dtype)[0]


def _on_each_platform(function, *arrays):
    """Calls `function` with the dtype of its products' results (None: that of the operands)."""
    wide = functools.partial(function, accumulation_dtype(arrays[0].dtype))
    return jax.lax.platform_dependent(*arrays, cpu=wide, default=functools.partial(function, None))


_matmul.defvjp(_forward, _backward)
