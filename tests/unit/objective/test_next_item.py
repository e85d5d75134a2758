"""The loss of packed rows against a direct form in float64, part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from emkd_jax.objective import item_loss, kept_cross_entropy
from emkd_jax.objective.next_item import PackedBatch, next_item_loss, next_items
from tests.support import small
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS

WEIGHTS = {'next_item': 1.0, 'kd': 0.1, 'attributes': 0.5, 'icl': 0.2, 'ccl': 0.2}


def batch():
    """Two rows with three sequences and one, and the label of each slot."""
    rng = np.random.default_rng(3)
    items, labels, segments = np.zeros((3, 2, 10), np.int32)
    ends = np.full((2, 3), -1, np.int32)
    for row, lengths in enumerate([(3, 2, 4), (6,)]):
        first = 0
        for number, length in enumerate(lengths, start=1):
            sequence = rng.integers(1, NUM_ITEMS + 1, length + 1)
            slots = slice(first, first + length)
            items[row, slots], labels[row, slots] = sequence[:-1], sequence[1:]
            segments[row, slots] = number
            first += length
            ends[row, number - 1] = first - 1
    return PackedBatch(*map(jnp.asarray, (items, labels, segments, ends)), jnp.arange(2))


ENDS = [(0, 2), (0, 4), (0, 8), (1, 5)]  # the last slot of each sequence


@pytest.fixture(scope='module', params=[False, True], ids=['head', 'tied'])
def found(request):
    """The ensemble, its parameters, and what `next_item_loss` found without dropout."""
    ensemble = small.ensemble(
        model__encoder='sasrec_plus', objective__task='next_item', model__tied=request.param
    )
    params = jax.jit(ensemble.init)(jax.random.key(1))
    options = small.options(temperature=0.7)
    hyper = small.hyper(options)
    loss = jax.jit(
        lambda p: next_item_loss(p, ensemble, options, hyper, batch(), small.item_attributes())
    )
    total, parts = loss(params)
    hidden = np.asarray(ensemble.hidden(params, batch().items, segments=batch().segments))
    return ensemble, params, hyper, float(total), jax.device_get(parts), hidden.astype(np.float64)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def logits_at_labels(found):
    """(networks, labels, classes), and the labels."""
    ensemble, params, *_, hidden = found
    kernel, bias = wide(ensemble.network.item_head_of(params))
    real = np.asarray(batch().labels) > 0
    states = hidden[:, real]
    return np.einsum('npd,nvd->npv', states, kernel) + bias[:, None], np.asarray(batch().labels)[
        real
    ]


def test_next_item_is_the_cross_entropy_at_every_label(found):
    logits, labels = logits_at_labels(found)
    picked = np.take_along_axis(log_softmax(logits, -1), labels[None, :, None], 2)
    assert found[4]['next_item'] == pytest.approx(-picked.mean(1).sum(), rel=1e-5)
    assert found[4]['masked'] == len(labels)


def test_distillation_is_the_mean_divergence_of_all_pairs(found):
    logits, _ = logits_at_labels(found)
    log_q = log_softmax(logits / 0.7, -1)
    q = np.exp(log_q)
    total = sum(
        (q[b] * (log_q[b] - log_q[a])).sum(-1).mean() / 2
        + (q[a] * (log_q[a] - log_q[b])).sum(-1).mean() / 2
        for a in range(len(q))
        for b in range(a)
    )
    assert found[4]['kd'] == pytest.approx(total, rel=1e-4)


def test_attributes_are_those_of_the_next_item(found):
    params, hidden = found[1], found[-1]
    kernel, bias = wide((params['attribute_head_kernel'], params['attribute_head_bias']))
    labels = np.asarray(batch().labels)
    real = labels > 0
    logits = np.einsum('npd,nvd->npv', hidden[:, real], kernel) + bias[:, None]
    targets = np.zeros((real.sum(), NUM_ATTRIBUTES + 1))
    table = np.asarray(small.item_attributes())
    for place, item in enumerate(labels[real]):
        targets[place, table[item][table[item] >= 0]] = 1
    losses = np.logaddexp(0, logits) - targets * logits
    assert found[4]['attributes'] == pytest.approx(losses.mean(-1).mean(1).sum(), rel=1e-5)


@pytest.mark.parametrize('part', ['icl', 'ccl'])
def test_contrast_is_between_the_ends_of_sequences(found, part):
    *_, hidden = found
    states = np.stack([hidden[:, row, slot] for row, slot in ENDS], axis=1)
    states /= np.linalg.norm(states, axis=-1, keepdims=True)
    total = 0.0
    for x in range(len(states)):
        for y in range(len(states)):
            if (x == y) != (part == 'icl'):
                continue
            similar = states[x] @ states[y].T / 0.7
            positive = np.diag(similar).copy()  # without dropout, both passes are the same
            np.fill_diagonal(similar, 0)
            total += (logsumexp(similar, axis=1) - positive).mean()
    assert found[4][part] == pytest.approx(total, rel=1e-4)


def test_the_total_is_the_weighted_sum(found):
    hyper, total, parts = found[2], found[3], found[4]
    expected = (
        parts['next_item']
        + hyper.kd_weight * parts['kd']
        + hyper.attribute_weight * parts['attributes']
        + hyper.contrast_weight * (parts['icl'] + parts['ccl'])
    )
    assert total == pytest.approx(expected, rel=1e-6)


def test_parts_without_weight_are_not_computed():
    ensemble = small.ensemble(model__encoder='sasrec_plus', objective__task='next_item')
    options = small.options(kd_weight=0.0, contrast_weight=0.0, attribute_weight=0.0)
    params = jax.jit(ensemble.init)(jax.random.key(1))
    _, parts = jax.jit(
        lambda p: next_item_loss(
            p, ensemble, options, small.hyper(options), batch(), small.item_attributes()
        )
    )(params)
    assert parts['next_item'] > 0
    assert {float(parts[name]) for name in ('kd', 'attributes', 'icl', 'ccl')} == {0.0}


def test_two_passes_with_other_dropout_are_contrasted():
    """With dropout, the positives of ICL are no longer perfect."""
    ensemble = small.ensemble(model__encoder='sasrec_plus', objective__task='next_item')
    options = small.options()
    params = jax.jit(ensemble.init)(jax.random.key(1))

    def icl(key):
        hyper, attributes = small.hyper(options), small.item_attributes()
        return next_item_loss(params, ensemble, options, hyper, batch(), attributes, key)[1]['icl']

    dropped = [float(jax.jit(icl)(jnp.uint32(key))) for key in (1, 2)]
    assert dropped[0] != dropped[1]


def test_weights():
    targets, count = next_items(batch())
    assert int(count) == 15
    assert float(targets.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize('tied', [False, True])
def test_kept_exponentials_and_blocks_of_the_catalogue_give_the_same(monkeypatch, tied):
    ensemble = small.ensemble(
        model__encoder='sasrec_plus', objective__task='next_item', model__tied=tied
    )
    params = jax.jit(ensemble.init)(jax.random.key(1))
    options = small.options(kd_weight=0.0)
    hyper = small.hyper(options)

    def found():
        def loss(p):
            return next_item_loss(p, ensemble, options, hyper, batch(), small.item_attributes())

        lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
        return lowered.compile()(params), 'while' in lowered.as_text()

    keeps, has_blocks = found()
    assert not has_blocks
    monkeypatch.setattr(kept_cross_entropy, 'MOST_KEPT', 0)
    monkeypatch.setattr(item_loss, 'BLOCK', 8)
    streams, has_blocks = found()
    assert has_blocks
    jax.tree.map(
        lambda kept, streamed: np.testing.assert_allclose(kept, streamed, rtol=1e-4, atol=1e-6),
        *map(wide, (keeps, streams)),
    )
