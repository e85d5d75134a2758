"""Products of activations and weights that are fast on CPUs too.

On CPUs, the product that gives the gradient of a weight needs one of its operands transposed. XLA
computes everything since the product before once more inside the copy that transposes, element by
element. In float32, the narrower operand is transposed, and of two that are equally wide the
activations, because less leads to them: the gradients come through norms, sums and dropout. Where
the gradients are narrower, they are stored before (`_stored`).

In bfloat16 on CPUs, a product with a float32 result takes half the time of one with a bfloat16
result, and the sum of a bias gradient over the rows takes a tenth of its time as a product with
ones. On other devices, a float32 result would only be more memory to move.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from emkd_jax.model.precision import accumulation_dtype


def matmul(
    spec: str, x: Float[Array, '...'], kernel: Float[Array, '...'], bias: Float[Array, '...']
) -> Float[Array, '...']:
    """Computes einsum(spec, x, kernel) + bias in the dtype of x.

    Args:
      spec: 'x,kernel->y', where the axes of y that x does not have come last.
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
        inputs, features = kernel.size // bias.size, bias.size

        def of_weights(x, y_grad):
            kernel_grad = product(f'{x_axes},{y_axes}->{kernel_axes}', x, y_grad)
            return kernel_grad, y_grad.sum(tuple(range(y_grad.ndim - bias.ndim)))

        if result_dtype is None:
            kernel_grad, bias_grad = of_weights(x, y_grad)
        elif result_dtype == x.dtype and inputs > features:
            kernel_grad, bias_grad = _stored(of_weights, x, y_grad)
        elif result_dtype == x.dtype:
            # XLA transposes the operand whose axes come first in the result.
            inputs_first = ''.join(sorted(kernel_axes, key=y_axes.__contains__))
            kernel_grad = product(f'{x_axes},{y_axes}->{inputs_first}', x, y_grad)
            kernel_grad = jnp.einsum(f'{inputs_first}->{kernel_axes}', kernel_grad)
            bias_grad = y_grad.sum(tuple(range(y_grad.ndim - bias.ndim)))
        else:
            kernel_grad = product(f'{x_axes},{y_axes}->{kernel_axes}', x, y_grad)
            # The ones are computed from x, so that they get its batch axis under `vmap`: only a
            # product of two batched arrays is fast.
            y_grad = y_grad.reshape(-1, bias.size)
            ones = x.reshape(len(y_grad), -1)[:, :8] * 0 + 1
            bias_grad = product('rk,rf->kf', ones, y_grad)[0].reshape(bias.shape)
        return (
            x_grad.astype(x.dtype),
            kernel_grad.astype(kernel.dtype),
            bias_grad.astype(bias.dtype),
        )

    return _on_each_platform(gradients, x, kernel, y_grad)


def _stored(function, x, y_grad):
    """Returns the arrays function(x, y_grad), for which XLA must store x and y_grad as they are.

    XLA does not compute what leads to the operands of a conditional again inside of its branches.
    The condition holds for every number, which XLA does not know, and must be the same for all
    networks that are vectorised, since a batched conditional computes both branches.
    """

    @custom_vmap
    def stored(x, y_grad):
        first = x.reshape(-1)[0]
        shapes = jax.eval_shape(function, x, y_grad)

        def not_a_number(*_):
            return jax.tree.map(lambda s: jnp.full(s.shape, first, s.dtype), shapes)

        return jax.lax.cond(first == first, function, not_a_number, x, y_grad)

    @stored.def_vmap
    def of_several(size, batched, *arrays):
        x, y_grad = (
            array if has_axis else jnp.broadcast_to(array[None], (size, *array.shape))
            for array, has_axis in zip(arrays, batched, strict=True)
        )
        found = _stored(jax.vmap(function), x, y_grad)
        return found, jax.tree.map(lambda _: True, found)

    return stored(x, y_grad)


def _on_each_platform(function, *arrays):
    """Calls `function` with the dtype of its products' results (None: that of the operands)."""
    wide = functools.partial(function, accumulation_dtype(arrays[0].dtype))
    return jax.lax.platform_dependent(*arrays, cpu=wide, default=functools.partial(function, None))


_matmul.defvjp(_forward, _backward)
