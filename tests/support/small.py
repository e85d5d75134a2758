"""Batches for the tiny ensemble, for tests of the parts of a train step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.objective.emkd import Batch, Capacity
from emkd_jax.objective.hyper_parameters import hyper_parameters
from emkd_jax.objective.masking import draw_views
from tests.support.tiny import NUM_ATTRIBUTES, NUM_ITEMS, tiny_config

MAX_LEN = tiny_config().model.max_len
CAPACITY = Capacity(128, 48)  # more masked slots than eight sequences can have


KEY = jax.random.key(7)


def ensemble(**changes):
    """The ensemble of the tiny configuration with `changes`."""
    return make_ensemble(tiny_config(**changes), NUM_ITEMS, NUM_ATTRIBUTES)


@functools.cache
def params(ensemble):
    """The initial parameters of an ensemble, from KEY."""
    return jax.jit(ensemble.init)(KEY)


WEIGHTS = {'kd_weight': 0.1, 'contrast_weight': 0.2, 'attribute_weight': 0.5}


def options(**changes):
    """Options of the objective with which every part matters."""
    config = tiny_config().objective
    config.update(WEIGHTS | changes)
    return config


def hyper(options):
    """The hyper-parameters for these options of the objective."""
    config = tiny_config()
    config.objective.update(options)
    return hyper_parameters(config)


def sequences(rows, seed=0):
    """Left-padded histories of 1 to MAX_LEN items."""
    rng = np.random.default_rng(seed)
    items = rng.integers(1, NUM_ITEMS + 1, (rows, MAX_LEN))
    lengths = rng.integers(1, MAX_LEN + 1, rows)
    return jnp.asarray(
        np.where(np.arange(MAX_LEN) >= MAX_LEN - lengths[:, None], items, 0), jnp.int32
    )


def item_attributes(seed=0):
    """One or two attributes for each item; row 0 is the padding item."""
    rng = np.random.default_rng(seed)
    lists = rng.integers(1, NUM_ATTRIBUTES + 1, (NUM_ITEMS + 1, 2))
    lists[::3, 1] = -1
    lists[0] = 0, -1
    return jnp.asarray(lists, jnp.int32)


def batch(items, options, valid=None, row_ids=None):
    """The batch of `items` and of masked views drawn from them."""
    valid = jnp.ones(len(items), bool) if valid is None else valid
    row_ids = jnp.arange(len(items)) if row_ids is None else row_ids
    items = jnp.where(valid[:, None], items, 0)
    views = draw_views(
        jnp.uint32(5), items, row_ids, options.num_views, NUM_ITEMS, options.mask_prob
    )
    return Batch(items, views, valid, row_ids)
