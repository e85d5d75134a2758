"""The train step is the same on any number of devices, and a function of nothing but the state."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.data.windows import Windows, windows
from emkd_jax.errors import UserError
from emkd_jax.objective.hyper_parameters import hyper_parameters
from emkd_jax.training import placement
from emkd_jax.training.batches import Order, draw_windows, epoch_order, steps_per_epoch
from emkd_jax.training.dispatch import compile_train_steps, make_capacity
from emkd_jax.training.finite import all_finite, are_finite, are_finite_on_cpus
from emkd_jax.training.step import TrainingData, finite_checked, one_step
from tests.support.golden_cases import relative_error
from tests.support.tiny import tiny_config, tiny_experiment, without_key_bias


@functools.cache
def compiled(num_devices):
    """The tiny experiment's step on this number of devices; it is compiled once for all tests."""
    experiment = tiny_experiment()
    on = jax.devices()[:num_devices]
    windows = experiment.rows
    function = compile_train_steps(experiment.config, experiment.ensemble, windows.lengths, on)
    data = placement.replicate(TrainingData(windows, experiment.data.item_attributes), on)
    return function, data, on, jax.device_get(experiment.initial_state())


PER_EPOCH = steps_per_epoch(len(tiny_experiment().rows), tiny_experiment().config.train.batch_size)


class Steps:
    """A run of the tiny experiment from its initial state."""

    def __init__(self, num_devices):
        self.function, self.data, self.devices, self.state = compiled(num_devices)

    def __call__(self, count, state=None):
        """Takes `count` steps from `self.state`; leaves the new one there as host arrays."""
        state, progress = self.function(
            placement.replicate(state or self.state, self.devices),
            self.data,
            placement.replicate(np.int32(count), self.devices),
            placement.fill(0, self.devices),
        )
        self.state = jax.device_get(state)
        return jax.device_get(progress)


@pytest.fixture(scope='module')
def trajectories():
    """For each number of devices, the sums of 20 steps and the states after 1 and after 20."""
    runs = {}
    for num_devices in (1, 2, 4):
        steps = Steps(num_devices)
        sums = [steps(1).sums]
        first = steps.state
        sums += [steps(1).sums for _ in range(19)]
        runs[num_devices] = sums, first, steps.state
    return runs


@pytest.mark.parametrize('num_devices', [2, 4])
def test_number_of_devices_changes_nothing(trajectories, num_devices):
    sums_one, first_one, last_one = trajectories[1]
    sums_many, first_many, last_many = trajectories[num_devices]
    for one, many in zip(sums_one, sums_many, strict=True):
        for name in one:
            assert many[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    # After one step Adam's first moment is a tenth of the gradient.
    gradients = first_many.opt_state[0].mu, first_one.opt_state[0].mu
    for many, one in (gradients, (last_many.params, last_one.params)):
        errors = jax.tree.map(relative_error, *map(without_key_bias, (many, one)))
        assert max(jax.tree.leaves(errors)) < 1e-5, errors


def test_one_dispatch_of_many_steps_equals_many_of_one(trajectories):
    _, _, expected = trajectories[1]
    steps = Steps(1)
    done = 0
    while done < 20:
        count = min(7, 20 - done, PER_EPOCH - done % PER_EPOCH)
        steps(count)
        done += count
    jax.tree.map(np.testing.assert_array_equal, steps.state, expected)


def test_it_learns():
    steps = Steps(1)
    first = steps(PER_EPOCH).sums['masked_items']
    for _ in range(25):
        last = steps(PER_EPOCH).sums['masked_items']
    assert last < 0.85 * first


def test_nothing_is_compiled_again(trajectories):
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compilations.append(event) if 'backend_compile' in event else None
    )
    steps = Steps(2)
    for count in (1, 3, 2):
        steps(count)
    assert not compilations


