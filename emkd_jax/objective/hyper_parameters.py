"""The numbers that may differ between runs that share a compiled step."""

from typing import Any, NamedTuple

import ml_collections


class HyperParameters(NamedTuple):
    """Hyper-parameters of one run, as plain or as traced numbers.

    In a stack of runs, a field is an array over the runs if they differ in it, and None if they
    agree. A value that all runs share is a constant of the compiled step, so that a part of the
    loss with the weight 0 costs nothing.
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
        """Returns these values, with those of `shared` in place of None."""
        return HyperParameters(
            *(own if own is not None else other for own, other in zip(self, shared, strict=True))
        )


# The dotted name of the option that sets each field.
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
    """Returns the hyper-parameters of a configuration."""
    return HyperParameters(
        *(config[group][option] for group, option in (name.split('.') for name in OPTION_NAMES))
    )
