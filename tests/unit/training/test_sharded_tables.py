"""Item tables whose rows are split over the devices: the same training as with whole ones."""

import functools

import jax
import numpy as np
import pytest

from emkd_jax.model.sharded_tables import AXIS, is_table, join_rows, lookup, row_axis, split_rows
from emkd_jax.training import placement
from emkd_jax.training.dispatch import compile_train_steps
from emkd_jax.training.state import stack_states
from emkd_jax.training.step import TrainingData
from emkd_jax.training.sweep import stack_hyper_parameters
from tests.support.golden_cases import relative_error
from tests.support.tiny import tiny_config, tiny_experiment, without_key_bias

# All parts of the objective have a weight, and dropout and masks are drawn.
PACKED = {
    'model__encoder': 'sasrec_plus',
    'model__num_blocks': 1,
    'model__tied': True,
    'model__attribute_inputs': True,
    'objective__task': 'next_item',
    'objective__kd_weight': 0.1,
    'objective__contrast_weight': 0.1,
    'optimizer__average_decay': 0.9,
    'train__batch_size': 4,
    'train__row_width': 12,
}
MIXED = PACKED | {'ensemble__members': 'sasrec_plus,bsarec,sasrec_plus'}
CLOZE = {'model__num_blocks': 1, 'objective__kd_weight': 0.1, 'objective__contrast_weight': 0.1}
CASES = {'cloze': CLOZE, 'packed': PACKED, 'mixed': MIXED}
STEPS = 20


@functools.cache
def trained(case, num_devices, sharded, seeds=(0,)):
    """The sums of every step, and the states after the first and after the last, as host arrays."""
    made = tiny_experiment(tiny_config(**CASES[case]))
    on = jax.devices()[:num_devices]
    shards = num_devices if sharded else 1
    lengths = getattr(made.rows, 'lengths', None)
    step = compile_train_steps(made.config, made.ensemble.sharded(shards), lengths, on)
    varying = stack_hyper_parameters([made.config] * len(seeds))
    data = placement.replicate(TrainingData(made.rows, made.data.item_attributes, varying), on)
    states = []
    for seed in seeds:
        config = made.config.copy_and_resolve_references()
        config.seed = seed
        states.append(made.with_config(config).initial_state())
    whole = jax.device_get(states[0] if len(seeds) == 1 else stack_states(states))
    state = placement.place(whole, on, shards)
    one, nothing = placement.replicate(np.int32(1), on), placement.fill(0, on)
    sums, kept = [], []
    for number in range(STEPS):
        state, progress = step(state, data, one, nothing)
        sums.append(jax.device_get(progress.sums))
        if number in (0, STEPS - 1):
            kept.append(placement.joined(state, whole, on, shards))
    return sums, *kept


@pytest.mark.parametrize(
    ('case', 'num_devices'), [('cloze', 2), ('cloze', 4), ('packed', 4), ('mixed', 2)]
)
def test_split_tables_train_as_whole_ones_do(case, num_devices):
    whole, split = trained(case, 1, False), trained(case, num_devices, True)
    for one, many in zip(whole[0], split[0], strict=True):
        for name in one:
            assert many[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    # After one step Adam's first moment is a tenth of the gradient. Later, Adam magnifies rounding.
    gradients = split[1].opt_state, whole[1].opt_state
    for (many, one), most in ((gradients, 1e-5), ((split[2].kept, whole[2].kept), 1e-4)):
        errors = jax.tree.map(relative_error, without_key_bias(many), without_key_bias(one))
        assert max(errors.values()) < most, errors


def test_runs_that_train_together_have_split_tables():
    whole, split = trained('cloze', 1, False, (0, 1)), trained('cloze', 2, True, (0, 1))
    for one, many in zip(whole[0], split[0], strict=True):
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-5, atol=1e-6)


def test_rows_are_looked_up_a_few_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    table = random.normal(size=(2, 30, 4)).astype(np.float32)
    items = random.integers(0, 30, (4, 13))
    grad = random.normal(size=(4, 2, 13, 4)).astype(np.float32)
    wanted = np.zeros_like(table)
    np.add.at(wanted, (slice(None), items.reshape(-1)), np.concatenate(list(grad), axis=1))
    rows = split_rows(table, -2, 4)

    def found(rows, items, grad):
        values, back = jax.vjp(lambda t: lookup(t, items), rows)
        return values, *back(grad)

    for at_a_time in (1 << 14, 20):  # all, and 5 of each device
        monkeypatch.setattr('emkd_jax.model.sharded_tables._LOOKED_UP_AT_A_TIME', at_a_time)
        values, grads = jax.pmap(lambda *args: found(*args), AXIS)(rows, items, grad)
        np.testing.assert_array_equal(values, table[:, items].swapaxes(0, 1))
        np.testing.assert_allclose(join_rows(np.asarray(grads), -2, 30), wanted, rtol=1e-6)


def test_no_device_holds_a_whole_table_or_its_moments():
    made = tiny_experiment(tiny_config(**PACKED))
    state = placement.place(jax.device_get(made.initial_state()), jax.devices()[:4], 4)
    found = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if is_table(path)
    ]
    assert len(found) == 2 * 4  # tokens and bias: parameters, two moments, the average
    for path, leaf in found:
        for shard in leaf.addressable_shards:
            assert shard.data.shape[0] == 1
            assert shard.data.shape[1:][row_axis(path)] == 8  # of 31


def test_rows_are_split_and_joined():
    table = np.arange(2 * 17 * 3.0).reshape(2, 17, 3)
    split = split_rows(table, -2, 4)
    assert split.shape == (4, 2, 8, 3)  # whole tiles of 8 rows
    np.testing.assert_array_equal(split[1], table[:, 8:16])
    np.testing.assert_array_equal(split[2, :, :1], table[:, 16:])
    assert not split[2, :, 1:].any()
    assert not split[3].any()
    np.testing.assert_array_equal(join_rows(split, -2, 17), table)
    bias = table[..., 0]
    np.testing.assert_array_equal(join_rows(split_rows(bias, -1, 4), -1, 17), bias)


def test_a_table_is_told_by_its_name():
    params = tiny_experiment().initial_state().params
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = sorted(path[-1].key for path, _ in leaves if is_table(path))
    assert named == ['item_head_bias', 'item_head_kernel', 'tokens']
