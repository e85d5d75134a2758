"""Hidden states at chosen positions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def at_positions(
    hidden: Float[Array, 'networks rows slots dim'],
    row: Int[Array, ' positions'],
    slot: Int[Array, ' positions'],
) -> tuple[Float[Array, 'networks rows slots dim'], Float[Array, 'networks positions dim']]:
    """(hidden, hidden[:, row, slot]).

    What goes on to use all hidden states must use those that come out: their gradient is then
    added to in place, where a gather's own would fill an array of zeros.
    """
    return hidden, hidden[_index(hidden, row, slot)]


def _index(hidden, row, slot):
    return jnp.arange(len(hidden))[:, None], row[None], slot[None]


def _forward(hidden, row, slot):
    return at_positions(hidden, row, slot), (row, slot)


def _backward(indices, gradients):
    toward_hidden, toward_chosen = gradients
    index = _index(toward_hidden, *indices)
    summed = toward_hidden.at[index].add(toward_chosen)
    nothing = np.zeros(indices[0].shape, jax.dtypes.float0)
    return summed, nothing, nothing


at_positions.defvjp(_forward, _backward)