def test_an_epoch_visits_every_window_once_in_its_own_order():
    windows = Windows(jnp.zeros(1, jnp.int32), *[jnp.zeros(100, jnp.int32)] * 2, slots=2)
    orders = [np.asarray(epoch_order(jnp.uint32(5), jnp.int32(e), windows).rows) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(orders[0], orders[1])
    assert abs(np.corrcoef(orders[1], orders[2])[0, 1]) < 0.3


def test_windows_are_cut_in_their_order_and_padded_on_the_left():
    cut = windows(Ragged.from_rows([[1, 2, 3, 4, 5], [6], [7, 8]]), 3, 1)
    order, options = Order(jnp.array([3, 0, 2, 1, 4])), tiny_config().objective

    def drawn(step):
        draw = functools.partial(draw_windows, options=options, num_items=9, batch_size=4)
        return jax.jit(draw)(jnp.uint32(0), jnp.int32(step), order, cut, row_ids=jnp.arange(4))

    assert drawn(0).sequences.tolist() == [[0, 0, 6], [3, 4, 5], [1, 2, 3], [2, 3, 4]]
    assert drawn(1).sequences.tolist() == [[0, 7, 8], *[[0, 0, 0]] * 3]  # a short last batch
    assert drawn(1).valid.tolist() == [True, False, False, False]


def test_sums_start_anew_each_epoch(trajectories):
    sums, _, _ = trajectories[1]
    masked = [float(s['masked']) for s in sums]
    assert masked[PER_EPOCH - 1] > masked[PER_EPOCH - 2]
    assert masked[PER_EPOCH] < masked[PER_EPOCH - 1]


def test_a_step_that_is_not_finite_leaves_the_state_before_it():
    steps = Steps(2)
    steps(2)
    good = steps.state
    poisoned = good.replace(params=jax.tree.map(np.copy, good.params))
    poisoned.params['item_head_bias'][0, 3] = np.inf
    progress = steps(3, state=poisoned)
    checked = finite_checked(tiny_experiment().ensemble)
    names = {name for name, broken in zip(checked, progress.broken, strict=True) if broken}
    assert {'masked_items', 'gradients'} <= names
    assert 'icl' not in names
    assert int(progress.step) == 2
    jax.tree.map(np.testing.assert_array_equal, steps.state.opt_state, good.opt_state)


def step_alone(**changes):
    """The first step of the tiny experiment, from `one_step` alone: no axis, no loop, no pmap."""
    experiment = tiny_experiment(tiny_config(**changes))
    config, windows = experiment.config, experiment.rows
    rows = config.train.batch_size
    state = experiment.initial_state()
    step = functools.partial(
        one_step,
        row_ids=jnp.arange(rows),
        config=config,
        ensemble=experiment.ensemble,
        capacity=make_capacity(config.objective, windows.lengths, rows),
    )
    data = jax.tree.map(jnp.asarray, TrainingData(windows, experiment.data.item_attributes))
    order = epoch_order(state.seed, state.step, data.rows)
    return jax.jit(lambda state: step(state, order, hyper_parameters(config), data))(state)


def test_one_step_alone_is_the_step_that_is_compiled(trajectories):
    state, broken = step_alone()
    _, expected, _ = trajectories[1]
    assert not broken.any()
    assert int(state.step) == 1
    for name, value in expected.sums.items():
        np.testing.assert_allclose(state.sums[name], value, rtol=1e-5, atol=1e-6)
    moments = state.opt_state[0].mu, expected.opt_state[0].mu
    errors = jax.tree.map(relative_error, *map(without_key_bias, moments))
    assert max(jax.tree.leaves(errors)) < 1e-5, errors


def test_large_but_finite_gradients_are_finite():
    """Their squares overflow float32, which says nothing about the gradients."""
    state, broken = step_alone(objective__attribute_weight=1e23)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(state.opt_state[0].mu))
    assert 10 * largest > 2e19  # after one step the first moment is a tenth of the gradient
    assert not broken.any()
    assert int(state.step) == 1


@pytest.mark.parametrize('number', [jnp.nan, jnp.inf, -jnp.inf])
def test_one_number_that_is_not_finite_is_found(number):
    table = jnp.full((2, 3, 4), 3e38)
    for check in (lambda *arrays: all_finite(arrays), are_finite, are_finite_on_cpus):
        assert check(table, jnp.zeros(1))
        for place in itertools.product(range(2), range(3), range(4)):
            assert not check(table.at[place].set(number), jnp.zeros(1))
            assert not check(jnp.zeros(1), table.at[place].set(number))


def test_the_strongest_request_reaches_all():
    steps = Steps(4)
    state = placement.replicate(steps.state, steps.devices)
    sharding = placement.fill(0, steps.devices).sharding
    requests = jax.device_put(np.array([0, 0, 2, 1], np.int32), sharding)
    _, progress = steps.function(
        state, steps.data, placement.replicate(np.int32(1), steps.devices), requests
    )
    assert int(progress.request) == 2


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r'train\.batch_size=6 .* 4 device'):
        placement.rows_per_device(6, 4)
