"""Encoders that are trained on packed rows keep their sequences apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.errors import UserError
from emkd_jax.model.encoders import ENCODERS
from emkd_jax.model.encoders.bsarec import low_pass
from emkd_jax.model.ensemble import make_ensemble
from tests.support import small
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS, tiny_config

PACKING = [name for name, encoder in ENCODERS.items() if encoder.packs]
each_packing_encoder = pytest.mark.parametrize('name', PACKING)

LENGTHS = (5, 1, 7, 3)  # of the sequences in one row of 18 slots, of which two stay empty
WIDTH = 18


def made(name, **changes):
    ensemble = small.ensemble(model__encoder=name, objective__task='next_item', **changes)
    params = jax.jit(ensemble.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return ensemble, jax.tree.map(
        lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32), params
    )


def packed_row():
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, NUM_ITEMS + 1, length) for length in LENGTHS]
    items, segments = np.zeros((2, 1, WIDTH), np.int32)
    items[0, : sum(LENGTHS)] = np.concatenate(sequences)
    segments[0, : sum(LENGTHS)] = np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS)
    return sequences, jnp.asarray(items), jnp.asarray(segments)


@each_packing_encoder
def test_a_packed_sequence_has_the_states_that_it_has_alone(name):
    ensemble, params = made(name)
    sequences, items, segments = packed_row()
    packed = np.asarray(ensemble.hidden(params, items, segments=segments))
    first = 0
    for sequence in sequences:
        alone = np.asarray(ensemble.hidden(params, jnp.asarray(sequence[None], jnp.int32)))
        np.testing.assert_allclose(
            packed[:, :, first : first + len(sequence)], alone, rtol=1e-5, atol=1e-5
        )
        first += len(sequence)


@each_packing_encoder
def test_no_gradient_crosses_from_one_sequence_to_another(name):
    ensemble, params = made(name)
    _, items, segments = packed_row()

    def of_the_third(tokens):
        embedding = params['encoder']['embedding'] | {'tokens': tokens}
        changed = params | {'encoder': params['encoder'] | {'embedding': embedding}}
        return ensemble.hidden(changed, items, segments=segments)[:, :, 6:13].sum()

    moved = np.asarray(jax.grad(of_the_third)(params['encoder']['embedding']['tokens']))
    items = np.asarray(items)
    others = set(items[0].tolist()) - set(items[0, 6:13].tolist())
    assert not moved[:, sorted(others)].any()
    assert moved[:, items[0, 6]].any()


@each_packing_encoder
def test_a_history_is_scored_from_the_state_after_its_last_item(name):
    """Evaluation appends a mask token, which networks trained on next items do not read."""
    ensemble, params = made(name)
    items = jnp.array([[0, 0, 3, 1, 4], [2, 7, 1, 8, 2]], jnp.int32)
    rows = jnp.pad(items, ((0, 0), (0, 1)), constant_values=NUM_ITEMS + 1)
    found = np.stack(ensemble.scores(ensemble.split(params), rows))
    states = ensemble.hidden(params, items)[:, :, -1]
    np.testing.assert_allclose(found, ensemble.item_logits(params, states), rtol=1e-5, atol=1e-5)


@each_packing_encoder
def test_an_empty_history_is_scored_alike_in_rows_of_any_width(name):
    ensemble, params = made(name)
    mask = NUM_ITEMS + 1
    rows = [jnp.zeros((1, width), jnp.int32).at[:, -1].set(mask) for width in (1, 2, 6)]
    first, *others = (np.stack(ensemble.scores(ensemble.split(params), row)) for row in rows)
    assert np.isfinite(first).all()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-5)


@each_packing_encoder
def test_a_tied_head_is_the_table_of_embeddings(name):
    ensemble, params = made(name, model__tied=True, model__item_bias=False)
    assert not {key for key in params if key.startswith('item_head')}
    assert params['encoder']['embedding']['tokens'].shape[1] == NUM_ITEMS + 1
    states = ensemble.hidden(params, jnp.array([[3, 1, 4, 2]], jnp.int32))[:, :, -1]
    tokens = np.asarray(params['encoder']['embedding']['tokens'])
    np.testing.assert_allclose(
        ensemble.item_logits(params, states),
        np.einsum('nrd,nvd->nrv', states, tokens),
        rtol=1e-5,
        atol=1e-5,
    )


def test_attributes_are_added_to_the_embeddings_of_their_items():
    config = tiny_config(
        model__encoder='sasrec_plus',
        objective__task='next_item',
        model__tied=True,
        model__attribute_inputs=True,
    )
    table = np.asarray(small.item_attributes())
    ensemble = make_ensemble(config, NUM_ITEMS, NUM_ATTRIBUTES, item_attributes=table)
    params = jax.jit(ensemble.init)(jax.random.key(0))
    effective = np.asarray(ensemble.effective(params)['encoder']['embedding']['tokens'])
    tokens = np.asarray(params['encoder']['embedding']['tokens'])
    attributes = np.asarray(params['attribute_embeddings'])
    expected = tokens.copy()
    for item in range(1, NUM_ITEMS + 1):
        for attribute in table[item][table[item] >= 0]:
            expected[:, item] += attributes[:, attribute]
    np.testing.assert_allclose(effective, expected, rtol=1e-6, atol=1e-6)
    # Other attributes make another ensemble, so a compiled program is never used for both.
    other = make_ensemble(config, NUM_ITEMS, NUM_ATTRIBUTES, item_attributes=table[:, ::-1])
    moved = table.copy()
    moved[1:] = np.roll(table[1:], 1, axis=0)
    assert ensemble == make_ensemble(config, NUM_ITEMS, NUM_ATTRIBUTES, item_attributes=table)
    assert ensemble != make_ensemble(config, NUM_ITEMS, NUM_ATTRIBUTES, item_attributes=moved)
    assert hash(ensemble) != hash(other) or ensemble == other


@pytest.mark.parametrize('frequencies', [1, 2, 3, 5])
def test_the_low_pass_filter_is_that_of_a_fourier_transform(frequencies):
    """At each slot, it is the last value of the filtered sequence up to that slot."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=9)
    mask = jnp.tril(jnp.ones((9, 9), bool))[None]
    positions = jnp.arange(9.0)[None]
    found = np.asarray(low_pass(mask, positions, frequencies))[0] @ x
    for slot in range(9):
        spectrum = np.fft.rfft(x[: slot + 1])
        spectrum[frequencies:] = 0
        expected = np.fft.irfft(spectrum, slot + 1)[-1]
        assert found[slot] == pytest.approx(expected, abs=1e-5)


def test_bidirectional_and_unpacked_encoders_are_refused_for_next_items():
    for name in ('bert4rec', 'caser'):
        with pytest.raises(UserError, match=f'The encoder {name} cannot be trained with'):
            make_ensemble(
                tiny_config(model__encoder=name, objective__task='next_item'), NUM_ITEMS, 3
            )


def test_each_encoder_has_its_natural_task():
    tasks = {
        name: make_ensemble(
            tiny_config(model__encoder=name, objective__task='auto'), NUM_ITEMS, 3
        ).network.encoder.task
        for name in ENCODERS
    }
    assert {name for name, task in tasks.items() if task == 'next_item'} == set(PACKING)
