"""Which floating-point type is used where."""

import jax.numpy as jnp
import numpy as np

from emkd_jax.errors import UserError


def activation_dtype(name: str, platform: str) -> np.dtype:
    """The dtype `model.dtype` names; 'auto' is bfloat16 where matrix units take it.

    Raises:
      UserError: there is no such choice.
    """
    if name == 'auto':
        name = 'float32' if platform == 'cpu' else 'bfloat16'
    if name not in ('float32', 'bfloat16'):
        raise UserError(f"model.dtype is '{name}'; use auto, float32 or bfloat16.")
    return jnp.dtype(name)


def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """What statistics, logits and losses of `dtype` activations are held in: float32 at least."""
    return jnp.dtype('float64' if dtype == jnp.float64 else 'float32')
