"""Intra- and cross-network contrast (ICL and CCL, Sections 3.4 of the EMKD paper)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from emkd_jax.model.precision import accumulation_dtype


class Contrast(NamedTuple):
    """`icl`: summed over networks. `ccl`: summed over ordered pairs of different networks."""

    icl: Float[Array, '']
    ccl: Float[Array, '']


def contrastive_loss(
    copies: Float[Array, 'networks copies rows slots dim'],
    valid: Bool[Array, ' rows'],
    temperature: float | Float[Array, ''],
    self_contrast: str,
    axis_name: str | None = None,
) -> Contrast:
    """This device's share of both losses; their sum over devices is the global batch's.

    For an anchor of network x against network y, at sequence s of the batch:

        loss[x, y, s] = logsumexp_k S[s, k] - logsumexp_m cos(h_x(s), h_y(s^m)) / t
        S[s, k] = cos(h_x(s), h_y(k)) / t   over the originals k of the global batch

    ICL = sum_x mean_s loss[x, x, s],  CCL = sum_{x != y} mean_s loss[x, y, s]. Positives are not in
    the denominator.

    Args:
      copies: hidden states (padding slots included) of the views of each sequence and, last, of the
        sequence itself. They stay in one array, since cutting them apart would copy both parts.
      valid: False for rows that fill up a short batch; they are neither anchors nor negatives.
      temperature: t.
      self_contrast: what a sequence adds to its own denominator. 'zero' sets S[s, s] = 0, as the
        released code does (it adds exp(0) = 1); 'excluded' leaves it out.
      axis_name: the pmapped axis over which the global batch is spread; None: all rows are here.
    """
    dtype = accumulation_dtype(copies.dtype)
    squares = jnp.square(copies.astype(dtype)).sum((-2, -1))
    norm = jnp.sqrt(jnp.maximum(squares, 1e-16))  # a zero vector has a gradient then
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

    # The hidden states are multiplied as they are; the norms divide the small Gram matrices.
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
    """Logsumexp over the counted keys; 0 for a row without any, such as a lone sequence."""
    any_counted = counted.any(-1)
    safe = counted | ~any_counted[:, None]
    sums = jax.nn.logsumexp(jnp.where(safe[None, None], gram, -jnp.inf), axis=-1)
    return jnp.where(any_counted[None, None], sums, 0)
