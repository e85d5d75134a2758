"""An encoder as a user would write it: in one file, without a change to the package."""

import jax
import jax.numpy as jnp

from emkd_jax import SequenceEncoder
from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.layers import Linear

NUMBER = 3  # not an encoder


class MeanOfItems(SequenceEncoder):
    """A weighted sum of the earlier items with decaying weights, and layers with ReLU."""

    has_slot_embeddings = False

    def blocks(self, x, segments, keys, last_only):
        """Computes the sum, and then applies the layers."""
        slot = jnp.arange(segments.shape[1])
        age = (slot[:, None] - slot[None, :]).astype(jnp.float32)
        weights = jnp.where(
            (age >= 0)[None] & (segments > 0)[:, None], 0.3 ** jnp.abs(age)[None], 0
        )
        x = jnp.einsum('rqk,rkd->rqd', weights.astype(x.dtype), x)
        if last_only:
            x = x[:, -1:]
        for block, block_keys, _ in self.each_block(keys, last_only):
            x = x + jax.nn.relu(Linear(self.dim, self.dtype, name=f'layer_{block}')(x))
            x = hash_rng.dropout(x, block_keys, 1, self.dropout)
        return Linear(self.dim, self.dtype, name='out')(x)
