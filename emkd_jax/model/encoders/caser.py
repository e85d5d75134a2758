"""Caser: convolutions over the last items as over an image (Tang and Wang, WSDM 2018).

Without the user embedding, so that people never seen in training can be served.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from emkd_jax.model import hash_rng as counted
from emkd_jax.model.encoders.layers import ItemEmbedding, Linear, shift_right


class Caser(nn.Module):
    """Causal encoder of the last `window` items; else as `BERT4Rec`.

    Horizontal filters, `horizontal` of each height 1..window, slide over the items and keep their
    largest answer; `vertical` filters weigh the items. Both go through a ReLU layer.
    """

    num_items: int
    max_len: int
    dim: int
    dropout: counted.Rate
    dtype: jnp.dtype
    window: int = 5
    horizontal: int = 16
    vertical: int = 4

    @nn.compact
    def __call__(
        self,
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None = None,
        last_only: bool = False,
    ) -> Float[Array, 'rows slots_out dim']:
        """Hidden states; slot t sees the `window` items before it."""
        x = ItemEmbedding(
            self.num_items, self.max_len, self.dim, self.dtype, with_slots=False, name='embedding'
        )(shift_right(items))
        x = jnp.pad(x, ((0, 0), (self.window - 1, 0), (0, 0)))
        if last_only:
            x = x[:, -self.window :]
        slots = x.shape[1] - self.window + 1

        def shifts(of, count, length):
            return [of[:, first : first + length] for first in range(count)]

        found = []
        for height in range(1, self.window + 1):
            free = self.window - height  # places in the window, less one, of a filter so high
            strips = jnp.concatenate(shifts(x, height, slots + free), axis=-1)
            filters = Linear(self.horizontal, self.dtype, name=f'horizontal_{height}')
            answers = jax.nn.relu(filters(strips))
            found.append(functools.reduce(jnp.maximum, shifts(answers, free + 1, slots)))
        images = jnp.stack(shifts(x, self.window, slots), axis=-1)
        weighed = Linear(self.vertical, self.dtype, name='vertical')(images)
        found.append(weighed.reshape(*weighed.shape[:2], -1))
        features = counted.dropout(jnp.concatenate(found, -1), keys, 0, self.dropout)
        return jax.nn.relu(Linear(self.dim, self.dtype, name='out')(features))
