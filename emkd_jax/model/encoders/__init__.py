"""Sequence encoders: items -> hidden states. They know nothing of the ensemble they are in.

What all keep to, so that everything around them is one code:

The hidden state of slot t predicts the item at slot t. A bidirectional encoder (BERT4Rec) sees the
whole row, where a mask token hides that item. A causal encoder (the others) sees the items before
slot t alone: its input is shifted right by one, and what stands at slot t itself does not matter to
it. So the chosen positions of a masked view are, to a causal encoder, next-item predictions after a
corrupted history, and distillation acts on these; the attributes to predict are the next item's;
contrast compares the hidden states of all slots; and the state at the mask token after a history
recommends what comes next.

Padding is invisible to real slots. An input of T slots is the rightmost T of the `max_len` that the
encoder knows, and its hidden states are those that it would have with padding before it.
"""

import flax.linen as nn
import ml_collections
import numpy as np

from emkd_jax.errors import UserError
from emkd_jax.model.encoders.bert4rec import BERT4Rec
from emkd_jax.model.encoders.caser import Caser
from emkd_jax.model.encoders.gru4rec import GRU4Rec
from emkd_jax.model.encoders.hstu import HSTU
from emkd_jax.model.encoders.sasrec import SASRec

ENCODERS = {
    'bert4rec': BERT4Rec,
    'sasrec': SASRec,
    'gru4rec': GRU4Rec,
    'caser': Caser,
    'hstu': HSTU,
}


def make_encoder(model: ml_collections.ConfigDict, num_items: int, dtype: np.dtype) -> nn.Module:
    """The encoder that `config.model` describes; it takes the options that it has.

    Raises:
      UserError: there is no such encoder, or its options do not fit together.
    """
    if model.encoder not in ENCODERS:
        raise UserError(
            f"model.encoder is '{model.encoder}'; all networks of an ensemble have the same one of "
            f'these: {", ".join(ENCODERS)}.'
        )
    encoder = ENCODERS[model.encoder]
    options = {
        'num_items': num_items,
        'max_len': model.max_len,
        'dim': model.hidden_dim,
        'num_blocks': model.num_blocks,
        'num_heads': model.num_heads,
        'dropout': model.dropout,
        'dtype': dtype,
    }
    fields = encoder.__dataclass_fields__
    if 'num_heads' in fields and model.hidden_dim % model.num_heads:
        raise UserError(
            f'model.hidden_dim={model.hidden_dim} is not divisible by '
            f'model.num_heads={model.num_heads}; choose a multiple.'
        )
    return encoder(**{name: value for name, value in options.items() if name in fields})
