"""Amazon Toys and Games (5-core): 19,412 users, 11,924 items, 167,597 interactions.

    python launch.py --config=configs/toys.py            EMKD with the published values
    python launch.py --config=configs/toys.py:released   as released: float32, with all quirks
    python launch.py --config=configs/toys.py:best       the best accuracy known here
    python launch.py --config=configs/toys.py:quick      a small model

Needs: a connection to GitHub at the first start, or the files of the authors in
    --config.data.source=FOLDER. --config.data.stand_in=True trains on made-up data instead.
Takes: published and released on one GPU: not measured yet; quick on two CPU cores: 4 minutes.
Expect (HR@10 / NDCG@10, test, window rule): quick .022 / .012; the others: not measured yet.
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config()
    config.data.name = 'toys'
    return apply_variant(config, variant)
