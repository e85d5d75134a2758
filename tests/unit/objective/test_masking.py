"""The rates of masked views, and the buffer that holds their masked positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.objective.masking import buffer_capacity, draw_views, masked_positions

NUM_ITEMS, MASK = 500, 501


@pytest.fixture(scope='module')
def sequences():
    """3,000 left-padded windows of 1 to 20 items."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, 3000)
    items = rng.integers(1, NUM_ITEMS + 1, (3000, 20))
    return jnp.asarray(np.where(np.arange(20) >= 20 - lengths[:, None], items, 0), jnp.int32)


@pytest.fixture(scope='module')
def views(sequences):
    return draw_views(jnp.uint32(1), sequences, jnp.arange(3000), 8, NUM_ITEMS, 0.15)


def close(count, total, rate):
    return abs(count / total - rate) < 5 * np.sqrt(rate * (1 - rate) / total)


def test_rates(sequences, views):
    items, labels = np.asarray(views.items), np.asarray(views.labels)
    original = np.broadcast_to(sequences, items.shape)
    real, masked = original > 0, labels > 0
    assert not (masked & ~real).any()
    assert close(masked.sum(), real.sum(), 0.15)
    np.testing.assert_array_equal(labels[masked], original[masked])
    np.testing.assert_array_equal(items[~masked], original[~masked])
    hidden, same = items[masked] == MASK, items[masked] == original[masked]
    assert close(hidden.sum(), masked.sum(), 0.8)
    # A random item is the true one once in NUM_ITEMS.
    assert close(same.sum(), masked.sum(), 0.1 + 0.1 / NUM_ITEMS)
    random = items[masked][~hidden & ~same]
    assert random.min() >= 1
    assert random.max() <= NUM_ITEMS
    counts = np.bincount(random, minlength=NUM_ITEMS + 1)[1:]
    expected = len(random) / NUM_ITEMS
    assert abs(((counts - expected) ** 2 / expected).sum() - 499) < 6 * np.sqrt(2 * 499)


def test_no_slot_is_forced_or_favoured(sequences, views):
    masked, real = np.asarray(views.labels) > 0, np.asarray(sequences) > 0
    for slot in range(20):
        assert close(masked[:, :, slot].sum(), 8 * real[:, slot].sum(), 0.15)


def test_views_rows_and_keys_are_independent(sequences, views):
    again = draw_views(jnp.uint32(2), sequences, jnp.arange(3000), 8, NUM_ITEMS, 0.15)
    full = np.asarray((sequences > 0).all(1))
    masks = np.concatenate(
        [np.asarray(v.labels > 0)[:, full].reshape(8, -1) for v in (views, again)]
    ).astype(float)
    masks = np.concatenate([masks, np.roll(masks, 20, axis=1)])
    off_diagonal = np.corrcoef(masks)[~np.eye(len(masks), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(masks.shape[1])


def test_a_view_depends_on_its_row_id_alone(sequences, views):
    part = draw_views(jnp.uint32(1), sequences[40:50], jnp.arange(40, 50), 8, NUM_ITEMS, 0.15)
    jax.tree.map(lambda p, w: np.testing.assert_array_equal(p, w[:, 40:50]), part, views)


def test_masked_positions_are_gathered_with_their_views_weights(views):
    labels = views.labels[:, :50]
    masked = masked_positions(labels, 1024)
    flat = np.asarray(labels).reshape(-1)
    where = np.flatnonzero(flat)
    used = len(where)
    assert masked.count == used
    assert masked.overflow == 0
    np.testing.assert_array_equal(masked.row[:used] * 20 + masked.slot[:used], where)
    found, weights = masked.targets
    np.testing.assert_array_equal(found[:used], flat[where])
    per_view = (np.asarray(labels) > 0).sum((1, 2))
    np.testing.assert_allclose(weights[:used], 1 / per_view[where // (50 * 20)], rtol=1e-6)
    np.testing.assert_array_equal(weights[used:], 0)
    np.testing.assert_array_equal(found[used:], 0)


def test_what_does_not_fit_is_counted_and_the_rest_kept(views):
    labels = views.labels[:, :50]
    whole, cut = masked_positions(labels, 1024), masked_positions(labels, 100)
    assert cut.count == whole.count
    assert cut.overflow == whole.count - 100
    kept = cut.row, cut.slot, *cut.targets
    for found, expected in zip(kept, (whole.row, whole.slot, *whole.targets), strict=True):
        np.testing.assert_array_equal(found, expected[:100])


def test_a_view_without_masks_has_no_weight():
    labels = jnp.zeros((2, 3, 4), jnp.int32).at[1, 2, 3].set(7)
    masked = masked_positions(labels, 8)
    np.testing.assert_array_equal(masked.targets.weights, [1, *[0] * 7])


@pytest.mark.parametrize(
    'rows, num_views, mask_prob',
    [(256, 8, 0.15), (64, 8, 0.15), (8, 1, 0.15), (4, 3, 0.5), (1, 1, 0.15), (256, 1, 0.15)],
)
def test_the_default_buffer_holds_every_draw(sequences, rows, num_views, mask_prob):
    lengths = np.asarray((sequences > 0).sum(1))
    capacity = buffer_capacity(lengths, rows, num_views, mask_prob)
    rng = np.random.default_rng(3)
    draws = lengths[rng.integers(0, len(lengths), (20000, rows))].sum(1)
    masked = rng.binomial(draws * num_views, mask_prob)
    assert masked.max() <= capacity
    assert capacity <= rows * num_views * lengths.max()
    # And wastes little at the sizes that matter.
    if rows * num_views >= 2048:
        assert capacity < 1.35 * masked.mean() + 128
