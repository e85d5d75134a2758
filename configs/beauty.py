"""Amazon Beauty (5-core): 22,363 users, 12,101 items, 198,502 interactions.

    python launch.py --config=configs/beauty.py            EMKD with the published values
    python launch.py --config=configs/beauty.py:released   as released: float32, with all quirks
    python launch.py --config=configs/beauty.py:best       the best accuracy known here
    python launch.py --config=configs/beauty.py:quick      a small model

Needs: a connection to GitHub at the first start, or the files of the authors in
    --config.data.source=FOLDER. --config.data.stand_in=True trains on made-up data instead.
Takes: best 28 to 47 minutes on one CPU core, quick 7 minutes on two, both with other work beside
    it. The others need an accelerator, and have not been measured yet.
Expect (HR@10 / NDCG@10, test): best .114 / .069 (without the items of the whole history),
    quick .033 / .018 (without those of the input window). The others: not measured yet.
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config()
    config.data.name = 'beauty'
    config.model.max_len = 15
    config = apply_variant(config, variant)
    if variant == 'best':  # networks of different kinds make different mistakes
        config.ensemble.members = 'sasrec_plus,bsarec,hstu'
    return config
