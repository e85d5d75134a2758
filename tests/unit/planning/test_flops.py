"""FLOPs of products, in loops, branches, gradients and on several devices."""

import jax
import jax.numpy as jnp
import pytest

from emkd_jax.planning.flops import product_flops

SIZE = 8
ONE = 2.0 * SIZE**3  # of a product of two such matrices
MATRIX = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)


def powers(x, count):
    return jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)


@pytest.mark.parametrize(
    ('function', 'products'),
    [
        (lambda x: x @ x, 1),
        (lambda x: jnp.sin(x) + x.sum(), 0),
        (lambda x: powers(x, 7), 7),
        (jax.grad(lambda x: (x @ x).sum()), 3),
        (jax.grad(lambda x: jax.checkpoint(lambda y: jnp.sin(y @ y))(x).sum()), 4),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: powers(y, 2), lambda y: y @ y, x), 2),
        # Nobody knows how often such a loop runs.
        (lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x), 1),
        (jax.vmap(lambda x: x @ x[:, None], in_axes=0), 1 / SIZE),
    ],
)
def test_products_are_counted(function, products):
    assert product_flops(function, MATRIX) == products * ONE


def test_one_device_of_several_counts():
    both = jax.ShapeDtypeStruct((2, SIZE, SIZE), jnp.float32)
    step = jax.pmap(lambda x: x @ x, devices=jax.devices()[:2])
    assert product_flops(step, both) == ONE
