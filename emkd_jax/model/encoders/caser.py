"""Caser: convolutions over the last items as over an image (Tang and Wang, WSDM 2018).

It has no user embeddings, so that it can serve users who were not in the training data.
"""

import functools

import jax
import jax.numpy as jnp

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import Linear


class Caser(SequenceEncoder):
    """Causal encoder of the last `window` items.

    There are `horizontal` filters of each height 1..window. They slide over the items and keep
    their largest output. The `vertical` filters are weighted sums of the items. Both feed a linear
    layer with ReLU.
    """

    window: int = 5
    horizontal: int = 16
    vertical: int = 4

    has_slot_embeddings = False
    embedding_scale = 1.0
    drops_embeddings = False

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies the filters to the window of each slot."""
        x = jnp.pad(x, ((0, 0), (self.window - 1, 0), (0, 0)))
        if last_only:
            x = x[:, -self.window :]
        slots = x.shape[1] - self.window + 1

        def shifts(values, count, length):
            return [values[:, first : first + length] for first in range(count)]

        features = []
        for height in range(1, self.window + 1):
            free = self.window - height  # a filter of this height fits at free + 1 places
            strips = jnp.concatenate(shifts(x, height, slots + free), axis=-1)
            filters = Linear(self.horizontal, self.dtype, name=f'horizontal_{height}')
            outputs = jax.nn.relu(filters(strips))
            features.append(functools.reduce(jnp.maximum, shifts(outputs, free + 1, slots)))
        images = jnp.stack(shifts(x, self.window, slots), axis=-1)
        weighted = Linear(self.vertical, self.dtype, name='vertical')(images)
        features.append(weighted.reshape(*weighted.shape[:2], -1))
        joined = hash_rng.dropout(jnp.concatenate(features, -1), keys, 0, self.dropout)
        return jax.nn.relu(Linear(self.dim, self.dtype, name='out')(joined))
