"""Your own event log: who took what, and when.

    python launch.py --config=configs/custom.py --config.data.source=events.csv
    python launch.py --config=configs/custom.py:quick --config.data.source=events.csv

Needs: a file of events with a user, an item and best a timestamp: CSV, TSV or Parquet with a
    header, S3-Rec's text, RecBole's atomic files, Amazon's reviews of 2014 or MovieLens. Attributes
    of the items (categories, brands, genres) in --config.data.attributes=FILE are worth having.
Takes: quick on two CPU cores: as toys.py:quick, 4 minutes, for a log of its size (170,000 events).
"""

from emkd_jax.config import apply_variant, base_config


def get_config(variant=''):
    config = base_config()
    data = config.data
    data.name = 'custom'
    data.attributes = ''  # file of the items' attributes and titles; '' = what is beside the events
    data.format = 'auto'  # of the events: auto, table, s3rec, recbole, amazon or movielens
    # Columns of tables; '' = one with a usual name.
    data.user_column = ''
    data.item_column = ''
    data.time_column = ''  # numbers since 1970 or ISO dates; none = events are in order
    data.rating_column = ''
    data.title_column = ''  # of the item table, shown beside recommendations
    data.attribute_columns = ''  # of the item table, 'category,brand'
    data.attribute_delimiter = '|'  # between the attributes in a cell

    data.min_rating = 0.0  # events rated lower, or not rated, are left out; 0 = none is
    data.k_core = 5  # events that every user and every item must have; 0 = any number
    data.min_length = 3  # events that every user must have
    data.max_bad_lines = 0  # lines to leave out where they cannot be read
    data.max_items = 1_000_000  # more are an error: each costs memory in every network
    data.split = 'leave_one_out'  # each user's last two items; or time, at data.cuts
    data.cuts = '80%,90%'  # begin validation and test: shares of the events, or ISO dates
    return apply_variant(config, variant)
