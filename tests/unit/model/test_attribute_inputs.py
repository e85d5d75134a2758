"""Embeddings of attributes are added to those of their items, in chunks and all at once alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model import attribute_inputs
from emkd_jax.model.attribute_inputs import AttributePairs

TABLE = np.array([[-1, -1, -1], [1, 2, -1], [-1, -1, -1], [3, -1, -1], [2, 3, 1]], np.int32)
DIM, TOKENS, ATTRIBUTES = 4, 6, 4  # there is a mask token


def direct(tokens, embeddings):
    has = np.zeros((TOKENS, ATTRIBUTES), np.float32)
    for item, row in enumerate(TABLE):
        has[item, row[row >= 0]] = 1
    return tokens + has @ embeddings


@pytest.mark.parametrize('chunk', [1, 4, 6, 100])  # six pairs
def test_sums_and_gradients_are_those_of_a_product(monkeypatch, chunk):
    monkeypatch.setattr(attribute_inputs, '_PAIRS_ON_CPU', chunk)
    rng = np.random.default_rng(0)
    tokens, target = rng.normal(size=(2, TOKENS, DIM)).astype(np.float32)
    embeddings = rng.normal(size=(ATTRIBUTES, DIM)).astype(np.float32)
    for pairs in (AttributePairs(TABLE), AttributePairs(TABLE, on_cpu=False)):

        def loss(form, tokens, embeddings):
            return ((form(tokens, embeddings) - target) ** 2).sum()

        arguments = jnp.asarray(tokens), jnp.asarray(embeddings)
        np.testing.assert_allclose(pairs.add_to(*arguments), direct(*arguments), rtol=1e-6)
        found, expected = (
            jax.jit(jax.grad(lambda *a, f=form: loss(f, *a), argnums=(0, 1)))(*arguments)
            for form in (pairs.add_to, direct)
        )
        for gradient, of_product in zip(found, expected, strict=True):
            np.testing.assert_allclose(gradient, of_product, rtol=1e-5, atol=1e-6)


def test_no_pairs_change_nothing():
    pairs = AttributePairs(np.full((5, 2), -1, np.int32), on_cpu=False)
    tokens = jnp.ones((TOKENS, DIM))
    np.testing.assert_array_equal(pairs.add_to(tokens, jnp.ones((ATTRIBUTES, DIM))), tokens)


def test_pairs_that_are_added_in_another_way_are_another_constant():
    same, other = AttributePairs(TABLE), AttributePairs(TABLE, on_cpu=False)
    assert same == AttributePairs(TABLE)
    assert hash(same) == hash(AttributePairs(TABLE))
    assert same != other
