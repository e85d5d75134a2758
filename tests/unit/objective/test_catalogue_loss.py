"""The losses over blocks of the catalogue have the values and gradients of their direct form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.objective.catalogue_loss import catalogue_loss
from emkd_jax.objective.kept_cross_entropy import kept_cross_entropy
from emkd_jax.objective.targets import Targets
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
    return hidden, ItemHeads(kernel, bias), Targets(labels, weights)


def direct(temperature):
    """The form that stores the logits."""

    def losses(hidden, heads, targets):
        hidden, kernel, bias = (x.astype(targets.weights.dtype) for x in (hidden, *heads))
        logits = jnp.einsum('npd,ncd->npc', hidden, kernel) + bias[:, None]
        kd = 0.0 if temperature is None else distillation(logits, targets.weights, temperature)
        return cross_entropy(logits, *targets), jnp.asarray(kd, logits.dtype)

    return losses


def streamed(temperature, block=8):
    """The form that visits blocks of the catalogue."""
    return lambda *arguments: catalogue_loss(*arguments, temperature, block)


def kept(*arguments):
    """The form that keeps its exponentials, with a distillation of 0 beside it."""
    return kept_cross_entropy(*arguments), jnp.zeros(())


def value_and_gradients(form, arguments):
    """Returns both losses, and gradients of a sum that weighs the losses differently."""

    def mixed(*arguments):
        losses = form(*arguments)
        return losses[0] + 0.7 * losses[1], losses

    return jax.jit(jax.grad(mixed, argnums=(0, 1), has_aux=True))(*arguments)[::-1]


def rounded_to_bfloat16(arguments):
    """Arguments with hidden states in bfloat16, and the same rounded values in float32."""
    hidden, (kernel, bias), targets = arguments
    narrow = hidden.astype(jnp.bfloat16)
    kernel_values = kernel.astype(jnp.bfloat16).astype(np.float32)
    values = narrow.astype(np.float32), ItemHeads(kernel_values, bias), targets
    return (narrow, ItemHeads(kernel, bias), targets), values


@pytest.mark.parametrize('temperature', [0.3, 1.0, None])
@pytest.mark.parametrize('networks', [1, 3])
@pytest.mark.parametrize('block', [8, CLASSES, 64])  # a ragged last block, exactly one, and more
def test_equals_the_direct_form_in_float64(networks, temperature, block):
    with jax.enable_x64(True):
        arguments = inputs(networks, np.float64)
        found = value_and_gradients(streamed(temperature, block), arguments)
        expected = value_and_gradients(direct(temperature), arguments)
        errors = jax.tree.map(relative_error, found, expected)
        assert max(jax.tree.leaves(errors)) < 1e-12, errors


def test_large_logits_do_not_overflow():
    """The maxima rise from block to block, and one network is far surer than the other."""
    hidden, (kernel, bias), targets = inputs(2, np.float32)
    arguments = hidden, ItemHeads(kernel, bias + jnp.linspace(0, 300, CLASSES)[None]), targets
    for found, expected in zip(streamed(0.3)(*arguments), direct(0.3)(*arguments), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize('form, temperature', [(streamed(0.3), 0.3), (kept, None)])
def test_bfloat16_hidden_states_lose_no_more_than_their_rounding(form, temperature):
    """The direct form gets the same rounded inputs. Sums and logits stay float32."""
    narrow, values = rounded_to_bfloat16(inputs(3, np.float32))
    losses, gradients = value_and_gradients(form, narrow)
    expected, expected_gradients = value_and_gradients(direct(temperature), values)
    assert max(map(relative_error, losses, expected)) < 1e-5
    found = jax.tree.leaves(gradients)
    assert [g.dtype for g in found] == [jnp.bfloat16, np.float32, np.float32]
    for gradient, of_direct in zip(found, jax.tree.leaves(expected_gradients), strict=True):
        assert relative_error(gradient.astype(np.float32), of_direct) < 1e-2


def test_places_without_weight_get_no_gradient():
    _, (hidden_gradient, _) = value_and_gradients(streamed(0.5), inputs(3, np.float32))
    np.testing.assert_array_equal(hidden_gradient[:, -2:], 0)
    assert hidden_gradient[:, :-2].all()


@pytest.mark.parametrize('networks', [1, 3])
def test_kept_exponentials_give_the_direct_form_in_float64(networks):
    with jax.enable_x64(True):
        hidden, (kernel, bias), targets = inputs(networks, np.float64)
        arguments = hidden, ItemHeads(kernel, bias + jnp.linspace(0, 300, CLASSES)[None]), targets
        found = value_and_gradients(kept, arguments)
        errors = jax.tree.map(relative_error, found, value_and_gradients(direct(None), arguments))
        assert max(jax.tree.leaves(errors)) < 1e-12, errors
        assert not np.asarray(found[1][0])[:, -2:].any()  # positions without weight


def test_the_gradients_of_kept_exponentials_follow_what_the_loss_is_multiplied_by():
    arguments = inputs(2, np.float32)
    gradients = jax.grad(kept_cross_entropy, (0, 1))(*arguments)
    tripled = jax.grad(lambda *a: 3 * kept_cross_entropy(*a), (0, 1))(*arguments)
    jax.tree.map(
        lambda once, thrice: np.testing.assert_allclose(3 * once, thrice, rtol=1e-5),
        gradients,
        tripled,
    )


def test_the_exponentials_of_one_network_are_kept_at_a_time():
    """Seven networks would need seven arrays of 2 MB if they were computed beside each other."""
    networks, positions, classes = 7, 128, 4096
    arguments = (
        jnp.ones((networks, positions, DIM)),
        ItemHeads(jnp.ones((networks, classes, DIM)), jnp.zeros((networks, classes))),
        Targets(jnp.zeros(positions, jnp.int32), jnp.ones(positions)),
    )
    step = jax.jit(jax.value_and_grad(kept_cross_entropy, (0, 1)))
    temporary = step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 3 * positions * classes * 4
