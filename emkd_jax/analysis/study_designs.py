"""What a study compares with what."""

from typing import Any, NamedTuple

import ml_collections

from emkd_jax.model.encoders import ENCODERS

_PLAIN = {
    'objective.kd_weight': 0.0,
    'objective.contrast_weight': 0.0,
    'objective.attribute_weight': 0.0,
}
_SIZES = range(1, 6)


class System(NamedTuple):
    """Something that recommends: the configuration with `changes` (option: value).

    `alone`: each of its networks by itself, as the mean over them. Networks that share nothing but
    their data are what they would be alone.
    """

    name: str
    changes: dict[str, Any]
    alone: bool = False


class Question(NamedTuple):
    """`pairs` are names of systems: is the first one better than the second?"""

    systems: list[System]
    pairs: list[tuple[str, str]]


def ablation(config: ml_collections.ConfigDict) -> Question:
    """What does each part of the objective bring?"""
    less = {
        'without ICL': {'objective.icl_weight': 0.0},
        'without CCL': {'objective.ccl_weight': 0.0},
        'without distillation': {'objective.kd_weight': 0.0},
        'without attributes': {'objective.attribute_weight': 0.0},
        'plain ensemble': _PLAIN,
    }
    if not config.objective.attribute_weight:  # as where the data has none
        del less['without attributes']
    return Question(
        [System('EMKD', {})] + [System(name, changes) for name, changes in less.items()],
        [('EMKD', name) for name in less],
    )


def generality(config: ml_collections.ConfigDict) -> Question:
    """Does the method improve other encoders as well?"""
    del config
    systems, pairs = [], []
    for encoder in ENCODERS:
        plain = {'model.encoder': encoder} | _PLAIN
        of_encoder = [
            System(f'{encoder} alone', plain, alone=True),
            System(f'{encoder} ensemble', plain),
            System(f'{encoder} EMKD', {'model.encoder': encoder}),
        ]
        systems += of_encoder
        alone, ensemble, emkd = (system.name for system in of_encoder)
        pairs += [(ensemble, alone), (emkd, alone), (emkd, ensemble)]
    return Question(systems, pairs)


def ensemble_size(config: ml_collections.ConfigDict) -> Question:
    """How many networks does it take?"""
    del config
    names = [f'N = {size}' for size in _SIZES]
    systems = [
        System(name, {'ensemble.num_networks': size})
        for name, size in zip(names, _SIZES, strict=True)
    ]
    return Question(systems, list(zip(names[1:], names, strict=False)))


QUESTIONS = {'ablation': ablation, 'generality': generality, 'ensemble_size': ensemble_size}
