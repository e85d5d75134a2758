"""Blocks that map a few rows at a time, as TPUs have them: the same as all rows at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders import in_parts
from emkd_jax.model.encoders.in_parts import map_in_parts, rows_per_part
from emkd_jax.model.ensemble import make_ensemble
from tests.support.golden_cases import relative_error
from tests.support.tiny import tiny_config


def test_a_part_is_the_largest_that_is_small_enough():
    assert rows_per_part(2304, 20 * 1024 * 2) == 192
    assert rows_per_part(2303, 20 * 1024 * 2) == 49
    assert rows_per_part(7, 20_000_000) == 1  # too much, but the least there is
    assert rows_per_part(16, 100) == 16


@pytest.mark.parametrize('rows', [1, 2, 6])
def test_values_and_gradients_are_those_of_all_rows(rows):
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 3, 5))
    keys = hash_rng.fold(jnp.uint32(1), jnp.arange(18).reshape(6, 3))
    params = random.normal(size=(5, 5)), np.float64(0.3)

    def function(x, keys, params):
        return hash_rng.dropout(jnp.tanh(x @ params[0]), keys, 0, params[1])

    def total(x, params, in_parts):
        run = functools.partial(map_in_parts, function, rows=rows) if in_parts else function
        return (run(x, keys, params) ** 2).sum()

    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, (x, params))
        whole, parted = (jax.value_and_grad(total, (0, 1))(*arrays, how) for how in (False, True))
        errors = jax.tree.map(relative_error, parted, whole)
    assert max(jax.tree.leaves(errors)) < 1e-12, errors


def test_several_networks_stay_slices():
    """Also two axes of networks and of runs."""
    x, keys = jnp.ones((2, 3, 6, 4, 5)), jnp.zeros((2, 3, 6, 4), jnp.uint32)
    params = jnp.ones((2, 3, 5, 5))

    def total(x, keys, params):
        return map_in_parts(lambda x, _, p: x @ p, x, keys, params, 2).sum()

    of_all = jax.vmap(jax.vmap(jax.value_and_grad(total, 2)))
    program = jax.jit(of_all).lower(x, keys, params).as_text()
    assert 'dynamic_slice' in program and 'dynamic_update_slice' in program
    assert 'gather' not in program and 'scatter' not in program
    values, grads = of_all(x, keys, params)
    np.testing.assert_allclose(values, np.full((2, 3), 5 * 6 * 4 * 5.0), rtol=1e-6)
    np.testing.assert_allclose(grads, np.full((2, 3, 5, 5), 24.0), rtol=1e-6)


@pytest.mark.parametrize('rate', [0.2, jnp.float32(0.2)], ids=['fixed', 'traced'])
def test_an_encoder_on_a_tpu_is_the_same(monkeypatch, rate):
    monkeypatch.setattr(in_parts, '_FAST', 1e3)  # parts of one row
    found = []
    for kind in ('cpu', 'TPU v5 lite'):
        config = tiny_config(model__encoder='bert4rec', model__dtype='float32')
        ensemble = make_ensemble(config, 30, 6, 'cpu', device_kind=kind)
        encoder = ensemble.network.encoder.clone(dropout=rate)
        assert encoder.fast_memory == (kind != 'cpu')
        items = jnp.asarray(np.random.default_rng(0).integers(0, 30, (5, 8)))
        keys = hash_rng.fold(jnp.uint32(1), jnp.arange(40).reshape(5, 8))
        params = encoder.init(jax.random.key(0), items)

        def total(params, encoder=encoder, items=items, keys=keys):
            return (encoder.apply(params, items, keys) ** 2).sum()

        assert ('while' in jax.jit(total).lower(params).as_text()) == encoder.fast_memory
        found.append(jax.jit(jax.value_and_grad(total))(params))
    errors = jax.tree.map(relative_error, *found)
    assert max(jax.tree.leaves(errors)) < 1e-5, errors
