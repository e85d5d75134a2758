"""An ensemble: each network is, to the bit, the same as it would be alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.model.precision import activation_dtype
from tests.support import small
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS, tiny_config, tiny_experiment


@pytest.fixture(scope='module')
def ensemble():
    return small.ensemble()


@pytest.fixture(scope='module')
def params(ensemble):
    return small.params(ensemble)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_init_is_each_networks_own_init(ensemble, params):
    items = jnp.ones((1, small.MAX_LEN), jnp.int32)
    init = jax.jit(ensemble.network.init)
    for network, key in zip(ensemble.split(params), ensemble.keys(small.KEY), strict=True):
        assert_equal(network, init(key, items)['params'])


def test_initial_weights_have_the_same_bits_compiled_and_one_by_one():
    config = tiny_config(
        model__encoder='sasrec_plus', model__tied=True, objective__task='next_item'
    )
    made = tiny_experiment(config).ensemble
    compiled, one_by_one = made.init(jax.random.key(1)), made._init(jax.random.key(1))
    assert_equal(compiled, one_by_one)


def test_networks_apart_are_the_networks_of_the_stack(ensemble, params):
    apart, own = ensemble.apart(params)
    assert [count for _, count in apart.stacks] == [1] * ensemble.num_networks
    assert_equal(apart.split(own), ensemble.split(params))
    again, same = apart.only(0).apart(own['stack_0'])
    assert_equal(same, own['stack_0'])
    assert again.num_networks == 1


def test_attributes_are_added_once_for_what_scores_many_batches():
    config = tiny_config(
        model__encoder='sasrec_plus', model__attribute_inputs=True, objective__task='next_item'
    )
    table = np.asarray(small.item_attributes())
    ensemble = make_ensemble(config, NUM_ITEMS, NUM_ATTRIBUTES, item_attributes=table)
    params = jax.jit(ensemble.init)(jax.random.key(0))
    items = jnp.array([[0, 3, 1, 4, ensemble.network.mask_token]], jnp.int32)
    scores, additions = [], []
    for one, own in ((ensemble, params), ensemble.with_effective(params)):
        scores.append(jax.jit(one.scores)(one.split(own), items))
        additions.append(str(jax.make_jaxpr(one.scores)(one.split(own), items)).count('scatter'))
    assert_equal(*scores)
    assert additions[0] >= ensemble.num_networks
    assert additions[1] == 0


def test_networks_start_differently(params):
    for leaf in jax.tree.leaves(params):
        if np.ptp(leaf):  # gains and biases of norms are constant
            assert len(np.unique(leaf.reshape(len(leaf), -1)[:, -1])) == len(leaf)


def test_shared_init_starts_all_blocks_from_the_same_weights(params):
    shared = small.params(small.ensemble(ensemble__shared_init=True))
    for name, part in shared['encoder'].items():
        for leaf in jax.tree.leaves(part):
            same = all(np.array_equal(leaf[0], other) for other in leaf[1:])
            assert same == name.startswith('block_')
    assert not np.array_equal(shared['item_head_kernel'][0], shared['item_head_kernel'][1])
    assert_equal(shared['encoder']['embedding'], params['encoder']['embedding'])


def test_a_network_taken_out_is_itself_alone(ensemble, params):
    items = small.sequences(6)
    hidden = jax.jit(ensemble.hidden)(params, items)
    alone = jax.jit(lambda p: ensemble.network.apply({'params': p}, items))
    for n, network in enumerate(ensemble.split(params)):
        assert_equal(hidden[n], alone(network))


def test_scores_are_the_item_logits_of_the_last_slot_and_the_ensemble_sums_them(ensemble, params):
    items = small.sequences(6).at[:, -1].set(ensemble.network.mask_token)
    networks = ensemble.split(params)
    scores = jax.jit(ensemble.scores)(networks, items)
    hidden = jax.jit(ensemble.hidden)(params, items)
    logits = jax.jit(ensemble.item_logits)(params, hidden[:, :, -1])
    np.testing.assert_allclose(jnp.stack(scores), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        jax.jit(ensemble.score)(networks, items), logits.sum(0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(jax.jit(ensemble.only(1).score)(networks[1:2], items), scores[1])


@pytest.mark.parametrize('method', ['hidden', 'score'])
def test_host_parameters_may_be_constants_of_a_compiled_function(ensemble, params, method):
    """JAX cannot vectorise a custom derivative over a NumPy array that a jitted function holds."""
    items, function = small.sequences(3), getattr(ensemble, method)
    params = ensemble.split(params) if method == 'score' else params
    host = jax.device_get(params)
    found = jax.jit(lambda items: function(host, items))(items)
    np.testing.assert_allclose(found, jax.jit(function)(params, items), rtol=1e-5, atol=1e-6)


def test_networks_do_not_touch_each_other(ensemble, params):
    """The gradient of one network's output is zero in the others."""
    gradients = jax.jit(
        jax.grad(lambda p: ensemble.item_logits(p, ensemble.hidden(p, small.sequences(2)))[1].sum())
    )(params)
    used = gradients['encoder']
    for leaf in jax.tree.leaves(used):
        assert not leaf[0].any()
        assert not leaf[2].any()
    assert used['block_0']['attention']['qkv_kernel'][1].any()


