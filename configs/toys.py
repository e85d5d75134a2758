"""Amazon Toys and Games (5-core): 19,412 users, 11,924 items, 167,597 interactions.

    python launch.py --config=configs/toys.py            EMKD with the published values
    python launch.py --config=configs/toys.py:released   as released: float32, with all quirks
    python launch.py --config=configs/toys.py:best       the best accuracy known here
    python launch.py --config=configs/toys.py:quick      a small model
    python launch.py distill --workdir=WORKDIR --config.distill.num_networks=3
                                                         three students of a trained ensemble

Needs: a connection to GitHub at the first start, or the files of the authors in
    --config.data.source=FOLDER. --config.data.stand_in=True trains on made-up data instead.
Takes: best half an hour on one CPU core, its students 20 minutes, quick 4 minutes on two. The
    others need an accelerator, and have not been measured yet.
Expect (HR@10 / NDCG@10, test): best .123 / .077 and its students .128 / .079 (without the items
    of the whole history), quick .022 / .012 (without those of the input window). The others: not
    measured yet.
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config()
    config.data.name = 'toys'
    return apply_variant(config, variant)
