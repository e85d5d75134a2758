"""Contrast within and across networks (ICL and CCL, Section 3.4 of the EMKD paper)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from emkd_jax.model.precision import accumulation_dtype


class Contrast(NamedTuple):
    """`icl` is a sum over networks, `ccl` a sum over ordered pairs of different networks."""

    icl: Float[Array, '']
    ccl: Float[Array, '']


def contrastive_loss(
    copies: Float[Array, 'networks copies rows slots dim'],
    valid: Bool[Array, ' rows'],
    temperature: float | Float[Array, ''],
    self_contrast: str,
    axis_name: str | None = None,
) -> Contrast:
    """Computes this device's share of both losses. The sum over devices is the global value.

    The loss of an anchor of network x against network y, at sequence s of the batch, is

        loss[x, y, s] = logsumexp_k S[s, k] - logsumexp_m cos(h_x(s), h_y(s^m)) / t
        S[s, k] = cos(h_x(s), h_y(k)) / t   for the original sequences k of the global batch

    ICL = sum_x mean_s loss[x, x, s],  CCL = sum_{x != y} mean_s loss[x, y, s]. The
    denominator does not contain the positives.

    Args:
      copies: hidden states of the views of each sequence and, as the last copy, of the sequence
        itself, with their padding slots. One array holds both, because splitting would copy them.
      valid: False for rows that fill up a short batch. They are neither anchors nor negatives.
      temperature: t.
      self_contrast: how a sequence enters its own denominator. 'zero' sets S[s, s] = 0, so that it
        adds exp(0) = 1, as in the released code. 'excluded' leaves it out.
      axis_name: the pmapped axis over which the global batch is spread. None means that this device
        has all rows.
    """
    dtype = accumulation_dtype(copies.dtype)
    squares = jnp.square(copies.astype(dtype)).sum((-2, -1))
    norm = jnp.sqrt(jnp.maximum(squares, 1e-16))  # so that a zero vector has a gradient
    anchors, anchor_norm = copies[:, -1], norm[:, -1]
    negatives, negative_norm, negative_valid, first = anchors, anchor_norm, valid, 0
    count = valid.sum().astype(dtype)
    if axis_name is not None:
        negatives, negative_norm, negative_valid = jax.lax.all_gather(
            (negatives, negative_norm, valid), axis_name
        )
        negatives, negative_norm = (
            jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])
            for x in (negatives, negative_norm)
        )
        negative_valid = negative_valid.reshape(-1)
        first = jax.lax.axis_index(axis_name) * valid.shape[0]
        count = jax.lax.psum(count, axis_name)

    # The norms divide the small Gram matrices instead of the large hidden states.
    gram = jnp.einsum('xsld,ykld->xysk', anchors, negatives, preferred_element_type=dtype)
    gram /= anchor_norm[:, None, :, None] * negative_norm[None, :, None, :] * temperature
    itself = (first + jnp.arange(valid.shape[0]))[:, None] == jnp.arange(gram.shape[3])[None, :]
    others = negative_valid[None, :] & ~itself
    if self_contrast == 'zero':
        counted, gram = others | itself, jnp.where(itself[None, None], 0, gram)
    else:
        counted = others
    denominator = _logsumexp_where(gram, counted)

    positive = jnp.einsum('xsld,ycsld->xysc', anchors, copies, preferred_element_type=dtype)
    positive /= anchor_norm[:, None, :, None] * jnp.moveaxis(norm, 1, 2)[None] * temperature
    losses = denominator - jax.nn.logsumexp(positive[..., :-1], axis=-1)
    per_pair = jnp.where(valid[None, None], losses, 0).sum(2) / jnp.maximum(count, 1)
    icl = jnp.trace(per_pair)
    return Contrast(icl, per_pair.sum() - icl)


def _logsumexp_where(
    gram: Float[Array, 'x y rows keys'], counted: Bool[Array, 'rows keys']
) -> Float[Array, 'x y rows']:
    """Returns the logsumexp over the counted keys, or 0 for a row that has none."""
    any_counted = counted.any(-1)
    safe = counted | ~any_counted[:, None]
    sums = jax.nn.logsumexp(jnp.where(safe[None, None], gram, -jnp.inf), axis=-1)
    return jnp.where(any_counted[None, None], sums, 0)
