"""Translates weights between the released PyTorch code and this package.

Both store the matrix of a linear layer as (out, in). The released code keeps the projections to
queries, keys and values apart; here they are one matrix, stacked in this order.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float, PyTree, Shaped

_LINEAR = {
    'attention/out': 'attention.output_linear',
    'feed_forward/up': 'feed_forward.w_1',
    'feed_forward/down': 'feed_forward.w_2',
}
_NORMS = {'attention_norm': 'input_sublayer.norm', 'feed_forward_norm': 'output_sublayer.norm'}
_HEADS = {'item_head': 'item_classfiers', 'attribute_head': 'attr_classifiers'}
_KINDS = {'kernel': 'weight', 'bias': 'bias'}


def params_from_state_dict(
    state: Mapping[str, Shaped[np.ndarray, '...']],
) -> PyTree[Shaped[np.ndarray, '_ ...']]:
    """Converts a state dict of the released model to the parameters of an ensemble.

    Raises:
      KeyError: a weight is missing.
    """
    networks = max(1, _count(state, 'embeddings.{}.token.weight'))
    blocks = _count(state, 'berts.0.transformer_blocks.{}.feed_forward.w_1.bias')
    each = [
        {
            path: np.concatenate([state[name] for name in names])
            for path, names in _names(network, blocks)
        }
        for network in range(networks)
    ]
    return nest({path: np.stack([params[path] for params in each]) for path in each[0]})


def state_dict_from_params(params: PyTree) -> dict[str, Float[np.ndarray, '...']]:
    """Converts the parameters of an ensemble to a state dict of the released model.

    Raises:
      KeyError: the networks have another encoder than the released model.
    """
    flat = flatten(jax.device_get(params))
    blocks = _count(flat, 'encoder/block_{}/feed_forward/up/bias')
    state: dict[str, np.ndarray] = {}
    used = set()
    for network in range(len(flat['item_head_bias'])):
        for path, names in _names(network, blocks):
            used.add(path)
            parts = np.split(flat[path][network], len(names))
            state.update(zip(names, parts, strict=True))
    if unused := flat.keys() - used:
        raise KeyError(min(unused))
    return state


def flatten(params: PyTree) -> dict[str, Any]:
    """The leaves of nested dictionaries by their paths, such as `encoder/embedding/tokens`."""
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')  # type: ignore[no-untyped-call]
    return leaves


def nest(leaves: Mapping[str, Any]) -> PyTree:
    """The opposite of `flatten`."""
    return traverse_util.unflatten_dict(dict(leaves), sep='/')  # type: ignore[no-untyped-call]


def _names(network: int, blocks: int) -> Iterator[tuple[str, list[str]]]:
    """Our path of every weight, and the released names of its parts along the first axis."""
    yield 'encoder/embedding/tokens', [f'embeddings.{network}.token.weight']
    yield 'encoder/embedding/slots', [f'embeddings.{network}.position.pe.weight']
    for number in range(blocks):
        path, name = f'encoder/block_{number}', f'berts.{network}.transformer_blocks.{number}'
        for ours, released in _KINDS.items():
            projections = f'{name}.attention.linear_layers'
            yield (
                f'{path}/attention/qkv_{ours}',
                [f'{projections}.{part}.{released}' for part in range(3)],
            )
            for layer, released_layer in _LINEAR.items():
                yield f'{path}/{layer}/{ours}', [f'{name}.{released_layer}.{released}']
        for norm, released_norm in _NORMS.items():
            yield f'{path}/{norm}/gain', [f'{name}.{released_norm}.a_2']
            yield f'{path}/{norm}/bias', [f'{name}.{released_norm}.b_2']
    for (head, released_head), (ours, released) in itertools.product(
        _HEADS.items(), _KINDS.items()
    ):
        yield f'{head}_{ours}', [f'{released_head}.{network}.{released}']


def _count(state: Mapping[str, object], pattern: str) -> int:
    return next(number for number in itertools.count() if pattern.format(number) not in state)
