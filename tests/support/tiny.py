"""A run small enough for tests: 40 users, 30 items, every part of the objective on."""

import jax
import numpy as np

from emkd_jax.config.options import base_config
from emkd_jax.data.dataset import Dataset, Ragged
from emkd_jax.data.splits import leave_one_out
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.runs.experiment import Experiment
from emkd_jax.training.state import make_optimizer

NUM_ITEMS, NUM_ATTRIBUTES = 30, 6


def tiny_config(**changes):
    """The base configuration in small; `changes` are written `train__batch_size=8`."""
    config = base_config()
    config.update(
        {
            'name': 'tiny',
            'model': {'max_len': 8, 'hidden_dim': 16, 'num_heads': 2},
            'objective': {'task': 'cloze', 'num_views': 3, 'mask_prob': 0.3},
            'train': {'batch_size': 8, 'num_epochs': 2},
            'eval': {'first_epoch': 1, 'every_epochs': 1, 'batch_size': 16},
        }
    )
    config.data.name = 'tiny'
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config


def tiny_data(seed=0):
    """Histories of 4 to 12 items; an item's successor is mostly the next item."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(40):
        steps = np.where(rng.random(rng.integers(4, 13)) < 0.8, 1, rng.integers(1, NUM_ITEMS))
        rows.append((rng.integers(NUM_ITEMS) + np.cumsum(steps)) % NUM_ITEMS + 1)
    attributes = np.full((NUM_ITEMS + 1, 2), -1, np.int32)
    attributes[1:] = rng.integers(1, NUM_ATTRIBUTES + 1, (NUM_ITEMS, 2))
    attributes[0, 0] = 0
    return Dataset(
        name='tiny',
        histories=Ragged.from_rows(rows),
        item_attributes=attributes,
        num_items=NUM_ITEMS,
        num_attributes=NUM_ATTRIBUTES,
        user_ids=np.arange(40),
        item_ids=np.arange(1, NUM_ITEMS + 1),
        stand_in=False,
    )


def tiny_experiment(config=None, data=None):
    """The experiment of `tiny_config` on `tiny_data`."""
    config, data = config or tiny_config(), data or tiny_data()
    return Experiment(
        config,
        data,
        leave_one_out(data),
        make_ensemble(
            config, data.num_items, data.num_attributes, item_attributes=data.item_attributes
        ),
        make_optimizer(config.optimizer.learning_rate),
    )


def without_key_bias(tree):
    """{path: array} of a tree without the bias of the keys of attention.

    Softmax ignores it: its gradient is a rounding error, which Adam magnifies.
    """
    kept = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path)
        if name.endswith("['qkv_bias']"):
            third = leaf.shape[-1] // 3
            kept[name] = np.delete(leaf, np.arange(third, 2 * third), axis=-1)
        elif not ('attention' in name and name.endswith("['key']['bias']")):
            kept[name] = leaf
    return kept
