"""The losses over blocks of the catalogue have the values and gradients of their direct form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.objective.catalogue_loss import catalogue_loss
from emkd_jax.objective.kept_cross_entropy import kept_cross_entropy
from tests.reference.direct_losses import cross_entropy, distillation
from tests.support.golden_cases import relative_error

POSITIONS, DIM, CLASSES = 13, 6, 37


def inputs(networks, dtype):
    rng = np.random.default_rng(networks)
    hidden = jnp.asarray(rng.normal(size=(networks, POSITIONS, DIM)), dtype)
    kernel = jnp.asarray(rng.normal(size=(networks, CLASSES, DIM)) * 2, dtype)
    bias = jnp.asarray(rng.normal(size=(networks, CLASSES)), dtype)
    labels = jnp.asarray(rng.integers(1, CLASSES, POSITIONS), jnp.int32).at[-2:].set(0)
    weights = jnp.asarray(rng.random(POSITIONS), dtype).at[-2:].set(0)
    return (hidden, kernel, bias), labels, weights


def direct(arguments, labels, weights, temperature):
    hidden, kernel, bias = (x.astype(weights.dtype) for x in arguments)
    logits = jnp.einsum('npd,ncd->npc', hidden, kernel) + bias[:, None]
    kd = 0.0 if temperature is None else distillation(logits, weights, temperature)
    return cross_entropy(logits, labels, weights), jnp.asarray(kd, logits.dtype)


def value_and_gradients(form, arguments):
    """Returns both losses, and gradients of a sum that weighs the losses differently."""

    def mixed(*arguments):
        losses = form(*arguments)
        return losses[0] + 0.7 * losses[1], losses

    return jax.jit(jax.grad(mixed, argnums=(0, 1, 2), has_aux=True))(*arguments)[::-1]


@pytest.mark.parametrize('temperature', [0.3, 1.0, None])
@pytest.mark.parametrize('networks', [1, 3])
@pytest.mark.parametrize('block', [8, CLASSES, 64])  # a ragged last block, exactly one, and more
def test_equals_the_direct_form_in_float64(networks, temperature, block):
    with jax.enable_x64(True):
        arguments, labels, weights = inputs(networks, np.float64)

        def streamed(*arguments):
            return catalogue_loss(*arguments, labels, weights, temperature, block)

        def expected(*arguments):
            return direct(arguments, labels, weights, temperature)

        found, direct_form = (value_and_gradients(form, arguments) for form in (streamed, expected))
        errors = jax.tree.map(relative_error, found, direct_form)
        assert max(jax.tree.leaves(errors)) < 1e-12, errors


def test_large_logits_do_not_overflow():
    """The maxima rise from block to block, and one network is far surer than the other."""
    arguments, labels, weights = inputs(2, np.float32)
    hidden, kernel, bias = arguments
    bias = bias + jnp.linspace(0, 300, CLASSES)[None]
    losses = catalogue_loss(hidden, kernel, bias, labels, weights, 0.3, 8)
    expected = direct((hidden, kernel, bias), labels, weights, 0.3)
    for found, direct_form in zip(losses, expected, strict=True):
        assert relative_error(found, direct_form) < 1e-5


def test_bfloat16_hidden_states_lose_no_more_than_their_rounding():
    """The direct form gets the same rounded inputs. Sums and logits stay float32."""
    (hidden, kernel, bias), labels, weights = inputs(3, np.float32)
    narrow = hidden.astype(jnp.bfloat16)
    rounded = narrow.astype(np.float32), kernel.astype(jnp.bfloat16).astype(np.float32), bias
    losses, gradients = value_and_gradients(
        lambda *arguments: catalogue_loss(*arguments, labels, weights, 0.3, 8),
        (narrow, kernel, bias),
    )
    expected, expected_gradients = value_and_gradients(
        lambda *arguments: direct(arguments, labels, weights, 0.3), rounded
    )
    assert max(map(relative_error, losses, expected)) < 1e-5
    assert [g.dtype for g in gradients] == [jnp.bfloat16, np.float32, np.float32]
    for found, direct_form in zip(gradients, expected_gradients, strict=True):
        assert relative_error(found.astype(np.float32), direct_form) < 1e-2


def test_places_without_weight_get_no_gradient():
    arguments, labels, weights = inputs(3, np.float32)
    _, (hidden_gradient, _, _) = value_and_gradients(
        lambda *arguments: catalogue_loss(*arguments, labels, weights, 0.5, 8), arguments
    )
    np.testing.assert_array_equal(hidden_gradient[:, -2:], 0)
    assert hidden_gradient[:, :-2].all()


def kept(labels, weights):
    """The form that keeps its exponentials, with a distillation of 0 beside it."""
    return lambda *arguments: (kept_cross_entropy(*arguments, labels, weights), jnp.zeros(()))


@pytest.mark.parametrize('networks', [1, 3])
def test_kept_exponentials_give_the_direct_form_in_float64(networks):
    with jax.enable_x64(True):
        arguments, labels, weights = inputs(networks, np.float64)
        arguments = (*arguments[:2], arguments[2] + jnp.linspace(0, 300, CLASSES)[None])
        found = value_and_gradients(kept(labels, weights), arguments)
        expected = value_and_gradients(
            lambda *arguments: direct(arguments, labels, weights, None), arguments
        )
        errors = jax.tree.map(relative_error, found, expected)
        assert max(jax.tree.leaves(errors)) < 1e-12, errors
        assert not np.asarray(found[1][0])[:, -2:].any()  # positions without weight


def test_the_gradients_of_kept_exponentials_follow_what_the_loss_is_multiplied_by():
    arguments, labels, weights = inputs(2, np.float32)
    gradients = jax.grad(lambda *a: kept(labels, weights)(*a)[0], (0, 1, 2))
    tripled = jax.grad(lambda *a: 3 * kept(labels, weights)(*a)[0], (0, 1, 2))
    for once, thrice in zip(gradients(*arguments), tripled(*arguments), strict=True):
        np.testing.assert_allclose(3 * once, thrice, rtol=1e-5)


def test_the_exponentials_of_one_network_are_kept_at_a_time():
    """Seven networks would need seven arrays of 2 MB if they were computed beside each other."""
    networks, positions, classes = 7, 128, 4096
    labels, weights = jnp.zeros(positions, jnp.int32), jnp.ones(positions)
    arguments = (
        jnp.ones((networks, positions, DIM)),
        jnp.ones((networks, classes, DIM)),
        jnp.zeros((networks, classes)),
    )
    step = jax.jit(jax.value_and_grad(lambda *a: kept(labels, weights)(*a)[0], (0, 1, 2)))
    temporary = step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 3 * positions * classes * 4


def test_kept_exponentials_in_bfloat16_lose_no_more_than_their_rounding():
    (hidden, kernel, bias), labels, weights = inputs(3, np.float32)
    narrow = hidden.astype(jnp.bfloat16)
    rounded = narrow.astype(np.float32), kernel.astype(jnp.bfloat16).astype(np.float32), bias
    losses, gradients = value_and_gradients(kept(labels, weights), (narrow, kernel, bias))
    expected, expected_gradients = value_and_gradients(
        lambda *arguments: direct(arguments, labels, weights, None), rounded
    )
    assert relative_error(losses[0], expected[0]) < 1e-5
    assert [g.dtype for g in gradients] == [jnp.bfloat16, np.float32, np.float32]
    for found, direct_form in zip(gradients, expected_gradients, strict=True):
        assert relative_error(found.astype(np.float32), direct_form) < 1e-2
