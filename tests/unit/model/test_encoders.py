"""The encoder: padding never leaks, its layers are what their docstrings say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.encoders.layers import Affine, ItemEmbedding, LayerNorm, Linear
from tests.support import small


@pytest.fixture(scope='module')
def ensemble():
    return small.ensemble()


@pytest.fixture(scope='module')
def params(ensemble):
    return small.params(ensemble)


@pytest.fixture(scope='module')
def apply(ensemble):
    return jax.jit(ensemble.hidden)


def test_padding_does_not_reach_real_slots(apply, params):
    """Dropping padding slots, or changing what stands in them, changes no real slot."""
    items = small.sequences(8).at[:, :3].set(0).at[:, -1].set(5)
    real = np.asarray(items > 0)
    whole = apply(params, items)
    shorter = apply(params, items[:, 3:])
    np.testing.assert_allclose(shorter[:, real[:, 3:]], whole[:, real], rtol=1e-5, atol=1e-5)
    changed = jax.tree.map(lambda x: x, params)
    changed['encoder']['embedding']['slots'] = (
        params['encoder']['embedding']['slots'].at[:, :3].add(1.0)
    )
    moved = apply(changed, items)
    np.testing.assert_allclose(moved[:, real], whole[:, real], rtol=1e-6, atol=1e-6)
    assert not np.allclose(moved[:, :, 0], whole[:, :, 0])


def test_the_padding_token_is_zero_and_gets_no_gradient(ensemble, params):
    tokens = params['encoder']['embedding']['tokens']
    np.testing.assert_array_equal(tokens[:, 0], 0)
    gradient = jax.jit(jax.grad(lambda p: ensemble.hidden(p, small.sequences(4)).sum()))(params)
    np.testing.assert_array_equal(gradient['encoder']['embedding']['tokens'][:, 0], 0)


def test_rows_do_not_touch_each_other(apply, params):
    items = small.sequences(5)
    hidden = apply(params, items)
    changed = apply(params, items.at[2].set(7))
    np.testing.assert_allclose(changed[:, [0, 1, 3, 4]], hidden[:, [0, 1, 3, 4]], rtol=1e-6)


def test_a_sequence_of_padding_is_finite(ensemble, params):
    items = jnp.zeros((1, small.MAX_LEN), jnp.int32)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: ensemble.hidden(p, items).sum()))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_last_hidden_is_the_last_slot(ensemble, apply, params):
    items = small.sequences(6)
    np.testing.assert_allclose(
        jax.jit(ensemble.last_hidden)(params, items),
        apply(params, items)[:, :, -1],
        rtol=1e-5,
        atol=1e-5,
    )


def test_bfloat16_activations_stay_near_float32(apply, params):
    narrow = small.ensemble(model__dtype='bfloat16')
    narrow = jax.jit(narrow.hidden)(params, small.sequences(6))
    wide = apply(params, small.sequences(6))
    assert narrow.dtype == jnp.bfloat16
    error = np.linalg.norm(narrow.astype(np.float32) - wide) / np.linalg.norm(wide)
    assert error < 1e-2


def test_layer_norm_divides_by_the_unbiased_deviation_plus_epsilon():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    params = {'gain': jnp.arange(1.0, 6), 'bias': jnp.arange(5.0)}
    deviation = np.std(x, axis=-1, ddof=1, keepdims=True)
    expected = (x - x.mean(-1, keepdims=True)) / (deviation + 0.5)
    ours, affine = LayerNorm(epsilon=0.5).apply({'params': params}, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(affine.gain, params['gain'])
    np.testing.assert_array_equal(affine.offset, params['bias'])


def test_a_linear_map_absorbs_the_affine_one_before_it():
    rng = np.random.default_rng(0)
    x, gain, offset = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(3, 5), 5, 5])
    linear = Linear(4, jnp.dtype('float32'))
    params = linear.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        linear.apply(params, x, Affine(gain, offset)),
        linear.apply(params, gain[None] * x + offset[None]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_linear_starts_as_pytorchs_does():
    params = Linear(300, jnp.dtype('float32')).init(jax.random.key(0), jnp.ones((1, 64)))['params']
    for leaf in jax.tree.leaves(params):
        bound = 64**-0.5
        assert np.abs(leaf).max() <= bound
        assert np.abs(leaf).max() > 0.95 * bound
        np.testing.assert_allclose(leaf.std(), bound / 3**0.5, rtol=0.15)


def test_embeddings_are_standard_normal_and_shorter_inputs_take_the_last_slots():
    embedding = ItemEmbedding(2000, 50, 16, jnp.dtype('float32'))
    items = jnp.array([[0, 3, 2001]])
    params = embedding.init(jax.random.key(0), items)['params']
    assert params['tokens'].shape == (2002, 16)
    for name in ('tokens', 'slots'):
        np.testing.assert_allclose(params[name][1:].std(), 1, rtol=0.1)
    embedded = embedding.apply({'params': params}, items)[0]
    np.testing.assert_allclose(embedded[0], params['slots'][-3])
    np.testing.assert_allclose(embedded[1], params['tokens'][3] + params['slots'][-2])
    np.testing.assert_allclose(embedded[2], params['tokens'][2001] + params['slots'][-1])
