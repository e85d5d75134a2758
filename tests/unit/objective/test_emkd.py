"""Each part of the objective equals loops over its equation; the sum is the same on all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.objective.attributes import attribute_loss
from emkd_jax.objective.contrastive import contrastive_loss
from emkd_jax.objective.emkd import PARTS, Capacity, emkd_loss
from emkd_jax.objective.masking import at_positions
from tests.reference.direct_losses import cross_entropy, distillation
from tests.support import small
from tests.support.golden_cases import relative_error

NETWORKS, POSITIONS, CLASSES = 3, 5, 11


def logsumexp(x):
    return np.log(np.exp(x - x.max()).sum()) + x.max()


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NETWORKS, POSITIONS, CLASSES)).astype(np.float32) * 3


@pytest.fixture
def weights():
    return np.array([0.5, 0.5, 1.0, 0.25, 0.0], np.float32)


def test_cross_entropy(logits, weights):
    labels = np.array([3, 1, 10, 7, 0])
    expected = sum(
        weights[p] * (logsumexp(logits[n, p]) - logits[n, p, labels[p]])
        for n in range(NETWORKS)
        for p in range(POSITIONS)
    )
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels, jnp.int32), jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_distillation(logits, weights):
    temperature, expected = 0.7, 0.0
    for p in range(POSITIONS):
        log_q = [z / temperature - logsumexp(z / temperature) for z in logits[:, p]]
        for a in range(NETWORKS):
            for b in range(a):
                there = (np.exp(log_q[b]) * (log_q[b] - log_q[a])).sum()
                back = (np.exp(log_q[a]) * (log_q[a] - log_q[b])).sum()
                expected += weights[p] * (there + back) / 2
    found = distillation(jnp.asarray(logits), jnp.asarray(weights), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_teacher_gets_no_gradient(logits, weights):
    """With one position, d KL(q_b || q_a) / d z_a = (q_a - q_b) / t, and nothing more."""
    temperature = 0.7
    pair = jnp.asarray(logits[:2, :1])
    gradient = jax.grad(lambda z: distillation(z, jnp.ones(1), temperature))(pair)[:, 0]
    q_a, q_b = jax.nn.softmax(pair[:, 0] / temperature)
    expected = (q_a - q_b) / (2 * temperature)
    np.testing.assert_allclose(gradient, jnp.stack([expected, -expected]), rtol=1e-4, atol=1e-6)


def test_attribute_loss(logits, weights):
    attributes = np.array([[2, -1], [1, 4], [-1, -1], [10, 3], [0, -1]], np.int32)
    expected = 0.0
    for n in range(NETWORKS):
        for p in range(POSITIONS):
            for c in range(CLASSES):
                probability = 1 / (1 + np.exp(-logits[n, p, c]))
                hit = c in attributes[p]
                expected -= weights[p] * np.log(probability if hit else 1 - probability) / CLASSES
    found = attribute_loss(jnp.asarray(logits), jnp.asarray(attributes), jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_hidden_states_at_positions():
    """Values and gradients are those of a plain gather, also for a position that is taken twice."""
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
    row, slot = jnp.array([0, 3, 3, 0]), jnp.array([4, 0, 2, 4])

    def total(hidden, at):
        whole, chosen = at(hidden)
        return (whole**2).sum() + (chosen**3).sum()

    def gathered(hidden):
        return at_positions(hidden, row, slot)

    def plain(hidden):
        return hidden, hidden[:, row, slot]

    for found, expected in zip(
        jax.value_and_grad(total)(hidden, gathered),
        jax.value_and_grad(total)(hidden, plain),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def contrast_by_loops(anchors, views, temperature, self_contrast):
    networks, rows, _ = anchors.shape

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    losses = np.zeros((networks, networks))
    for x in range(networks):
        for y in range(networks):
            for s in range(rows):
                row = np.array(
                    [
                        0.0 if k == s else cosine(anchors[x, s], anchors[y, k]) / temperature
                        for k in range(rows)
                        if k != s or self_contrast == 'zero'
                    ]
                )
                positives = np.array(
                    [cosine(anchors[x, s], view[s]) / temperature for view in views[y]]
                )
                losses[x, y] += (logsumexp(row) - logsumexp(positives)) / rows
    return np.trace(losses), losses.sum() - np.trace(losses)


@pytest.mark.parametrize('self_contrast', ['zero', 'excluded'])
def test_contrast(self_contrast):
    rng = np.random.default_rng(1)
    anchors, views = rng.normal(size=(3, 6, 20)), rng.normal(size=(3, 4, 6, 20))
    expected = contrast_by_loops(anchors, views, 0.4, self_contrast)
    copies = jnp.asarray(np.concatenate([views, anchors[:, None]], 1), jnp.float32)
    copies = copies.reshape(*copies.shape[:-1], 4, 5)  # 20 features are 4 slots of 5 dimensions
    found = contrastive_loss(copies, jnp.ones(6, bool), 0.4, self_contrast)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('self_contrast', ['zero', 'excluded'])
def test_rows_that_pad_a_short_batch_contrast_with_nobody(self_contrast):
    rng = np.random.default_rng(2)
    copies = jnp.asarray(rng.normal(size=(2, 4, 6, 4, 2)), jnp.float32)
    valid = jnp.arange(6) < 4
    padded = contrastive_loss(copies, valid, 0.4, self_contrast)
    short = contrastive_loss(copies[:, :, :4], valid[:4], 0.4, self_contrast)
    np.testing.assert_allclose(padded, short, rtol=1e-6)


def test_a_lone_sequence_has_a_finite_loss_and_gradient():
    copies = jnp.ones((2, 4, 1, 4, 1))
    for self_contrast in ('zero', 'excluded'):

        def total(copies, self_contrast=self_contrast):
            return sum(contrastive_loss(copies, jnp.ones(1, bool), 0.4, self_contrast))

        value, gradient = jax.value_and_grad(total)(copies)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_a_representation_of_zeros_has_a_finite_loss_and_gradient():
    """All rectifiers of an encoder may be shut for a sequence, and a row may hold padding alone."""
    rng = np.random.default_rng(3)
    copies = rng.normal(size=(2, 4, 4, 2, 4))
    copies[:, :, 1] = 0
    loss, gradient = jax.value_and_grad(
        lambda copies: sum(contrastive_loss(copies, jnp.arange(4) < 3, 0.4, 'zero'))
    )(jnp.asarray(copies, jnp.float32))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


ENSEMBLE = small.ensemble(model__num_blocks=1)


def parts_of(options, items, capacity=small.CAPACITY):
    batch = small.batch(items, options)
    total, parts = jax.jit(
        lambda params: emkd_loss(
            params,
            ENSEMBLE,
            options,
            small.hyper(options),
            batch,
            small.item_attributes(),
            capacity,
        )
    )(small.params(ENSEMBLE))
    return parts | {'total': total}


def test_total_is_the_weighted_sum_and_parts_of_no_weight_are_left_out():
    options, items = small.options(), small.sequences(4)
    parts = parts_of(options, items)
    assert all(parts[name] != 0 for name in PARTS)
    expected = (
        parts['masked_items']
        + options.kd_weight * parts['kd']
        + options.attribute_weight * parts['attributes']
        + options.contrast_weight * (parts['icl'] + parts['ccl'])
    )
    np.testing.assert_allclose(parts['total'], expected, rtol=1e-6)
    fewer = parts_of(small.options(attribute_weight=0.0, contrast_weight=0.0, kd_weight=0.0), items)
    assert all(fewer[name] == 0 for name in PARTS if name != 'masked_items')
    np.testing.assert_allclose(fewer['masked_items'], parts['masked_items'], rtol=1e-6)


def test_positions_that_find_no_place_are_counted():
    options, items = small.options(), small.sequences(8)
    labels = small.batch(items, options).views.labels
    masked, last = int((labels > 0).sum()), int((labels[-1] > 0).sum())
    for capacity, overflow in [(Capacity(masked, last), 0), (Capacity(masked - 3, last - 1), 4)]:
        parts = parts_of(options, items, capacity)
        assert parts['overflow'] == overflow
        assert parts['masked'] == masked


def value_and_gradients(options, items, valid, num_devices):
    """Returns global parts and gradients of rows that are spread over devices, with dropout."""
    split = num_devices, len(items) // num_devices

    def share(params, items, valid, row_ids):
        (total, parts), gradients = jax.value_and_grad(emkd_loss, has_aux=True)(
            params,
            ENSEMBLE,
            options,
            small.hyper(options),
            small.batch(items, options, valid, row_ids),
            small.item_attributes(),
            small.CAPACITY,
            jnp.uint32(9),
            'devices',
        )
        return jax.lax.psum((parts | {'total': total}, gradients), 'devices')

    spread = jax.pmap(
        share,
        axis_name='devices',
        in_axes=(None, 0, 0, 0),
        out_axes=None,
        devices=jax.devices()[:num_devices],
    )
    return jax.device_get(
        spread(
            small.params(ENSEMBLE),
            items.reshape(*split, -1),
            valid.reshape(split),
            jnp.arange(len(items)).reshape(split),
        )
    )


def assert_same(found, expected):
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) <= 1e-5, errors


def test_same_objective_and_gradients_on_any_number_of_devices():
    options = small.options(self_contrast='excluded')  # the step's tests have 'zero'
    items, valid = small.sequences(8), jnp.arange(8) < 7
    one = value_and_gradients(options, items, valid, 1)
    assert one[0]['masked'] > 20
    for num_devices in (2, 4):
        assert_same(value_and_gradients(options, items, valid, num_devices), one)


def test_rows_that_pad_a_short_batch_change_nothing():
    items = small.sequences(8)
    short = value_and_gradients(small.options(), items[:5], jnp.ones(5, bool), 1)
    # Rows 5 to 7 hold items here; `valid` alone keeps them out.
    assert_same(value_and_gradients(small.options(), items, jnp.arange(8) < 5, 1), short)
