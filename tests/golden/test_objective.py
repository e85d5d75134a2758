"""The objective agrees with the released code, on every case in the golden folder."""

import functools

import jax
import numpy as np
import pytest

from emkd_jax.serving.pytorch import state_dict_from_params
from tests.support import golden_cases

FLOAT32 = dict.fromkeys([*golden_cases.SCALARS, 'hidden', 'logits', 'attribute_logits'], 1e-5) | {
    'gradients': 1e-4,
    'adam_step': 1e-4,
}
FLOAT64 = dict.fromkeys(golden_cases.SCALARS, 1e-9)


@functools.cache
def errors(path, dtype):
    with jax.enable_x64(dtype is np.float64):
        found = golden_cases.errors(golden_cases.Case(path, dtype))
    for name, error in found.items():
        print(f'{path.stem:20} {np.dtype(dtype)} {name:16} {error:.1e}')
    return found


def test_there_are_cases():
    assert golden_cases.FILES, f'no .npz in {golden_cases.FOLDER}'


@pytest.mark.parametrize('path', golden_cases.FILES, ids=lambda path: path.stem)
def test_released_weights_survive_the_conversion_and_back(path):
    case = golden_cases.Case(path)
    state = state_dict_from_params(case.params)
    released = {name for name in case.arrays if name.startswith('param/')}
    assert {f'param/{name}' for name in state} == released
    for name, array in state.items():
        np.testing.assert_array_equal(array, case.arrays[f'param/{name}'])


@pytest.mark.parametrize('quantity', FLOAT32)
@pytest.mark.parametrize('path', golden_cases.FILES, ids=lambda path: path.stem)
def test_float32(path, quantity):
    assert errors(path, np.float32)[quantity] <= FLOAT32[quantity]


@pytest.mark.parametrize('quantity', FLOAT64)
@pytest.mark.parametrize('path', golden_cases.FILES, ids=lambda path: path.stem)
def test_float64(path, quantity):
    assert errors(path, np.float64)[quantity] <= FLOAT64[quantity]
