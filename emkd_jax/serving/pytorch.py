"""The released PyTorch code's weights, as arrays by name, to our parameters and back.

Linear weights are (out, in) on both sides. Theirs keep q, k and v apart; ours are stacked.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def params_from_state_dict(state: Mapping[str, np.ndarray]) -> PyTree:
    """Ensemble parameters (a leading networks axis) from the released model's state dict.

    Raises:
      KeyError: a weight is missing.
    """
    count = _count(state, 'embeddings.{}.token.weight')
    networks = [_network_params(state, n) for n in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)


def state_dict_from_params(params: PyTree) -> dict[str, np.ndarray]:
    """The released model's state dict from ensemble parameters."""
    state = {}
    params = jax.device_get(params)
    for n in range(params['item_head_bias'].shape[0]):
        network = jax.tree.map(lambda leaf, n=n: leaf[n], params)
        encoder = network['encoder']
        if 'block_0' not in encoder:
            raise KeyError('block_0')  # another encoder, which may share the embedding's names
        state[f'embeddings.{n}.token.weight'] = encoder['embedding']['tokens']
        state[f'embeddings.{n}.position.pe.weight'] = encoder['embedding']['slots']
        for k in range(sum(name.startswith('block_') for name in encoder)):
            theirs = f'berts.{n}.transformer_blocks.{k}'
            ours = encoder[f'block_{k}']
            for i, (kernel, bias) in enumerate(
                zip(
                    np.split(ours['attention']['qkv_kernel'], 3),
                    np.split(ours['attention']['qkv_bias'], 3),
                    strict=True,
                )
            ):
                state[f'{theirs}.attention.linear_layers.{i}.weight'] = kernel
                state[f'{theirs}.attention.linear_layers.{i}.bias'] = bias
            for name, path in _LINEAR.items():
                leaf = ours[path[0]][path[1]]
                state[f'{theirs}.{name}.weight'] = leaf['kernel']
                state[f'{theirs}.{name}.bias'] = leaf['bias']
            for name, path in _NORM.items():
                state[f'{theirs}.{name}.a_2'] = ours[path]['gain']
                state[f'{theirs}.{name}.b_2'] = ours[path]['bias']
        for head, name in _HEADS.items():
            state[f'{name}.{n}.weight'] = network[f'{head}_kernel']
            state[f'{name}.{n}.bias'] = network[f'{head}_bias']
    return state


_LINEAR = {
    'attention.output_linear': ('attention', 'out'),
    'feed_forward.w_1': ('feed_forward', 'up'),
    'feed_forward.w_2': ('feed_forward', 'down'),
}
_NORM = {'input_sublayer.norm': 'attention_norm', 'output_sublayer.norm': 'feed_forward_norm'}
_HEADS = {'item_head': 'item_classfiers', 'attribute_head': 'attr_classifiers'}


def _count(state, pattern):
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def _network_params(state, n):
    encoder = {
        'embedding': {
            'tokens': state[f'embeddings.{n}.token.weight'],
            'slots': state[f'embeddings.{n}.position.pe.weight'],
        }
    }
    pattern = f'berts.{n}.transformer_blocks.{{}}.feed_forward.w_1.bias'
    for k in range(_count(state, pattern)):
        theirs = f'berts.{n}.transformer_blocks.{k}'
        block = {'attention': {}, 'feed_forward': {}}
        for ours, theirs_name in (('qkv_kernel', 'weight'), ('qkv_bias', 'bias')):
            block['attention'][ours] = np.concatenate(
                [state[f'{theirs}.attention.linear_layers.{i}.{theirs_name}'] for i in range(3)]
            )
        for name, (part, layer) in _LINEAR.items():
            block[part][layer] = {
                'kernel': state[f'{theirs}.{name}.weight'],
                'bias': state[f'{theirs}.{name}.bias'],
            }
        for name, path in _NORM.items():
            block[path] = {
                'gain': state[f'{theirs}.{name}.a_2'],
                'bias': state[f'{theirs}.{name}.b_2'],
            }
        encoder[f'block_{k}'] = block
    network = {'encoder': encoder}
    for head, name in _HEADS.items():
        network[f'{head}_kernel'] = state[f'{name}.{n}.weight']
        network[f'{head}_bias'] = state[f'{name}.{n}.bias']
    return network
