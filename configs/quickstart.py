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
    config.data.update(name='quickstart', stand_in=True)
    config.model.update(max_len=10, hidden_dim=32)
    config.ensemble.num_networks = 2
    config.objective.num_views = 2
    config.train.update(batch_size=64, num_epochs=5)
    config.eval.update(first_epoch=1, every_epochs=1)
    return config
