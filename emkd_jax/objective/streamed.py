"""Masked-item prediction and distillation in one pass over blocks of the catalogue.

No (positions x catalogue) array is ever stored, forward or backward. With z_n the logits of network
n at one position, q_n = softmax(z_n / t) and L_n = logsumexp(z_n / t),

    KL(q_a || q_b) = E_{q_a}[z_a - z_b] / t - L_a + L_b,

so running maxima, the sums of exponentials at temperatures 1 and t and the N x N moments
E_{q_a}[z_b] give the cross-entropy and the divergence of every pair. The backward pass computes
each block of logits again; with g and k the cotangents of the two sums, its gradient is

    w_p ( g (softmax(z_n) - onehot) + k / (2 t) (N q_n - sum_b q_b) ).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from emkd_jax.precision import wide


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def streamed_loss(
    hidden: Float[Array, 'networks positions dim'],
    kernel: Float[Array, 'networks classes dim'],
    bias: Float[Array, 'networks classes'],
    labels: Int[Array, ' positions'],
    weights: Float[Array, ' positions'],
    temperature: float,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """(cross_entropy, distillation) of `masked_items`, of the logits hidden x kernel + bias.

    Args:
      hidden: hidden states at the masked positions.
      kernel, bias: of the item heads; class 0 is the padding item.
      labels: the true items.
      weights: of the positions; 0 for unused places of the buffer. Not differentiated.
      temperature: of the distillation.
      block: classes a pass holds at a time; temporary memory grows with positions x block.
    """
    return _forward(hidden, kernel, bias, labels, weights, temperature, block)[0]


def _forward(hidden, kernel, bias, labels, weights, temperature, block):
    networks, positions, _ = hidden.shape
    classes = kernel.shape[1]
    block = min(block, classes)

    def visit(index, carry):
        top, sum_one, sum_soft, moments, picked = carry
        logits, fresh, ids, _ = _logits(hidden, kernel, bias, index, block)
        new_top = jnp.maximum(top, jnp.where(fresh, logits, -jnp.inf).max(2))
        shifted = logits - new_top[..., None]
        one = jnp.where(fresh, jnp.exp(shifted), 0)
        soft = jnp.where(fresh, jnp.exp(shifted / temperature), 0)
        old_one = jnp.exp(top - new_top)
        old_soft = jnp.exp((top - new_top) / temperature)
        hit = fresh & (ids == labels[None, :, None])
        return (
            new_top,
            sum_one * old_one + one.sum(2),
            sum_soft * old_soft + soft.sum(2),
            moments * old_soft[:, None] + jnp.einsum('apc,bpc->abp', soft, logits),
            picked + jnp.where(hit, logits, 0).sum(2),
        )

    zeros = jnp.zeros((networks, positions), wide(hidden.dtype))
    start = (
        jnp.full_like(zeros, -jnp.inf), zeros, zeros,
        jnp.zeros((networks, networks, positions), zeros.dtype), zeros,
    )
    top, sum_one, sum_soft, moments, picked = jax.lax.fori_loop(
        np.int32(0), np.int32(-(-classes // block)), visit, start
    )
    lse_one = top + jnp.log(sum_one)
    lse_soft = top / temperature + jnp.log(sum_soft)
    moments /= sum_soft[:, None]
    own = jnp.einsum('aap->ap', moments)
    divergence = (own[:, None] - moments) / temperature - lse_soft[:, None] + lse_soft[None]
    cross_entropy = ((lse_one - picked).sum(0) * weights).sum()
    distillation = (divergence.sum((0, 1)) * weights).sum() / 2
    return (cross_entropy, distillation), (lse_one, lse_soft)


def _logits(hidden, kernel, bias, index, block):
    """Block `index` of the logits, which of its classes are new, their ids and their kernel.

    A ragged last block starts early, so that no padded copy of the kernel is made; classes the
    block before has seen are not fresh.
    """
    classes = kernel.shape[1]
    first = jnp.minimum(index * block, classes - block)
    kernel = jax.lax.dynamic_slice_in_dim(kernel, first, block, axis=1).astype(hidden.dtype)
    bias = jax.lax.dynamic_slice_in_dim(bias, first, block, axis=1)
    logits = jnp.einsum('npd,ncd->npc', hidden, kernel, preferred_element_type=wide(hidden.dtype))
    ids = (first + jnp.arange(block, dtype=jnp.int32))[None, None]
    return logits + bias[:, None].astype(logits.dtype), ids >= index * block, ids, kernel


def _forward_rule(hidden, kernel, bias, labels, weights, temperature, block):
    losses, lses = _forward(hidden, kernel, bias, labels, weights, temperature, block)
    return losses, (hidden, kernel, bias, labels, weights, *lses)


def _backward_rule(temperature, block, residuals, cotangents):
    hidden, kernel, bias, labels, weights, lse_one, lse_soft = residuals
    toward_ce, toward_kd = cotangents
    networks, classes, _ = kernel.shape
    block = min(block, classes)
    scale_ce = toward_ce * weights[None, :, None]
    scale_kd = toward_kd / (2 * temperature) * weights[None, :, None]

    def visit(index, carry):
        d_hidden, d_kernel, d_bias = carry
        logits, fresh, ids, weight = _logits(hidden, kernel, bias, index, block)
        one = jnp.exp(logits - lse_one[..., None])
        soft = jnp.exp(logits / temperature - lse_soft[..., None])
        hit = (ids == labels[None, :, None]).astype(logits.dtype)
        d_logits = scale_ce * (one - hit) + scale_kd * (
            networks * soft - soft.sum(0, keepdims=True)
        )
        d_logits = jnp.where(fresh, d_logits, 0)
        first = jnp.minimum(index * block, classes - block)
        narrow = d_logits.astype(hidden.dtype)
        d_hidden += jnp.einsum(
            'npc,ncd->npd', narrow, weight, preferred_element_type=d_hidden.dtype
        )
        d_kernel = _add_slice(d_kernel, jnp.einsum(
            'npc,npd->ncd', narrow, hidden, preferred_element_type=d_kernel.dtype
        ), first)
        return d_hidden, d_kernel, _add_slice(d_bias, d_logits.sum(1), first)

    start = (
        jnp.zeros(hidden.shape, wide(hidden.dtype)),
        jnp.zeros_like(kernel), jnp.zeros_like(bias),
    )
    d_hidden, d_kernel, d_bias = jax.lax.fori_loop(
        np.int32(0), np.int32(-(-classes // block)), visit, start
    )
    no_label_gradient = np.zeros(labels.shape, jax.dtypes.float0)
    return d_hidden.astype(hidden.dtype), d_kernel, d_bias, no_label_gradient, None


def _add_slice(whole, part, first):
    old = jax.lax.dynamic_slice_in_dim(whole, first, part.shape[1], axis=1)
    return jax.lax.dynamic_update_slice_in_dim(whole, old + part, first, axis=1)


streamed_loss.defvjp(_forward_rule, _backward_rule)
