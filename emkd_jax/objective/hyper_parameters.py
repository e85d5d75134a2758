"""The numbers in which runs that train together in one compiled step may differ."""

from typing import Any, NamedTuple

import ml_collections


class HyperParameters(NamedTuple):
    """Hyper-parameters of one run, as plain or as traced numbers.

    In a stack of runs, a field is an array over the runs where they differ, and None where they
    agree; the shared value is then a constant of the compiled step, so that a part of the loss
    whose weight is 0 costs nothing.
    """

    learning_rate: Any
    temperature: Any
    kd_weight: Any
    contrast_weight: Any
    icl_weight: Any
    ccl_weight: Any
    attribute_weight: Any
    dropout: Any

    def over(self, shared: 'HyperParameters') -> 'HyperParameters':
        """These values, and those of `shared` where a field is None."""
        return HyperParameters(
            *(own if own is not None else other for own, other in zip(self, shared, strict=True))
        )


# Dotted name of the option behind each field.
OPTION_NAMES = HyperParameters(
    learning_rate='optimizer.learning_rate',
    temperature='objective.temperature',
    kd_weight='objective.kd_weight',
    contrast_weight='objective.contrast_weight',
    icl_weight='objective.icl_weight',
    ccl_weight='objective.ccl_weight',
    attribute_weight='objective.attribute_weight',
    dropout='model.dropout',
)


def hyper_parameters(config: ml_collections.ConfigDict) -> HyperParameters:
    """The hyper-parameters that a configuration asks for."""
    return HyperParameters(
        *(config[group][option] for group, option in (name.split('.') for name in OPTION_NAMES))
    )
