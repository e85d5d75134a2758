"""Prints the worst error of each quantity over all reference cases, as JSON.

python tests/support/golden_errors.py > results/golden_errors.json
"""

import importlib.metadata
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import numpy as np

from tests.support import golden_cases

if __name__ == '__main__':
    worst = {}
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype is np.float64):
            cases = [golden_cases.errors(golden_cases.Case(f, dtype)) for f in golden_cases.FILES]
        worst[np.dtype(dtype).name] = {q: max(case[q] for case in cases) for q in cases[0]}
    print(
        json.dumps(
            {
                'command': 'python tests/support/golden_errors.py',
                'cases': [file.stem for file in golden_cases.FILES],
                'worst relative error': worst,
                'device': jax.devices()[0].device_kind,
                'versions': {
                    name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')
                },
            },
            indent=2,
        )
    )
