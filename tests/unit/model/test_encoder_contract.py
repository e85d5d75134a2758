"""The contract of `SequenceEncoder`, which every encoder must keep."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.model.encoders import ENCODERS
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.training import placement
from emkd_jax.training.dispatch import compile_train_steps
from emkd_jax.training.state import stack_states
from emkd_jax.training.step import TrainingData
from tests.support import small
from tests.support.tiny import NUM_ITEMS, tiny_config, tiny_data, tiny_experiment

CAUSAL = [name for name in ENCODERS if name != 'bert4rec']

OWN = 'tests.support.own_encoder:MeanOfItems'  # an encoder of a user
each_encoder = pytest.mark.parametrize('name', [*ENCODERS, OWN])
each_causal_encoder = pytest.mark.parametrize('name', CAUSAL)


class Made:
    """The compiled functions of a tiny ensemble, and its parameters."""

    def __init__(self, name, **changes):
        self.ensemble = small.ensemble(model__encoder=name, **changes)
        self.params = away_from_zero(jax.jit(self.ensemble.init)(jax.random.key(0)))
        self._hidden = jax.jit(self.ensemble.hidden)
        network = self.ensemble.network
        self._alone = jax.jit(
            lambda p, items, last_only: network.apply({'params': p}, items, last_only=last_only),
            static_argnums=2,
        )

    def hidden(self, items, keys=None, params=None):
        return np.asarray(self._hidden(self.params if params is None else params, items, keys))

    def alone(self, items, last_only=False):
        """The hidden states of each network, computed without the others."""
        networks = self.ensemble.split(self.params)
        return np.stack([self._alone(params, items, last_only) for params in networks])


def away_from_zero(params):
    """Changes biases, which start from zero, as training does. The padding token stays zero."""
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(0, 0.01, x.shape).astype(np.float32), params
    )
    moved['encoder']['embedding']['tokens'][:, 0] = 0
    return moved


made = functools.cache(Made)


def rows_of(count, padded=0):
    """`count` rows of random items, whose first `padded` slots are padding."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, NUM_ITEMS + 1, (count, small.MAX_LEN)).astype(np.int32)
    items[:, :padded] = 0
    return items


def changed_at(items, slot):
    items = items.copy()
    items[:, slot] = items[:, slot] % NUM_ITEMS + 1
    return items


def keys_of(*rows):
    return np.array(rows, np.uint32)


@each_causal_encoder
def test_a_slot_sees_the_items_before_it_and_no_other(name):
    """Only the item right before it must matter, since an encoder may have a shorter memory."""
    items = rows_of(4)
    before = made(name).hidden(items)
    for slot in range(small.MAX_LEN):
        after = made(name).hidden(changed_at(items, slot))
        np.testing.assert_array_equal(after[:, :, : slot + 1], before[:, :, : slot + 1])
        if slot + 1 < small.MAX_LEN:
            assert (after != before)[:, :, slot + 1].any(-1).all()


def test_the_bidirectional_encoder_sees_every_slot():
    items = rows_of(4)
    before = made('bert4rec').hidden(items)
    for slot in range(small.MAX_LEN):
        assert (made('bert4rec').hidden(changed_at(items, slot)) != before).any(-1).all()


@each_encoder
def test_padding_before_a_row_changes_nothing(name):
    """Evaluation depends on this: it processes short histories in short rows."""
    items = rows_of(6, padded=3)
    items[2:, 3] = 0
    real = items > 0
    whole, shorter = made(name).hidden(items), made(name).hidden(items[:, 3:])
    np.testing.assert_allclose(shorter[:, real[:, 3:]], whole[:, real], rtol=1e-5, atol=1e-5)


@each_encoder
def test_what_stands_in_padding_does_not_reach_real_slots(name):
    items = rows_of(6, padded=4)
    changed = jax.tree.map(np.copy, made(name).params)
    for kind, table in changed['encoder']['embedding'].items():
        table[:, : 1 if kind == 'tokens' else 4] += 3
    after, before = made(name).hidden(items, params=changed), made(name).hidden(items)
    np.testing.assert_allclose(after[:, :, 4:], before[:, :, 4:], rtol=1e-6, atol=1e-6)
    assert name != 'bert4rec' or not np.allclose(after[:, :, :4], before[:, :, :4])


