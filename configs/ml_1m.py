"""MovieLens-1M: 6,040 users, 3,706 items, 1,000,209 interactions.

    python launch.py --config=configs/ml_1m.py            EMKD with the published values
    python launch.py --config=configs/ml_1m.py:released   as released: float32, with all quirks
    python launch.py --config=configs/ml_1m.py:best       the best accuracy known here
    python launch.py --config=configs/ml_1m.py:quick      a small model

Needs: a connection to GitHub at the first start, or the files of the authors in
    --config.data.source=FOLDER. --config.data.stand_in=True trains on made-up data instead.
Takes: best over three hours on one CPU core, quick 13 minutes on two, both with other work beside
    it. 20 epochs of best have 19,880 steps, of 0.21 s each on two CPU cores with no other work.
    The others need an accelerator, and have not been measured yet.
Expect (HR@10 / NDCG@10, test): best .351 / .209 (without the items of the whole history),
    quick .182 / .092 (without those of the input window). The others: not measured yet.
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config()
    config.data.name = 'ml_1m'
    config.data.window_step = 10
    config.model.update(max_len=40, num_heads=4, dropout=0.2)
    config.objective.temperature = 1.0
    config = apply_variant(config, variant)
    if variant == 'best':  # long histories, and networks that make different mistakes
        config.ensemble.members = 'sasrec_plus,bsarec,hstu'
        config.model.update(max_len=201, hidden_dim=128, dropout=0.3)
        config.train.update(batch_size=5, row_width=200, num_epochs=20)
    return config
