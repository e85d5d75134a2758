"""Products of activations and weights, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.encoders.cpu_matmul import matmul

# Linear maps, and those that split and join heads.
each_form = pytest.mark.parametrize(
    ('spec', 'x_shape', 'kernel_shape', 'bias_shape'),
    [
        ('abi,fi->abf', (5, 4, 32), (24, 32), (24,)),
        ('ai,fi->af', (20, 32), (24, 32), (24,)),
        ('rsi,hwi->rshw', (5, 4, 32), (2, 12, 32), (2, 12)),
        ('rshw,fhw->rsf', (5, 4, 2, 16), (24, 2, 16), (24,)),
    ],
)
NETWORKS = 3


def operands(*shapes):
    """Random numbers that bfloat16 holds exactly. The first array, the activations, is bfloat16."""
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.normal(size=(NETWORKS, *s)), jnp.bfloat16) for s in shapes]
    return drawn[0], *(x.astype(jnp.float32) for x in drawn[1:])


def value_and_gradients(spec, x, kernel, bias, y_grad):
    """(y, gradients of x, kernel and bias), for several networks at once."""

    def value(x, kernel, bias):
        return jax.vmap(lambda *network: matmul(spec, *network))(x, kernel, bias)

    y, pull = jax.vjp(value, x, kernel, bias)
    return y, *pull(y_grad.astype(y.dtype))


@each_form
def test_only_results_are_rounded(spec, x_shape, kernel_shape, bias_shape):
    """Sums are those of float32, and gradients of weights are float32."""
    x, kernel, bias = operands(x_shape, kernel_shape, bias_shape)
    y_shape = jax.eval_shape(lambda *arrays: matmul(spec, *arrays), x[0], kernel[0], bias[0]).shape
    y_grad, _ = operands(y_shape, (1,))
    narrow = jax.jit(value_and_gradients, static_argnums=0)(spec, x, kernel, bias, y_grad)
    wide = value_and_gradients(spec, x.astype(jnp.float32), kernel, bias, y_grad)
    assert [a.dtype for a in narrow] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    for found, reference in zip(narrow[:2], wide[:2], strict=True):
        rounded = reference.astype(jnp.bfloat16)
        assert (found == rounded).mean() > 0.99  # another order of the sum may round differently
        np.testing.assert_allclose(
            found.astype(jnp.float32), rounded.astype(jnp.float32), rtol=2**-7, atol=1e-5
        )
    for found, reference in zip(narrow[2:], wide[2:], strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('platform', 'result'), [('cpu', 'f32'), ('tpu', 'bf16'), ('cuda', 'bf16')]
)
def test_results_are_wide_where_that_is_fast(platform, result):
    x, kernel, bias = operands((5, 4, 32), (24, 32), (24,))

    def compute(x, kernel, bias):
        y_grad = jnp.ones((NETWORKS, 5, 4, 24))
        return value_and_gradients('abi,fi->abf', x, kernel, bias, y_grad)

    lowered = jax.jit(compute).trace(x, kernel, bias).lower(lowering_platforms=(platform,))
    products = [line for line in lowered.as_text().splitlines() if 'dot_general' in line]
    assert len(products) == (4 if platform == 'cpu' else 3)
    assert all(line.rstrip().endswith(f'x{result}>') for line in products)


def float32_gradients(x, kernel, bias):
    """Those of x, kernel and bias, where a computation leads to the gradient of each row."""

    def value(x, kernel, bias):
        return jnp.tanh(matmul('abi,fi->abf', jnp.sin(x), kernel, bias)).sum()

    return jax.grad(value, (0, 1, 2))(x, kernel, bias)


@pytest.mark.parametrize(('features', 'inputs'), [(24, 32), (32, 24), (32, 32)])
class TestFloat32:
    rows = (50, 25)

    def arrays(self, features, inputs):
        rng = np.random.default_rng(0)
        shapes = (*self.rows, inputs), (features, inputs), (features,)
        return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def test_gradients_are_those_of_the_formula(self, features, inputs):
        x, kernel, bias = self.arrays(features, inputs)
        read = np.sin(x, dtype=np.float64)
        y_grad = 1 / np.cosh(np.einsum('abi,fi->abf', read, kernel) + bias) ** 2
        expected = (
            np.einsum('abf,fi->abi', y_grad, kernel) * np.cos(x, dtype=np.float64),
            np.einsum('abf,abi->fi', y_grad, read),
            y_grad.sum((0, 1)),
        )
        for found, reference in zip(float32_gradients(x, kernel, bias), expected, strict=True):
            np.testing.assert_allclose(found, reference, rtol=1e-5, atol=2e-5)

    def test_only_the_narrower_rows_are_transposed(self, features, inputs):
        """XLA computes what leads to a row once more, for every element of a transposed copy."""
        arrays = self.arrays(features, inputs)
        text = jax.jit(float32_gradients).trace(*arrays).lower().as_text()
        [product] = [
            line for line in text.splitlines() if 'contracting_dims = [0, 1] x [0, 1]' in line
        ]
        first, second = (inputs, features) if inputs <= features else (features, inputs)
        assert product.rstrip().endswith(f'-> tensor<{first}x{second}xf32>')

    def test_what_leads_to_narrow_gradients_of_rows_is_not_computed_again(self, features, inputs):
        """A conditional keeps XLA from it, and stays one where networks and runs are vectorised."""
        arrays = self.arrays(features, inputs)
        stacked = [np.stack([np.stack([array] * NETWORKS)] * 2) for array in arrays]
        vectorised = jax.jit(jax.vmap(jax.vmap(float32_gradients)))
        for function, given in ((jax.jit(float32_gradients), arrays), (vectorised, stacked)):
            text = function.lower(*given).compile().as_text()
            assert text.count(' conditional(') == (inputs > features)
        for found, reference in zip(vectorised(*stacked), float32_gradients(*arrays), strict=True):
            np.testing.assert_allclose(found[1, 2], reference, rtol=1e-5, atol=2e-5)

    def test_what_is_not_a_number_has_no_gradient(self, features, inputs):
        x, kernel, bias = self.arrays(features, inputs)
        x[0, 0, 0] = np.nan
        assert np.isnan(float32_gradients(x, kernel, bias)[1]).any()
