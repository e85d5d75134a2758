"""Counter-based random numbers: rates, and independence along every counter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model import hash_rng

SEED = jnp.uint32(2023)


def chi_square(observed, expected):
    return ((observed - expected) ** 2 / expected).sum()


def test_mix_is_a_bijection():
    """No two of a million inputs collide; a multiple of an odd number reaches all bits."""
    x = jnp.arange(1 << 20, dtype=jnp.uint32) * jnp.uint32(4099)
    assert len(np.unique(hash_rng.mix(x))) == 1 << 20


def test_bits_are_uniform():
    """Chi-square test of each byte of a million integers, with 255 degrees of freedom."""
    random = np.asarray(hash_rng.bits(hash_rng.fold(SEED, jnp.arange(4096)), 256))
    for shift in (0, 8, 16, 24):
        counts = np.bincount(((random >> shift) & 255).ravel(), minlength=256)
        assert abs(chi_square(counts, random.size / 256) - 255) < 6 * np.sqrt(2 * 255)


@pytest.mark.parametrize('probability', [0.01, 0.15, 0.5, 0.8, 1.0])
def test_bernoulli_rate(probability):
    random = hash_rng.bits(hash_rng.fold(SEED, jnp.arange(1000)), 1000)
    rate = hash_rng.bernoulli(random, probability).mean()
    assert abs(rate - probability) <= 6 * np.sqrt(probability * (1 - probability) / 1e6) + 1e-9


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    keys = hash_rng.fold(SEED, jnp.arange(2000))
    x = jnp.ones((2000, 256))
    for rate in (0.1, 0.2, 0.3, 0.5):
        out = hash_rng.dropout(x, keys, 0, rate)
        tolerance = 6 * np.sqrt(rate * (1 - rate) / x.size)
        assert abs((out == 0).mean() - rate) < tolerance + 1 / 512
        assert abs(out.mean() - 1) < (tolerance + 1e-6) / (1 - rate)
        kept = out[out != 0]
        np.testing.assert_array_equal(kept, kept[0])
        # All rows and columns are treated alike.
        for axis, size in ((0, 2000), (1, 256)):
            spread = (out == 0).mean(axis).std() / np.sqrt(rate * (1 - rate) / size)
            assert 0.85 < spread < 1.15


def test_without_keys_or_with_rate_zero_there_is_no_dropout():
    x = jnp.arange(6.0).reshape(2, 3)
    assert hash_rng.dropout(x, None, 0, 0.5) is x
    assert hash_rng.dropout(x, jnp.zeros(2, jnp.uint32), 0, 0.0) is x


def dropped(step=0, row=0, slot=0, network=0, site=0, view=0, features=4096, rate=0.3):
    """Which features of one slot are dropped; the keys are folded as in training."""
    row_key = hash_rng.fold(hash_rng.fold(SEED, 2, step), view, row)
    key = hash_rng.fold(row_key, network, slot)
    return hash_rng.dropout(jnp.ones((1, features)), key[None], site, rate)[0] == 0


NEIGHBOURS = [
    {},
    *(
        {name: by}
        for name in ('step', 'row', 'slot', 'network', 'site', 'view')
        for by in (1, 2, 3)
    ),
    {'row': 1, 'slot': 1},
    {'view': 1, 'row': 1},
    {'step': 1, 'row': 1},
    {'network': 1, 'site': 1},
]


def test_what_is_dropped_is_independent_along_every_counter():
    masks = np.stack([dropped(**counters) for counters in NEIGHBOURS]).astype(float)
    correlation = np.corrcoef(masks)
    off_diagonal = correlation[~np.eye(len(masks), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(masks.shape[1])
    # Each squared correlation times the sample size is chi-square with one degree of freedom.
    assert 0.7 < (off_diagonal**2).mean() * masks.shape[1] < 1.3


def test_what_is_dropped_is_independent_along_the_features():
    keys = hash_rng.fold(SEED, jnp.arange(20000))
    mask = np.asarray(hash_rng.dropout(jnp.ones((20000, 32)), keys, 0, 0.3) == 0).astype(float)
    off_diagonal = np.corrcoef(mask.T)[~np.eye(32, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(20000)
    # Each of the 256 patterns of eight neighbouring features is as frequent as expected.
    patterns = (mask[:, :8] @ 2 ** np.arange(8)).astype(int)
    ones = np.array([bin(i).count('1') for i in range(256)])
    expected = 20000 * 0.3**ones * 0.7 ** (8 - ones)
    often = expected > 5
    counts = np.bincount(patterns, minlength=256)[often]
    freedom = often.sum()
    assert abs(chi_square(counts, expected[often]) - freedom) < 6 * np.sqrt(2 * freedom)


def test_keys_do_not_collide_more_than_chance():
    """Among the keys of 100 steps, 64 rows, 20 slots and 3 networks, about 17 may collide."""
    steps, rows, slots, networks = np.ogrid[:100, :64, :20, :3]
    keys = hash_rng.fold(SEED, steps, rows, slots, networks)
    count = keys.size
    collisions = count - len(np.unique(np.asarray(keys)))
    assert collisions < 3 * count**2 / 2**33


def test_a_value_depends_on_its_own_counters_alone():
    """It is therefore the same on any device and in any batch."""
    keys = hash_rng.fold(SEED, jnp.arange(8))
    x = jax.random.normal(jax.random.key(0), (8, 33))
    whole = hash_rng.dropout(x, keys, 3, 0.4)
    np.testing.assert_array_equal(whole[5:7], hash_rng.dropout(x[5:7], keys[5:7], 3, 0.4))
