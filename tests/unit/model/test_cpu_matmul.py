"""Activations times weights in bfloat16, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.encoders.cpu_matmul import matmul

# As in linear maps, with heads cut apart and with heads joined.
each_form = pytest.mark.parametrize(
    ('spec', 'of_x', 'of_kernel', 'of_bias'),
    [
        ('abi,fi->abf', (5, 4, 32), (24, 32), (24,)),
        ('ai,fi->af', (20, 32), (24, 32), (24,)),
        ('rsi,hwi->rshw', (5, 4, 32), (2, 12, 32), (2, 12)),
        ('rshw,fhw->rsf', (5, 4, 2, 16), (24, 2, 16), (24,)),
    ],
)
NETWORKS = 3


def operands(*shapes):
    """Normal numbers that bfloat16 holds exactly, the first ones, activations, in it."""
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.normal(size=(NETWORKS, *s)), jnp.bfloat16) for s in shapes]
    return drawn[0], *(x.astype(jnp.float32) for x in drawn[1:])


def both_ways(spec, x, kernel, bias, toward):
    """Values and gradients of the networks' products."""

    def value(x, kernel, bias):
        return jax.vmap(lambda *of_network: matmul(spec, *of_network))(x, kernel, bias)

    y, pull = jax.vjp(value, x, kernel, bias)
    return y, *pull(toward.astype(y.dtype))


@each_form
def test_only_results_are_rounded(spec, of_x, of_kernel, of_bias):
    """Sums are as in float32; gradients of weights are never less."""
    x, kernel, bias = operands(of_x, of_kernel, of_bias)
    shape = jax.eval_shape(lambda *of: matmul(spec, *of), x[0], kernel[0], bias[0]).shape
    toward, _ = operands(shape, (1,))
    narrow = jax.jit(both_ways, static_argnums=0)(spec, x, kernel, bias, toward)
    wide = both_ways(spec, x.astype(jnp.float32), kernel, bias, toward)
    assert [of.dtype for of in narrow] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    for of, reference in zip(narrow[:2], wide[:2], strict=True):
        rounded = reference.astype(jnp.bfloat16)
        assert (of == rounded).mean() > 0.99  # sums in another order may round to a neighbour
        np.testing.assert_allclose(
            of.astype(jnp.float32), rounded.astype(jnp.float32), rtol=2**-7, atol=1e-5
        )
    for of, reference in zip(narrow[2:], wide[2:], strict=True):
        np.testing.assert_allclose(of, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('platform', 'result'), [('cpu', 'f32'), ('tpu', 'bf16'), ('cuda', 'bf16')]
)
def test_results_are_wide_where_that_is_fast(platform, result):
    x, kernel, bias = operands((5, 4, 32), (24, 32), (24,))

    def of(x, kernel, bias):
        return both_ways('abi,fi->abf', x, kernel, bias, jnp.ones((NETWORKS, 5, 4, 24)))

    lowered = jax.jit(of).trace(x, kernel, bias).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in lowered.splitlines() if 'dot_general' in line]
    assert len(products) == (4 if platform == 'cpu' else 3)
    assert all(line.rstrip().endswith(f'x{result}>') for line in products)
