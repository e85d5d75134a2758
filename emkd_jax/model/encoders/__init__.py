"""Sequence encoders, which map items to hidden states. They do not know their ensemble."""

import importlib

import ml_collections
import numpy as np

from emkd_jax.errors import UserError
from emkd_jax.model.encoders.base import SequenceEncoder
from emkd_jax.model.encoders.bert4rec import BERT4Rec
from emkd_jax.model.encoders.bsarec import BSARec
from emkd_jax.model.encoders.caser import Caser
from emkd_jax.model.encoders.contract import check_contract
from emkd_jax.model.encoders.gru4rec import GRU4Rec
from emkd_jax.model.encoders.hstu import HSTU
from emkd_jax.model.encoders.sasrec import SASRec
from emkd_jax.model.encoders.sasrec_plus import SASRecPlus

ENCODERS: dict[str, type[SequenceEncoder]] = {
    'bert4rec': BERT4Rec,
    'sasrec': SASRec,
    'sasrec_plus': SASRecPlus,
    'bsarec': BSARec,
    'gru4rec': GRU4Rec,
    'caser': Caser,
    'hstu': HSTU,
}


def make_encoder(
    model: ml_collections.ConfigDict, num_items: int, dtype: np.dtype, task: str = 'cloze'
) -> SequenceEncoder:
    """Makes the encoder that `config.model` describes.

    Args:
      model: `config.model`.
      num_items: V.
      dtype: type of the activations.
      task: 'cloze', 'next_item', or 'auto' for the natural one of the encoder.

    Raises:
      UserError: there is no such encoder, its options do not fit together, or it is a user's own
        and breaks a rule of `SequenceEncoder`.
    """
    encoder = ENCODERS.get(model.encoder) or _import_encoder(model.encoder)
    if task == 'auto':
        task = encoder.natural_task()
    if task == 'next_item' and not encoder.packs:
        able = ', '.join(name for name, known in ENCODERS.items() if known.packs)
        raise UserError(
            f'The encoder {model.encoder} cannot be trained with objective.task=next_item, which '
            f'needs a causal encoder that keeps packed sequences apart; use one of {able}, or '
            '--config.objective.task=cloze.'
        )
    made = encoder.from_config(model, num_items, dtype, task)
    if model.encoder not in ENCODERS:
        check_contract(made, model.encoder)
    return made


def _import_encoder(name: str) -> type[SequenceEncoder]:
    module, _, attribute = name.partition(':')
    if not attribute:
        raise UserError(
            f"There is no encoder '{name}'; model.encoder takes {', '.join(ENCODERS)}, or "
            'package.module:Class for an encoder of your own, and ensemble.members several of them '
            'with commas between them.'
        )
    try:
        encoder = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(
            f'The encoder {name} cannot be imported ({error}); the folder of the module must be '
            'on the path of Python, for example with PYTHONPATH=FOLDER.'
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f'The encoder {name} cannot be imported: {type(error).__name__}: {error}.'
        ) from error
    if not (isinstance(encoder, type) and issubclass(encoder, SequenceEncoder)):
        raise UserError(f'The encoder {name} is not a subclass of emkd_jax.SequenceEncoder.')
    return encoder
