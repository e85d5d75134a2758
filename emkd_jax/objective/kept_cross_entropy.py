"""The cross-entropy of next items that keeps its exponentials, for CPUs and small catalogues.

`catalogue_loss` computes every logit twice, so as not to store an array of (positions x classes).
Where the catalogue is small, a CPU has room for such an array, so here the forward pass keeps
e = exp(z - max z). The backward pass then computes no logits. With s = sum e and c = w / s, the
factors of a position are applied to its hidden state instead of to its row of e,

    d kernel = e^T (c hidden) - onehot^T (w hidden),    d hidden = c (e kernel) - w kernel[label],

so nothing but the two products reads the array again. It takes about half the time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.folding import fold
from emkd_jax.model.precision import accumulation_dtype

MOST_KEPT = 1 << 24  # numbers of a network and step: 64 MiB in float32


def keeps_exponentials(ensemble: Ensemble, positions: int, distilled: bool) -> bool:
    """Whether the loss of `positions` slots is computed here, or by `catalogue_loss`."""
    classes = ensemble.network.num_items + 1
    one_device = ensemble.shards == 1 and ensemble.one_after_another
    return one_device and not distilled and positions * classes <= MOST_KEPT


@jax.custom_vjp
def kept_cross_entropy(
    hidden: Float[Array, 'networks positions dim'],
    kernel: Float[Array, 'networks classes dim'],
    bias: Float[Array, 'networks classes'],
    labels: Int[Array, ' positions'],
    weights: Float[Array, ' positions'],
) -> Float[Array, '']:
    """Computes sum_p w_p sum_n ( logsumexp(z[n, p]) - z[n, p, label_p] ) for z = hidden kernel^T.

    Args:
      hidden: hidden states.
      kernel, bias: the item heads; the bias is added to the logits.
      labels: the true items.
      weights: w, which is 0 where there is no label. They get no gradient.
    """
    return _forward(hidden, kernel, bias, labels, weights)[0]


def _forward(hidden, kernel, bias, labels, weights):
    wide = accumulation_dtype(hidden.dtype)
    loss, kept = jnp.zeros((), wide), []
    for h, k, b in zip(hidden, kernel, bias, strict=True):
        narrow, b = k.astype(h.dtype), b.astype(wide)
        logits = jnp.einsum('pd,cd->pc', h, narrow, preferred_element_type=wide) + b[None]
        top = fold(jnp.maximum, logits).max(1)
        exponentials = jnp.exp(logits - top[:, None])
        sums = exponentials.sum(1)
        picked = (h.astype(wide) * narrow[labels].astype(wide)).sum(1) + b[labels]
        loss += ((top + jnp.log(sums) - picked) * weights).sum()
        kept.append((exponentials.astype(h.dtype), sums))
    return loss, (hidden, kernel, bias, labels, weights, kept)


def _backward(residuals, cotangent):
    hidden, kernel, bias, labels, weights, kept = residuals
    wide, scale = accumulation_dtype(hidden.dtype), cotangent * weights
    grads: list[Sequence[Array]] = []
    for h, k, b, (exponentials, sums) in zip(hidden, kernel, bias, kept, strict=True):
        narrow, share = k.astype(h.dtype), scale / sums
        mean = jnp.einsum('pc,cd->pd', exponentials, narrow, preferred_element_type=wide)
        to_hidden = share[:, None] * mean - scale[:, None] * narrow[labels].astype(wide)
        scaled = (share[:, None] * h.astype(wide)).astype(h.dtype)
        to_kernel = jnp.einsum('pc,pd->cd', exponentials, scaled, preferred_element_type=k.dtype)
        to_kernel = to_kernel.at[labels].add((-scale[:, None] * h.astype(wide)).astype(k.dtype))
        to_bias = jnp.einsum('pc,p->c', exponentials, share.astype(h.dtype)).astype(b.dtype)
        to_bias = to_bias.at[labels].add(-scale.astype(b.dtype))
        grads.append((to_hidden.astype(h.dtype), to_kernel, to_bias))
    no_label_gradient = np.zeros(labels.shape, jax.dtypes.float0)
    return (*map(jnp.stack, zip(*grads, strict=True)), no_label_gradient, None)


kept_cross_entropy.defvjp(_forward, _backward)
