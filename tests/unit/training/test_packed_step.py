"""The step on packed rows: the same on any number of devices, and every target once an epoch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.training import placement
from emkd_jax.training.batches import draw_packed, epoch_order, steps_per_epoch
from emkd_jax.training.dispatch import compile_train_steps
from emkd_jax.training.step import TrainingData
from tests.support.golden_cases import relative_error
from tests.support.tiny import tiny_config, tiny_experiment, without_key_bias

BATCH = 4


@functools.cache
def experiment():
    return tiny_experiment(
        tiny_config(
            model__encoder='sasrec_plus',
            model__tied=True,
            model__attribute_inputs=True,
            objective__task='next_item',
            objective__kd_weight=0.1,
            objective__contrast_weight=0.1,
            train__batch_size=BATCH,
            train__row_width=12,
        )
    )


def trained(num_devices, steps=20):
    """The sums of each step, and the first and the last state, on this number of devices."""
    made, on = experiment(), jax.devices()[:num_devices]
    step = compile_train_steps(made.config, made.ensemble, None, on)
    data = placement.replicate(TrainingData(made.rows, made.data.item_attributes), on)
    state = placement.replicate(jax.jit(made.initial_state)(), on)
    one, nothing = placement.replicate(np.int32(1), on), placement.fill(0, on)
    sums, first = [], None
    for _ in range(steps):
        state, progress = step(state, data, one, nothing)
        sums.append(jax.device_get(progress.sums))
        first = first or jax.device_get(state)
    return sums, first, jax.device_get(state)


@pytest.fixture(scope='module')
def alone():
    return trained(1)


@pytest.mark.parametrize('num_devices', [2, 4])
def test_number_of_devices_changes_nothing(alone, num_devices):
    sums, first, last = trained(num_devices)
    for one, many in zip(alone[0], sums, strict=True):
        for name in one:
            assert many[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    # After one step Adam's first moment is a tenth of the gradient. Later, Adam magnifies rounding.
    gradients = first.opt_state[0].mu, alone[1].opt_state[0].mu
    for (many, one), most in ((gradients, 1e-5), ((last.params, alone[2].params), 1e-4)):
        errors = jax.tree.map(relative_error, without_key_bias(many), without_key_bias(one))
        assert max(errors.values()) < most, errors


def test_it_learns(alone):
    per_epoch = steps_per_epoch(len(experiment().rows), BATCH)
    sums, _, _ = trained(1, 30 * per_epoch)
    first, last = sums[per_epoch - 1]['next_item'], sums[-1]['next_item']
    assert last < 0.9 * first


def test_an_epoch_visits_every_target_once_in_its_own_places():
    rows = jax.tree.map(jnp.asarray, experiment().rows)
    train = experiment().split.train
    expected = sorted(
        pair for user in range(len(train)) for pair in itertools.pairwise(train[user].tolist())
    )
    seen = []
    for epoch in range(2):
        order = epoch_order(jnp.uint32(5), jnp.int32(epoch), rows)
        pairs, first_row = [], None
        for step in range(steps_per_epoch(len(rows), BATCH)):
            batch = jax.device_get(
                draw_packed(jnp.int32(step), order, rows, BATCH, jnp.arange(BATCH))
            )
            first_row = batch.items[0] if first_row is None else first_row
            real = batch.segments > 0
            assert (real == (batch.items > 0)).all()
            assert (real == (batch.labels > 0)).all()
            # Within a segment, the label of a slot is the item of the next one.
            inside = real[:, :-1] & (batch.segments[:, 1:] == batch.segments[:, :-1])
            np.testing.assert_array_equal(batch.labels[:, :-1][inside], batch.items[:, 1:][inside])
            after = np.pad(batch.segments[:, 1:], ((0, 0), (0, 1)))
            for ends, last in zip(batch.ends, real & (batch.segments != after), strict=True):
                np.testing.assert_array_equal(ends[ends >= 0], np.flatnonzero(last))
            pairs += zip(batch.items[real].tolist(), batch.labels[real].tolist(), strict=True)
        assert sorted(pairs) == expected
        seen.append(first_row.tolist())
    assert seen[0] != seen[1]


def test_pieces_of_one_length_change_places_from_epoch_to_epoch():
    rows = jax.tree.map(jnp.asarray, experiment().rows)
    orders = [np.asarray(epoch_order(jnp.uint32(5), jnp.int32(e), rows).pieces) for e in range(2)]
    groups = experiment().rows.piece_slots
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(groups)))
        np.testing.assert_array_equal(groups[order], groups)
    assert not np.array_equal(*orders)


def test_the_average_follows_the_parameters():
    """Its share of a new value falls from 9/10 to 1 - decay."""
    made = tiny_experiment(
        tiny_config(
            model__encoder='sasrec_plus',
            objective__task='next_item',
            optimizer__average_decay=0.4,
            train__batch_size=BATCH,
            train__row_width=12,
        )
    )
    on = jax.devices()[:1]
    step = compile_train_steps(made.config, made.ensemble, None, on)
    data = placement.replicate(TrainingData(made.rows, made.data.item_attributes), on)
    state = placement.replicate(jax.jit(made.initial_state)(), on)
    one, nothing = placement.replicate(np.int32(1), on), placement.fill(0, on)
    expected = np.asarray(state.params['item_head_bias'])
    for number in range(8):
        state, _ = step(state, data, one, nothing)
        decay = min(0.4, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * np.asarray(state.params['item_head_bias'])
        np.testing.assert_allclose(state.average['item_head_bias'], expected, rtol=1e-4, atol=1e-6)
    assert state.kept is state.average
    assert not np.allclose(state.average['item_head_bias'], state.params['item_head_bias'])
