"""Floating-point operations of the matrix products in a traced function."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def product_flops(function: Callable[..., Any], *args: Any) -> float:
    """Returns the FLOPs of the matrix products in `function`, for the arrays or shapes `args`.

    A loop of known length counts with all its rounds, any other one once; of branches, the most
    expensive one counts. Of a function that runs on several devices, the FLOPs of one are counted.
    """
    return _in(jax.make_jaxpr(function)(*args).jaxpr)


def _in(jaxpr):
    return sum(map(_of, jaxpr.eqns), start=0.0)


def _of(equation):
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        contracted, _ = params['dimension_numbers'][0]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * equation.outvars[0].aval.size * inner
    within = [_in(inner) for inner in _jaxprs(params)]
    if name == 'cond':
        return max(within)
    return sum(within) * (params['length'] if name == 'scan' else 1)


def _jaxprs(params):
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
