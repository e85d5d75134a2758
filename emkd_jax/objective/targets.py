"""What the networks predict, as the losses over the catalogue read it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Targets(NamedTuple):
    """The true items at the positions that have labels.

    Attributes:
      labels: the true item at each position, 0 where there is none.
      weights: the factor of each position in a sum over positions, 0 where there is no label. The
        losses give it no gradient.
    """

    labels: Int[Array, ' positions']
    weights: Float[Array, ' positions']

    def astype(self, dtype: jnp.dtype) -> 'Targets':
        """Returns the same targets with weights of type `dtype`."""
        return self._replace(weights=self.weights.astype(dtype))