@each_encoder
def test_rows_of_nothing_but_padding_have_finite_states_and_gradients(name):
    items = jnp.zeros((1, small.MAX_LEN), jnp.int32)
    value, gradients = jax.jit(
        jax.value_and_grad(lambda p: made(name).ensemble.hidden(p, items).sum())
    )(made(name).params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@each_encoder
def test_a_network_taken_out_is_itself_alone(name):
    items = rows_of(6, padded=2)
    np.testing.assert_allclose(
        made(name).hidden(items), made(name).alone(items), rtol=1e-6, atol=1e-6
    )


@each_encoder
def test_the_last_slot_alone_is_the_last_slot(name):
    for items in (rows_of(6, padded=5), rows_of(6)[:, -1:]):
        last = made(name).alone(items, last_only=True)
        np.testing.assert_allclose(last, made(name).hidden(items)[:, :, -1:], rtol=1e-5, atol=1e-5)


@each_encoder
def test_rows_are_the_same_wherever_they_are_computed(name):
    """This holds with dropout too, which follows the key of the row, not its place in a batch."""
    items, keys = rows_of(6, padded=2), keys_of(8, 3, 5, 1, 9, 2)
    together = made(name).hidden(items, keys)
    order = [4, 1, 3, 0, 5, 2]
    np.testing.assert_allclose(
        made(name).hidden(items[order], keys[order]), together[:, order], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        made(name).hidden(items[:3], keys[:3]), together[:, :3], rtol=1e-5, atol=1e-6
    )


@each_encoder
def test_dropout_differs_by_row_and_network(name):
    items, keys = np.repeat(rows_of(1), 3, axis=0), keys_of(3, 3, 4)
    same = jax.tree.map(lambda x: np.repeat(x[:1], len(x), axis=0), made(name).params)
    whole = made(name).hidden(items, params=same)[:, :, -1]
    dropped = made(name).hidden(items, keys, same)[:, :, -1]
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    for other in (dropped[:, [2, 0, 1]], dropped[[1, 2, 0]], whole):
        assert (dropped != other)[:, 2].any(-1).all()


@each_encoder
def test_bfloat16_activations_stay_near_float32(name):
    narrow = Made(name, model__dtype='bfloat16').hidden(rows_of(6))
    wide = made(name).hidden(rows_of(6))
    assert narrow.dtype == jnp.bfloat16
    limit = 0.02 if name == 'hstu' else 0.01
    assert np.linalg.norm(narrow.astype(np.float32) - wide) < limit * np.linalg.norm(wide)


@each_encoder
def test_bfloat16_gradients_stay_near_float32(name):
    weight = np.random.default_rng(1).normal(size=(6, small.MAX_LEN, 1)).astype(np.float32)
    items = jnp.asarray(rows_of(6))

    def gradients(ensemble):
        def loss(params):
            hidden = ensemble.hidden(params, items)
            return (hidden.astype(jnp.float32) * weight[None]).sum()

        grads = jax.jit(jax.grad(loss))(made(name).params)['encoder']
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])

    narrow = gradients(small.ensemble(model__encoder=name, model__dtype='bfloat16'))
    wide = gradients(made(name).ensemble)
    assert narrow.dtype == np.float32
    assert np.linalg.norm(narrow - wide) < 0.06 * np.linalg.norm(wide)


@each_encoder
def test_shared_init_shares_all_but_embeddings_and_heads(name):
    params = small.ensemble(model__encoder=name, ensemble__shared_init=True).init(jax.random.key(7))
    for part, weights in params['encoder'].items():
        for leaf in jax.tree.leaves(weights):
            same = all(np.array_equal(leaf[0], other) for other in leaf[1:])
            assert same == (part != 'embedding'), part
    assert not np.array_equal(params['item_head_kernel'][0], params['item_head_kernel'][1])


@each_encoder
def test_a_planted_pattern_is_learned(name):
    """Item i + 1 follows item i. The train step runs on two devices, with the whole objective."""
    config = tiny_config(
        model__encoder=name,
        model__num_blocks=1,
        model__dropout=0.1,
        model__hidden_dim=32,
        ensemble__num_networks=2,
        objective__num_views=2,
        train__batch_size=60,
        optimizer__learning_rate=1e-2,
    )
    rows = [(first + np.arange(9)) % NUM_ITEMS + 1 for first in range(NUM_ITEMS)] * 20
    data = dataclasses.replace(
        tiny_data(), histories=Ragged.from_rows(rows), user_ids=np.arange(len(rows))
    )
    experiment = tiny_experiment(config, data)
    on = jax.devices()[:2]
    lengths = experiment.rows.lengths
    step = compile_train_steps(config, experiment.ensemble, lengths, on)
    states = placement.replicate(stack_states([jax.jit(experiment.initial_state)()]), on)
    training_data, all_steps, nothing = (
        placement.replicate(TrainingData(experiment.rows, data.item_attributes), on),
        placement.replicate(np.int32(10), on),
        placement.fill(0, on),
    )
    for epoch in range(10):
        states, progress = step(states, training_data, all_steps, nothing)
        assert (
            int(progress.step[0]) == 10 * epoch + 10
        )  # waits, as steps of fake devices must not queue
    evaluate = Evaluator(config.eval, experiment.ensemble, experiment.split.test, on)
    result = evaluate(placement.take(states.params, 0, on))
    for metrics in (result.ensemble, *result.networks):
        assert metrics['none']['HR@1'] > 0.95


@pytest.mark.parametrize('name', ['gru4rec', 'caser'])
def test_encoders_without_heads_take_any_number_of_them(name):
    make_ensemble(tiny_config(model__encoder=name, model__num_heads=3), 10, 3)
    with pytest.raises(UserError, match=r'hidden_dim=16 is not divisible by model\.num_heads=3'):
        make_ensemble(tiny_config(model__encoder='sasrec', model__num_heads=3), 10, 3)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'transformer',
            r"no encoder 'transformer'; model\.encoder takes bert4rec, .*package\.module",
        ),
        ('no_such_module:Encoder', r'cannot be imported \(No module named'),
        ('tests.support.own_encoder:Missing', r'is not a subclass of emkd_jax\.SequenceEncoder'),
        ('tests.support.own_encoder:NUMBER', r'is not a subclass of emkd_jax\.SequenceEncoder'),
    ],
)
def test_an_encoder_that_does_not_exist_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        make_ensemble(tiny_config(model__encoder=name), 10, 3)
