"""GRU4Rec: a recurrent network over item sequences (Hidasi et al., ICLR 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders.base import Hidden, HiddenOut, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import Linear, linear, linear_params, segment_starts


class GRULayer(nn.Module):
    """Gated recurrent units (Cho et al., EMNLP 2014), with the reset gate after the product.

    Everything that does not depend on the state is computed for all slots at once. Each step of the
    scan then has a single product, that of the state and its matrix.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Hidden, segments: Segments) -> Hidden:
        """Computes the state at every slot, from zero in each segment; padding keeps it at zero."""
        dim = x.shape[-1]
        from_input = Linear(3 * dim, self.dtype, name='input')(x)
        kernel, bias = linear_params(self, 'state_', 3 * dim, dim)

        def step(state, slot):
            from_input, starts, real = slot
            state = jnp.where(starts[:, None], 0, state)
            from_state = jnp.split(linear(state, kernel, bias), 3, axis=-1)
            update, reset, new = jnp.split(from_input, 3, axis=-1)
            update = jax.nn.sigmoid(update + from_state[0])
            reset = jax.nn.sigmoid(reset + from_state[1])
            new = jnp.tanh(new + reset * from_state[2])
            state = jnp.where(real[:, None], (1 - update) * new + update * state, state)
            return state, state

        slots = jnp.moveaxis(from_input, 1, 0), segment_starts(segments).T, (segments > 0).T
        _, states = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), slots)
        return jnp.moveaxis(states, 0, 1)


class GRU4Rec(SequenceEncoder):
    """Causal encoder with `num_blocks` GRU layers and a linear map.

    The state is zero before the first real item, so padding leaves no trace.
    """

    packs = True
    has_slot_embeddings = False
    embedding_scale = 1.0

    def blocks(self, x: Hidden, segments: Segments, keys: SlotKeys, last_only: bool) -> HiddenOut:
        """Applies the GRU layers, with dropout after each, and the linear map."""
        for layer in range(self.num_blocks):
            x = GRULayer(self.dtype, name=f'gru_{layer}')(x, segments)
            x = hash_rng.dropout(x, keys, layer + 1, self.dropout)
        x = x[:, -1:] if last_only else x
        return Linear(self.dim, self.dtype, name='out')(x)
