"""MovieLens ml-latest-small, which comes with the package: 671 users, 3,496 films, 94,794 ratings.

    python launch.py --config=configs/movielens.py         an ensemble of two networks, and counts
    python launch.py --config=configs/movielens.py:quick   a few steps, to see that all works

Needs: nothing. The terms of the data are in emkd_jax/data/movielens_small/TERMS.md.
Takes: 80 seconds of training on two CPU cores.
Expect (HR@10 / NDCG@10, test, without the items of the whole history): .171 / .102.
"""

from emkd_jax.config import apply_variant, base_config
from emkd_jax.errors import UserError


def get_config(variant=''):
    if variant not in ('', 'quick'):
        raise UserError(
            f"configs/movielens.py has no variant '{variant}'; use :quick, or leave it out."
        )
    config = base_config()
    config.data.name = 'movielens'
    config = apply_variant(config, 'best')
    config.name = f'movielens_{variant}' if variant else 'movielens'
    config.model.update(max_len=129, hidden_dim=64, num_blocks=1, dropout=0.4)
    config.ensemble.num_networks = 2
    config.train.update(batch_size=2, row_width=128, num_epochs=14)
    if variant == 'quick':
        config.model.hidden_dim = 16
        config.train.update(batch_size=16, num_epochs=1)
        config.eval.first_epoch = 1
    return config
