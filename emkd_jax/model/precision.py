"""The floating-point types of activations and of sums."""

import jax.numpy as jnp
import numpy as np


def activation_dtype(name: str, platform: str) -> np.dtype:
    """The type of activations that `model.dtype` names; 'auto' is bfloat16 on accelerators."""
    if name == 'auto':
        name = 'float32' if platform == 'cpu' else 'bfloat16'
    return jnp.dtype(name)


def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """The type of statistics, logits and losses of activations: float32 or wider."""
    return jnp.dtype('float64' if dtype == jnp.float64 else 'float32')
