"""The cross-entropy of next items that keeps its exponentials, for CPUs and small catalogues.

`catalogue_loss` computes every logit twice, so as not to store an array of (positions x classes).
Where the catalogue is small, a CPU has room for such an array, so here e = exp(z - max z) of one
network is kept until its gradients are computed, which follows at once, since they do not depend on
other parts of the loss. With s = sum e and c = w / s, the factors of a position are applied to its
hidden state instead of to its row of e,

    d kernel = e^T (c hidden) - onehot^T (w hidden),    d hidden = c (e kernel) - w kernel[label],

so nothing but the two products reads the array again, and the next network uses its memory, which
is in the cache then. It takes about half the time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.folding import fold
from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.targets import Targets

MOST_KEPT = 1 << 24  # numbers of a network and step: 64 MiB in float32


def keeps_exponentials(ensemble: Ensemble, positions: int, distilled: bool) -> bool:
    """Whether the loss of `positions` slots is computed here, or by `catalogue_loss`."""
    classes = ensemble.network.num_items + 1
    one_device = ensemble.shards == 1 and ensemble.one_after_another
    return one_device and not distilled and positions * classes <= MOST_KEPT


@jax.custom_vjp
def kept_cross_entropy(
    hidden: Float[Array, 'networks positions dim'], heads: ItemHeads, targets: Targets
) -> Float[Array, '']:
    """Computes sum_p w_p sum_n ( logsumexp(z[n, p]) - z[n, p, label_p] ), as `catalogue_loss` does.

    Args:
      hidden: hidden states at the positions that have labels.
      heads: kernel and bias.
      targets: the labels, and their weights w.
    """
    return sum(_loss(*network, *targets)[0] for network in zip(hidden, *heads, strict=True))


def _forward(hidden, heads, targets):
    found: list[tuple[Array, Sequence[Array]]] = []
    for h, k, b in zip(hidden, *heads, strict=True):
        if found:  # XLA would compute the networks beside each other, each with an array of its own
            h = h + 0 * found[-1][0].astype(h.dtype)
        found.append(_loss_and_gradients(h, k, b, *targets))
    losses, gradients = zip(*found, strict=True)
    to_hidden, *to_heads = map(jnp.stack, zip(*gradients, strict=True))
    return sum(losses), (to_hidden, ItemHeads(*to_heads))


def _loss_and_gradients(h, k, b, labels, weights):
    """The loss of one network, and its gradients by hidden states, kernel and bias."""
    wide = accumulation_dtype(h.dtype)
    loss, exponentials, sums = _loss(h, k, b, labels, weights)
    exponentials, narrow, share = exponentials.astype(h.dtype), k.astype(h.dtype), weights / sums
    mean = jnp.einsum('pc,cd->pd', exponentials, narrow, preferred_element_type=wide)
    to_hidden = share[:, None] * mean - weights[:, None] * narrow[labels].astype(wide)
    scaled = (share[:, None] * h.astype(wide)).astype(h.dtype)
    to_kernel = jnp.einsum('pc,pd->cd', exponentials, scaled, preferred_element_type=k.dtype)
    to_kernel = to_kernel.at[labels].add((-weights[:, None] * h.astype(wide)).astype(k.dtype))
    to_bias = jnp.einsum('pc,p->c', exponentials, share.astype(h.dtype)).astype(b.dtype)
    to_bias = to_bias.at[labels].add(-weights.astype(b.dtype))
    return loss, (to_hidden.astype(h.dtype), to_kernel, to_bias)


def _loss(h, k, b, labels, weights):
    """The loss of one network, its exponentials and their sums."""
    wide = accumulation_dtype(h.dtype)
    narrow, b = k.astype(h.dtype), b.astype(wide)
    logits = jnp.einsum('pd,cd->pc', h, narrow, preferred_element_type=wide) + b[None]
    top = fold(jnp.maximum, logits).max(1)
    exponentials = jnp.exp(logits - top[:, None])
    sums = exponentials.sum(1)
    picked = (h.astype(wide) * narrow[labels].astype(wide)).sum(1) + b[labels]
    return ((top + jnp.log(sums) - picked) * weights).sum(), exponentials, sums


def _backward(gradients, cotangent):
    return *jax.tree.map(lambda x: x * cotangent.astype(x.dtype), gradients), None


kept_cross_entropy.defvjp(_forward, _backward)
