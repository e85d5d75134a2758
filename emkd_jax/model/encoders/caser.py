"""Caser: convolutions over the last items as over an image (Tang and Wang, WSDM 2018).

The user embedding is left out, so that people who were never seen in training can be served.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import SequenceEncoder
from emkd_jax.model.encoders.layers import Linear


class Caser(SequenceEncoder):
    """Causal encoder of the last `window` items.

    Horizontal filters, `horizontal` of each height 1..window, slide over the items and keep their
    largest answer; `vertical` filters weigh the items. Both feed a layer with ReLU.
    """

    window: int = 5
    horizontal: int = 16
    vertical: int = 4

    has_slot_embeddings = False
    embedding_scale = 1.0
    drops_embeddings = False

    def blocks(
        self,
        x: Float[Array, 'rows slots dim'],
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None,
        last_only: bool,
    ) -> Float[Array, 'rows slots_out dim']:
        """The convolutions of every slot's window."""
        x = jnp.pad(x, ((0, 0), (self.window - 1, 0), (0, 0)))
        if last_only:
            x = x[:, -self.window :]
        slots = x.shape[1] - self.window + 1

        def shifts(values, count, length):
            return [values[:, first : first + length] for first in range(count)]

        features = []
        for height in range(1, self.window + 1):
            free = self.window - height  # places in the window, less one, for a filter this high
            strips = jnp.concatenate(shifts(x, height, slots + free), axis=-1)
            filters = Linear(self.horizontal, self.dtype, name=f'horizontal_{height}')
            answers = jax.nn.relu(filters(strips))
            features.append(functools.reduce(jnp.maximum, shifts(answers, free + 1, slots)))
        images = jnp.stack(shifts(x, self.window, slots), axis=-1)
        weighed = Linear(self.vertical, self.dtype, name='vertical')(images)
        features.append(weighed.reshape(*weighed.shape[:2], -1))
        joined = hash_rng.dropout(jnp.concatenate(features, -1), keys, 0, self.dropout)
        return jax.nn.relu(Linear(self.dim, self.dtype, name='out')(joined))
