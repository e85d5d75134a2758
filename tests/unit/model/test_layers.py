"""The layers are what their docstrings say."""

import jax
import jax.numpy as jnp
import numpy as np

from emkd_jax.model.encoders.layers import ItemEmbedding, LayerNorm, Linear, Normed
from tests.support import small

FLOAT32 = jnp.dtype('float32')


def test_the_padding_token_is_zero_and_gets_no_gradient():
    ensemble = small.ensemble()
    params = small.params(ensemble)
    tokens = params['encoder']['embedding']['tokens']
    np.testing.assert_array_equal(tokens[:, 0], 0)
    gradient = jax.jit(jax.grad(lambda p: ensemble.hidden(p, small.sequences(4)).sum()))(params)
    np.testing.assert_array_equal(gradient['encoder']['embedding']['tokens'][:, 0], 0)


def test_layer_norm_divides_by_the_unbiased_deviation_plus_epsilon():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    params = {'gain': jnp.arange(1.0, 6), 'bias': jnp.arange(5.0)}
    deviation = np.std(x, axis=-1, ddof=1, keepdims=True)
    expected = (x - x.mean(-1, keepdims=True)) / (deviation + 0.5)
    normed = LayerNorm(epsilon=0.5).apply({'params': params}, x)
    np.testing.assert_allclose(normed.values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(normed.gain, params['gain'])
    np.testing.assert_array_equal(normed.offset, params['bias'])


def test_a_linear_map_applies_the_gain_and_offset_of_the_norm_before_it():
    rng = np.random.default_rng(0)
    x, gain, offset = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(3, 5), 5, 5])
    linear = Linear(4, FLOAT32)
    params = linear.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        linear.apply(params, Normed(x, gain, offset)),
        linear.apply(params, gain[None] * x + offset[None]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_linear_starts_as_in_pytorch():
    params = Linear(300, FLOAT32).init(jax.random.key(0), jnp.ones((1, 64)))['params']
    for leaf in jax.tree.leaves(params):
        bound = 64**-0.5
        assert np.abs(leaf).max() <= bound
        assert np.abs(leaf).max() > 0.95 * bound
        np.testing.assert_allclose(leaf.std(), bound / 3**0.5, rtol=0.15)


def test_embeddings_are_standard_normal_and_shorter_inputs_take_the_last_slots():
    embedding = ItemEmbedding(2002, 50, 16, FLOAT32)
    items = jnp.array([[0, 3, 2001]])
    params = embedding.init(jax.random.key(0), items)['params']
    assert params['tokens'].shape == (2002, 16)
    for name in ('tokens', 'slots'):
        np.testing.assert_allclose(params[name][1:].std(), 1, rtol=0.1)
    embedded = embedding.apply({'params': params}, items)[0]
    np.testing.assert_allclose(embedded[0], params['slots'][-3])
    np.testing.assert_allclose(embedded[1], params['tokens'][3] + params['slots'][-2])
    np.testing.assert_allclose(embedded[2], params['tokens'][2001] + params['slots'][-1])
