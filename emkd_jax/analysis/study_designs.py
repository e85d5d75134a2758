"""What each study compares with what."""

from typing import Any, NamedTuple

import ml_collections

from emkd_jax.config.options import OPTIONS
from emkd_jax.model.encoders import ENCODERS

_WITHOUT_EMKD = {
    'objective.kd_weight': 0.0,
    'objective.contrast_weight': 0.0,
    'objective.attribute_weight': 0.0,
}
_SIZES = range(1, 6)


class System(NamedTuple):
    """A system under comparison: the configuration of the study with `changes` to its options.

    If it is `alone`, each of its networks is evaluated by itself and the system is their mean.
    This is the same as training networks one at a time where nothing in the objective couples them.
    In the same way, the `first` networks of a larger ensemble are a smaller ensemble; None: all.
    """

    name: str
    changes: dict[str, Any]
    alone: bool = False
    first: int | None = None


class Comparison(NamedTuple):
    """A question, the systems that answer it, and pairs: is the first better than the second?"""

    question: str
    systems: list[System]
    pairs: list[tuple[str, str]]


def parts_in_use(objective: ml_collections.ConfigDict) -> dict[str, str]:
    """The parts of EMKD that have a weight, each with the option that switches it off."""
    found = {}
    if objective.contrast_weight and objective.icl_weight:
        found['ICL'] = 'objective.icl_weight'
    if objective.contrast_weight and objective.ccl_weight:
        found['CCL'] = 'objective.ccl_weight'
    if objective.kd_weight:
        found['distillation'] = 'objective.kd_weight'
    if objective.attribute_weight:
        found['attributes'] = 'objective.attribute_weight'
    return found


def ablation(config: ml_collections.ConfigDict) -> Comparison:
    """Compares EMKD with itself without each part that it has, and without all of them."""
    used = parts_in_use(config.objective)
    without: dict[str, dict[str, Any]] = {}
    if len(used) > 1:  # without the only part, it is a plain ensemble
        without = {f'without {part}': {option: 0.0} for part, option in used.items()}
    without['plain ensemble'] = _WITHOUT_EMKD
    return Comparison(
        'What does each part of the objective contribute?',
        [System('EMKD', {}), *(System(name, changes) for name, changes in without.items())],
        [('EMKD', name) for name in without],
    )


def generality(config: ml_collections.ConfigDict) -> Comparison:
    """Compares every encoder alone, as a plain ensemble, and with EMKD.

    All encoders are trained on the same task, since the options fit one: cloze, which all of them
    can be trained on, unless the configuration names the other.
    """
    task = 'next_item' if config.objective.task == 'next_item' else 'cloze'
    systems, pairs = [], []
    for name, encoder_class in ENCODERS.items():
        if task == 'next_item' and not encoder_class.packs:
            continue
        encoder = {'model.encoder': name, 'objective.task': task}
        plain = encoder | _WITHOUT_EMKD
        alone, ensemble, emkd = (f'{name} {kind}' for kind in ('alone', 'ensemble', 'EMKD'))
        systems += [
            System(alone, plain, alone=True),
            System(ensemble, plain),
            System(emkd, encoder),
        ]
        pairs += [(ensemble, alone), (emkd, alone), (emkd, ensemble)]
    return Comparison('Does the method improve other encoders as well?', systems, pairs)


def ensemble_size(config: ml_collections.ConfigDict) -> Comparison:
    """Compares ensembles of one to five networks, each with the next smaller one.

    Where the networks do not teach each other, only the largest ensemble is trained.
    """
    objective = config.objective
    coupled = objective.kd_weight or (objective.contrast_weight and objective.ccl_weight)
    systems = [
        System(f'N = {size}', {'ensemble.num_networks': size})
        if coupled
        else System(f'N = {size}', {'ensemble.num_networks': max(_SIZES)}, first=size)
        for size in _SIZES
    ]
    names = [system.name for system in systems]
    pairs = list(zip(names[1:], names, strict=False))
    return Comparison('How many networks are worth training?', systems, pairs)


def parts(config: ml_collections.ConfigDict) -> Comparison:
    """Compares a plain ensemble with one that has a single part of EMKD, and with all of EMKD.

    A part has its weight in the configuration or, where this is 0, the published one.
    """
    weights = {
        option: config.objective[option.partition('.')[2]] or OPTIONS[option].default
        for option in _WITHOUT_EMKD
    }
    kd, contrast, attributes = ({option: weight} for option, weight in weights.items())
    added = {
        '+ distillation': kd,
        '+ CCL': contrast | {'objective.icl_weight': 0.0},
        '+ ICL': contrast | {'objective.ccl_weight': 0.0},
        '+ attributes': attributes,
        'EMKD': weights,
    }
    return Comparison(
        'What does each part of the objective add to a plain ensemble?',
        [
            System('one network', _WITHOUT_EMKD, alone=True),
            System('plain ensemble', _WITHOUT_EMKD),
            *(System(name, _WITHOUT_EMKD | changes) for name, changes in added.items()),
        ],
        [('plain ensemble', 'one network'), *((name, 'plain ensemble') for name in added)],
    )


DESIGNS = {
    'ablation': ablation,
    'parts': parts,
    'generality': generality,
    'ensemble_size': ensemble_size,
}
