"""The runs that `train.num_seeds` and `sweep` ask for, which train together in one step."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from emkd_jax.config.checks import check_config
from emkd_jax.errors import UserError
from emkd_jax.objective.hyper_parameters import OPTION_NAMES, HyperParameters, hyper_parameters

# The option whose values each option of `sweep` tries.
SWEPT = {name.split('.')[1]: name for name in OPTION_NAMES}


class SweepRun(NamedTuple):
    """One of the runs that train together.

    Attributes:
      name: the name of its folder, or '' for a run that trains alone.
      config: the configuration that would train this run alone.
    """

    name: str
    config: ml_collections.ConfigDict


def expand_sweep(config: ml_collections.ConfigDict) -> list[SweepRun]:
    """Returns the runs that a configuration asks for, at least one.

    Raises:
      UserError: a value to try is not allowed.
    """
    tried = {option: _numbers(option, values) for option, values in config.sweep.items() if values}
    if not tried and config.train.num_seeds == 1:
        return [SweepRun('', config)]
    runs = []
    for values in itertools.product(*tried.values()):
        for seed in range(config.seed, config.seed + config.train.num_seeds):
            alone = config.copy_and_resolve_references()
            alone.seed, alone.train.num_seeds = seed, 1
            for option, value in zip(tried, values, strict=True):
                alone.sweep[option] = ()
                alone.update_from_flattened_dict({SWEPT[option]: value})
            check_config(alone)
            parts = [f'{option}_{value}' for option, value in zip(tried, values, strict=True)]
            runs.append(SweepRun('_'.join([*parts, f'seed_{seed}']), alone))
    return runs


def check_single(config: ml_collections.ConfigDict, purpose: str) -> None:
    """Raises UserError, with the purpose as its subject, if a configuration asks for many runs."""
    if len(expand_sweep(config)) > 1:
        raise UserError(f'{purpose} is for a single run; leave out train.num_seeds and sweep.*.')


def stack_hyper_parameters(configs: Sequence[ml_collections.ConfigDict]) -> HyperParameters:
    """Stacks hyper-parameters that differ as (runs,) float32; those that agree become None."""
    columns = zip(*map(hyper_parameters, configs), strict=True)
    arrays = [np.array(column, np.float32) for column in columns]
    return HyperParameters(*(array if np.ptp(array) else None for array in arrays))


def _numbers(option: str, values: Sequence[object]) -> list[float]:
    try:
        return list(dict.fromkeys(float(value) for value in values))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(
            f'sweep.{option} is {values}; give it numbers, such as (1e-3,3e-3).'
        ) from error
