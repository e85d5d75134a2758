"""Sequence encoders: items -> hidden states. They know nothing about the ensemble they are in."""

import importlib

import ml_collections
import numpy as np

from emkd_jax.errors import UserError
from emkd_jax.model.encoders.base import SequenceEncoder
from emkd_jax.model.encoders.bert4rec import BERT4Rec
from emkd_jax.model.encoders.caser import Caser
from emkd_jax.model.encoders.gru4rec import GRU4Rec
from emkd_jax.model.encoders.hstu import HSTU
from emkd_jax.model.encoders.sasrec import SASRec

ENCODERS: dict[str, type[SequenceEncoder]] = {
    'bert4rec': BERT4Rec,
    'sasrec': SASRec,
    'gru4rec': GRU4Rec,
    'caser': Caser,
    'hstu': HSTU,
}


def make_encoder(
    model: ml_collections.ConfigDict, num_items: int, dtype: np.dtype
) -> SequenceEncoder:
    """The encoder that `config.model` describes.

    Raises:
      UserError: there is no such encoder, or its options do not fit together.
    """
    encoder = ENCODERS.get(model.encoder) or _own_encoder(model.encoder)
    return encoder.from_config(model, num_items, dtype)


def _own_encoder(name: str) -> type[SequenceEncoder]:
    module, _, attribute = name.partition(':')
    if not attribute:
        raise UserError(
            f"model.encoder is '{name}'; use one of {', '.join(ENCODERS)}, or package.module:Class "
            'for an encoder of your own.'
        )
    try:
        encoder = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f'model.encoder={name} cannot be imported ({error}).') from error
    if not (isinstance(encoder, type) and issubclass(encoder, SequenceEncoder)):
        raise UserError(f'model.encoder={name} is no subclass of emkd_jax.SequenceEncoder.')
    return encoder
