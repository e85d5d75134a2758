"""A small model on a small made-up data set, to see whether everything runs on this machine.

    python launch.py --config=configs/quickstart.py

Needs: no data and no network.
Takes: 22 s on two CPU cores.
Expect: figures without meaning, since the data is made up.
"""

from emkd_jax.config import base_config
from emkd_jax.errors import UserError


def get_config(variant=''):
    if variant:
        raise UserError(f"configs/quickstart.py has no variants, so no '{variant}'; leave it out.")
    config = base_config()
    config.name = 'quickstart'
    config.data.name = 'quickstart'
    config.data.stand_in = True
    config.model.max_len = 10
    config.model.hidden_dim = 32
    config.ensemble.num_networks = 2
    config.objective.num_views = 2
    config.train.batch_size = 64
    config.train.num_epochs = 5
    config.eval.first_epoch = 1
    config.eval.every_epochs = 1
    return config
