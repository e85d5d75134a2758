"""BSARec: self-attention beside a filter of frequencies (Shin et al., AAAI 2024).

Each block adds a share of a filter, which amplifies the high frequencies of a sequence, to a share
of the attention. The authors filter a whole sequence by its Fourier transform and predict from its
last slot alone. Here every slot predicts, so the filter of a slot sees only the slots of its
segment up to it; at the last slot of a sequence, both are the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SlotKeys
from emkd_jax.model.encoders.layers import Mask, positions_in_segments, standard_norm
from emkd_jax.model.encoders.sasrec_plus import SASRecPlus


def low_pass(
    mask: Mask, positions: Float[Array, 'rows queries'], frequencies: int
) -> Float[Array, 'rows queries slots']:
    """Returns the weights with which a low-pass filter sums the slots up to each query.

    A query that is slot number p of its segment sees n = p + 1 slots. Of the Fourier transform of
    these n slots, the filter keeps the lowest `frequencies` (of the n // 2 + 1 that there are), and
    its value at the last of them is sum_s w(p - s) x_s with

        w(distance) = (1 + sum_{k=1}^{frequencies - 1} c_k cos(2 pi k distance / n)) / n.

    Here c_k = 2, but 1 for k = n / 2 and 0 above.
    """
    slots = mask.shape[2]
    distance = jnp.arange(slots)[-mask.shape[1] :, None] - jnp.arange(slots)[None]
    count = positions[:, :, None] + 1
    weights = jnp.ones(mask.shape, positions.dtype)
    for k in range(1, frequencies):
        wave = jnp.cos(2 * jnp.pi * k * distance[None].astype(positions.dtype) / count)
        share = jnp.where(2 * k < count, 2.0, jnp.where(2 * k == count, 1.0, 0.0))
        weights = weights + share.astype(positions.dtype) * wave
    return jnp.where(mask, weights / count, 0)


class BSARec(SASRecPlus):
    """Causal Transformer with a filter of frequencies in each block.

    Attributes:
      share: the share of the filter; that of the attention is 1 - share.
      frequencies: the number of frequencies that count as low, the constant among them.
    """

    share: float = 0.7
    frequencies: int = 3

    def mix(
        self, context: Hidden, mask: Mask, segments: Segments, keys: SlotKeys, block: int
    ) -> HiddenOut:
        """Adds the filter, low + beta^2 high, and the attention."""
        attended = super().mix(context, mask, segments, keys, block)
        queries = mask.shape[1]
        positions = positions_in_segments(segments)[:, -queries:].astype(jnp.float32)
        weights = low_pass(mask, positions, self.frequencies).astype(context.dtype)
        low = jnp.einsum('rqk,rkd->rqd', weights, context)
        beta = self.param(f'beta_{block}', jax.nn.initializers.normal(1.0), (self.dim,))
        high = context[:, -queries:] - low
        filtered = low + jnp.square(beta).astype(low.dtype)[None, None] * high
        filtered = hash_rng.dropout(filtered, keys, 3, self.dropout)
        filtered = standard_norm(filtered, f'filter_norm_{block}')
        return self.share * filtered + (1 - self.share) * attended
