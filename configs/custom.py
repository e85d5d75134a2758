"""Your own event log: which user took which item, and when.

    python launch.py --config=configs/custom.py --config.data.source=events.csv
    python launch.py --config=configs/custom.py:emkd --config.data.source=events.csv
    python launch.py --config=configs/custom.py:quick --config.data.source=events.csv

Without a variant, three causal encoders are trained on next items, with transition counts beside
them, until the validation has not improved for six epochs. The variant emkd has the published
hyper-parameters, and quick is a small model.

Needs: a file of events with a user, an item and a time: CSV, TSV, Parquet or JSON lines, the text
    format of S3-Rec, the atomic files of RecBole, Amazon reviews or MovieLens. Attributes of the
    items (categories, brands, genres) in --config.data.attributes=FILE improve the recommendations.
Takes: about as long as toys.py:best for a log of its size (170,000 events): half an hour on one CPU
    core; quick: 4 minutes on two.
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config(event_log=True)
    config.data.name = 'custom'
    if variant not in ('', 'emkd'):
        return apply_variant(config, variant)
    if not variant:
        config = apply_variant(config, 'best')
        # Batches by the size of the data; rows of as many items as a model reads, so that long
        # histories fit.
        config.train.update(batch_size=0, row_width=50, num_epochs=60, patience=6)
    config.name = 'custom_emkd' if variant else 'custom'
    return config
