"""Masked-item prediction and mutual distillation in one pass over blocks of the catalogue.

Neither pass stores an array of (positions x catalogue). Let z_n be the logits of network n at one
position, q_n = softmax(z_n / t) and S = sum_b z_b. The log-normalisers of each pair cancel:

    sum_{a > b} ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2 = sum_a E_{q_a}[N z_a - S] / (2 t),

so a running maximum, sums of exponentials at temperatures 1 and t, and one moment of each network
give both losses. The backward pass computes each block of logits again. With g and k the incoming
gradients of the two losses, the gradient of z_n is

    w_p ( g (softmax(z_n) - onehot) + k / (2 t) (N q_n - sum_b q_b) ).

The arrays of a block have classes before positions, since reductions over a major axis vectorise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.targets import Targets

BLOCK = 1024  # classes of the catalogue that training holds at a time


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def catalogue_loss(
    hidden: Float[Array, 'networks positions dim'],
    heads: ItemHeads,
    targets: Targets,
    temperature: float | Float[Array, ''] | None,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes cross-entropy and distillation of the logits z = hidden kernel^T + bias.

        cross_entropy = sum_p w_p sum_n ( logsumexp(z[n, p]) - z[n, p, label_p] )
        distillation  = sum_p w_p sum_{a > b} ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2

    Here q_n = softmax(z[n, p] / t), and the first distribution of each divergence is a constant.

    Args:
      hidden: hidden states at the positions that have labels.
      heads: kernel and bias.
      targets: the labels, and their weights w.
      temperature: t, which gets no gradient. None leaves distillation out; it is 0 then.
      block: classes that a pass holds at a time. Temporary memory grows with positions x block.
    """
    return _forward(hidden, heads, targets, temperature, block)[0]


def _forward(hidden, heads, targets, temperature, block):
    sums = catalogue_sums(hidden, heads, targets.labels, temperature, block)
    lses = normalisers(sums, temperature)
    kept = (hidden, heads, targets, temperature, lses)
    return losses_of(sums, lses, targets.weights, temperature), kept


def catalogue_sums(hidden, heads, labels, temperature, block):
    """The sums over classes, each (networks, positions), from which the losses follow.

    They are the maximum of the logits, the sum of exp(z - maximum), the logit of the label, and
    with distillation the sum and the moment of exp((z - maximum) / temperature).
    """
    networks, positions, _ = hidden.shape

    def visit(first, size, carry):
        hits = label_hits(labels, first, size)
        logits, _ = block_logits(hidden, heads, first, size)
        total = sum(logits)
        return [
            _accumulate(sums, own, networks * own - total, hits, temperature)
            for sums, own in zip(carry, logits, strict=True)
        ]

    zeros = jnp.zeros(positions, accumulation_dtype(hidden.dtype))
    kd_sums = () if temperature is None else (zeros, zeros)
    start = [(jnp.full_like(zeros, -jnp.inf), zeros, zeros, *kd_sums)] * networks
    sums = over_blocks(visit, start, heads.kernel.shape[1], block)
    return tuple(map(jnp.stack, zip(*sums, strict=True)))


def normalisers(sums, temperature):
    """The log-sum-exp of the logits, and that of the logits / temperature, None without it."""
    top, sum_one, _, *kd_sums = sums
    lse_soft = top / temperature + jnp.log(kd_sums[0]) if kd_sums else None
    return top + jnp.log(sum_one), lse_soft


def losses_of(sums, lses, weights, temperature):
    """Cross-entropy and distillation."""
    _, _, picked, *kd_sums = sums
    cross_entropy = ((lses[0] - picked).sum(0) * weights).sum()
    if not kd_sums:
        return cross_entropy, jnp.zeros_like(cross_entropy)
    sum_soft, moment = kd_sums
    distillation = ((moment / sum_soft).sum(0) * weights).sum() / (2 * temperature)
    return cross_entropy, distillation


def _accumulate(sums, logits, lead, hits, temperature):
    """Adds a block to the sums of one network. Here `lead` is N z_n - S."""
    top, sum_one, picked, *kd_sums = sums
    new_top = jnp.maximum(top, logits.max(0))
    shifted = logits - new_top[None]
    new_sums = (
        new_top,
        sum_one * jnp.exp(top - new_top) + jnp.exp(shifted).sum(0),
        picked + jnp.where(hits, logits, 0).sum(0),
    )
    if not kd_sums:
        return new_sums
    sum_soft, moment = kd_sums
    soft = jnp.exp(shifted / temperature)
    old_soft = jnp.exp((top - new_top) / temperature)
    return (*new_sums, sum_soft * old_soft + soft.sum(0), moment * old_soft + (soft * lead).sum(0))