def test_dropout_depends_on_row_key_network_and_slot(ensemble, params):
    items = jnp.broadcast_to(small.sequences(1), (4, small.MAX_LEN))
    keys = jnp.array([3, 3, 4, 5], jnp.uint32)
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), params)
    apply = jax.jit(ensemble.hidden)
    hidden = apply(same, items, keys)
    assert_equal(hidden[:, 0], hidden[:, 1])
    assert not np.array_equal(hidden[:, 1], hidden[:, 2])
    assert not np.array_equal(hidden[0], hidden[1])
    np.testing.assert_allclose(
        apply(same, items[2:], keys[2:]), hidden[:, 2:], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    'changes, sentence',
    [
        ({'model__encoder': 'rnn'}, "no encoder 'rnn'; model.encoder takes bert4rec, "),
        ({'model__num_heads': 3}, 'not divisible by model.num_heads=3'),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make_ensemble(tiny_config(**changes), 10, 3)


def test_auto_dtype_is_the_fast_one_of_the_platform():
    assert activation_dtype('auto', 'cpu') == jnp.float32
    assert activation_dtype('auto', 'tpu') == activation_dtype('auto', 'gpu') == jnp.bfloat16
    assert activation_dtype('float32', 'tpu') == jnp.float32


class TestMembersOfTwoKinds:
    """Two networks of one encoder and one of another, against each of them alone."""

    @pytest.fixture(scope='class')
    def mixed(self):
        return small.ensemble(
            ensemble__members='sasrec_plus,gru4rec,sasrec_plus', objective__task='next_item'
        )

    @pytest.fixture(scope='class')
    def weights(self, mixed):
        return jax.jit(mixed.init)(small.KEY)

    def test_networks_of_one_kind_are_stacked(self, mixed, weights):
        assert [type(n.encoder).__name__ for n in mixed.networks] == [
            'SASRecPlus',
            'SASRecPlus',
            'GRU4Rec',
        ]
        sizes = {name: len(jax.tree.leaves(stack)[0]) for name, stack in weights.items()}
        assert sizes == {'stack_0': 2, 'stack_1': 1}

    def test_each_network_computes_what_it_computes_alone(self, mixed, weights):
        items = small.sequences(4)
        together = mixed.hidden(weights, items)
        scores = mixed.scores(mixed.split(weights), items)
        for n, params in enumerate(mixed.split(weights)):
            alone = mixed.only(n)
            stacked = jax.tree.map(lambda x: x[None], params)
            np.testing.assert_allclose(
                alone.hidden(stacked, items)[0], together[n], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(alone.score([params], items), scores[n], rtol=1e-6)
            stack, place = mixed.place(weights, n)
            taken = jax.tree.map(lambda x, i=place: x[i], stack)
            jax.tree.map(np.testing.assert_array_equal, taken, params)

    def test_logits_and_heads_follow_the_order_of_the_networks(self, mixed, weights):
        hidden = mixed.hidden(weights, small.sequences(4))
        logits = mixed.item_logits(weights, hidden)
        kernels, biases = mixed.item_heads(weights)
        expected = jnp.einsum('nrsd,ncd->nrsc', hidden, kernels) + biases[:, None, None]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    def test_vectorised_and_one_after_another_are_the_same(self, mixed, weights):
        assert mixed.one_after_another  # on CPUs
        keys = jnp.arange(4, dtype=jnp.uint32)
        vectorised = dataclasses.replace(mixed, one_after_another=False)
        np.testing.assert_allclose(
            vectorised.hidden(weights, small.sequences(4), keys),
            mixed.hidden(weights, small.sequences(4), keys),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_members_that_cannot_be_are_refused(self):
        for members, message in [
            ('sasrec_plus,nothing', "no encoder 'nothing'; model.encoder takes bert4rec, "),
            ('sasrec_plus,,hstu', 'with a comma between them'),
            ('sasrec_plus,bert4rec', 'different tasks; set --config.objective.task=cloze'),
        ]:
            with pytest.raises(UserError, match=message):
                small.ensemble(ensemble__members=members, objective__task='auto')