def over_blocks(visit, carry, classes, block):
    """Runs visit(first class, classes, carry) over the blocks, of which the last may be smaller."""
    full, rest = divmod(classes, block)
    if full:
        carry = jax.lax.fori_loop(
            np.int32(0), np.int32(full), lambda i, carry: visit(i * block, block, carry), carry
        )
    return visit(np.int32(full * block), rest, carry) if rest else carry


def block_logits(hidden, heads, first, size):
    """Returns logits and kernels of each network for `size` classes from `first`.

    The logits are (classes, positions). The networks are computed one at a time, because plain
    products run faster than batched ones, and the operations after them fuse.
    """
    kernel, bias = (jax.lax.dynamic_slice_in_dim(x, first, size, axis=1) for x in heads)
    # Rounding before the conversion keeps XLA from converting the whole kernel ahead of the loop.
    precision = jnp.finfo(hidden.dtype)
    kernel = jax.lax.reduce_precision(kernel, precision.nexp, precision.nmant).astype(hidden.dtype)
    bias = bias.astype(accumulation_dtype(hidden.dtype))
    logits = [
        jnp.einsum('cd,pd->cp', k, h, preferred_element_type=b.dtype) + b[:, None]
        for k, h, b in zip(kernel, hidden, bias, strict=True)
    ]
    return logits, kernel


def label_hits(labels, first, size):
    """Returns whether each of `size` classes from `first` is the label of each position."""
    return (first + jnp.arange(size, dtype=labels.dtype))[:, None] == labels[None]


def _backward(block, kept, cotangents):
    d_hidden, d_heads = catalogue_gradients(block, kept, cotangents)
    return d_hidden.astype(kept[0].dtype), d_heads, None, None


def catalogue_gradients(block, kept, cotangents):
    """The gradients of hidden states and item heads.

    Those of the hidden states have the type in which sums are accumulated.
    """
    hidden, heads, (labels, weights), temperature, (lse_one, lse_soft) = kept
    ce_grad, kd_grad = cotangents
    networks = len(hidden)
    scale_ce = ce_grad * weights[None]

    def visit(first, size, carry):
        hits = label_hits(labels, first, size).astype(lse_one.dtype)
        logits, kernels = block_logits(hidden, heads, first, size)
        d_logits = [
            scale_ce * (jnp.exp(z - lse[None]) - hits)
            for z, lse in zip(logits, lse_one, strict=True)
        ]
        if temperature is not None:
            scale_kd = kd_grad / (2 * temperature) * weights[None]
            soft = [
                jnp.exp(z / temperature - lse[None])
                for z, lse in zip(logits, lse_soft, strict=True)
            ]
            total = sum(soft)
            d_logits = [
                d + scale_kd * (networks * q - total) for d, q in zip(d_logits, soft, strict=True)
            ]
        return with_gradients(carry, d_logits, hidden, kernels, first)

    start = no_gradients(hidden, heads)
    d_hidden, d_heads = over_blocks(visit, start, heads.kernel.shape[1], block)
    return jnp.stack(d_hidden), d_heads


def no_gradients(hidden, heads):
    """Zeros to which `with_gradients` adds: a list over networks, and item heads."""
    zeros = jnp.zeros(hidden.shape[1:], accumulation_dtype(hidden.dtype))
    return [zeros] * len(hidden), jax.tree.map(jnp.zeros_like, heads)


def with_gradients(so_far, d_logits, hidden, kernels, first):
    """Adds what the gradients of a block's logits give to hidden states and item heads."""
    d_hidden, d_heads = so_far
    narrow = [d.astype(hidden.dtype) for d in d_logits]
    of_block = ItemHeads(
        jnp.stack(
            [
                jnp.einsum('cp,pd->cd', d, h, preferred_element_type=d_heads.kernel.dtype)
                for d, h in zip(narrow, hidden, strict=True)
            ]
        ),
        jnp.stack([d.sum(1) for d in d_logits]).astype(d_heads.bias.dtype),
    )
    return (
        [
            own + jnp.einsum('cp,cd->pd', d, k, preferred_element_type=own.dtype)
            for own, d, k in zip(d_hidden, narrow, kernels, strict=True)
        ],
        jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=1),
            d_heads,
            of_block,
        ),
    )


catalogue_loss.defvjp(_forward, _backward)
