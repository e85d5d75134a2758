"""The reference cases: numbers of the released code, and our model with its weights."""

import os
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from emkd_jax.model.encoders.bert4rec import BERT4Rec
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.network import Network
from emkd_jax.objective.emkd import Batch, Capacity, emkd_loss
from emkd_jax.objective.hyper_parameters import HyperParameters
from emkd_jax.objective.masking import Views
from emkd_jax.serving.pytorch import params_from_state_dict

FOLDER = pathlib.Path(
    os.environ.get('EMKD_GOLDEN_DIR') or pathlib.Path(__file__).parents[1] / 'golden'
)
FILES = sorted(FOLDER.glob('*.npz'))


class Case:
    """The arrays of one `.npz` file, and the model with its sizes and weights."""

    def __init__(self, path, dtype=np.float32):
        self.arrays = dict(np.load(path))
        sizes = {
            str(k): int(v)
            for k, v in zip(self.arrays['config_names'], self.arrays['config'], strict=True)
        }
        self.num_items, self.max_len, self.views = sizes['V'], sizes['L'], sizes['M']
        encoder = BERT4Rec(
            num_items=sizes['V'],
            max_len=sizes['L'],
            dim=sizes['d'],
            num_blocks=sizes['blocks'],
            num_heads=sizes['H'],
            dropout=0.0,
            dtype=jnp.dtype(dtype),
        )
        self.ensemble = Ensemble(((Network(encoder, sizes['V'], sizes['A']), sizes['N']),))
        self.params = self.tree('param', dtype)
        self.options = ml_collections.ConfigDict(
            {
                'num_views': sizes['M'],
                'mask_prob': 0.15,
                'temperature': float(self.arrays['tau']),
                'kd_weight': float(self.arrays['mu']),
                'contrast_weight': float(self.arrays['lambda_']),
                'icl_weight': 1.0,
                'ccl_weight': 1.0,
                'attribute_weight': 1.0,
                'self_contrast': 'zero',
            }
        )
        self.hyper = HyperParameters(
            learning_rate=float(self.arrays['lr']),
            dropout=0.0,
            **{
                name: self.options[name] for name in HyperParameters._fields if name in self.options
            },
        )
        self.sequences = jnp.asarray(self.arrays['sequences'], jnp.int32)
        rows = len(self.sequences)
        self.batch = Batch(
            sequences=self.sequences,
            views=Views(
                jnp.asarray(self.arrays['masked'], jnp.int32),
                jnp.asarray(self.arrays['labels'], jnp.int32),
            ),
            valid=jnp.ones(rows, bool),
            row_ids=jnp.arange(rows),
        )
        multi_hot = self.arrays['attributes']
        most = int(multi_hot.sum(1).max())
        self.item_attributes = jnp.asarray(
            [
                np.pad(np.flatnonzero(row), (0, most - int(row.sum())), constant_values=-1)
                for row in multi_hot
            ],
            jnp.int32,
        )
        labels = self.arrays['labels']
        self.capacity = Capacity(int((labels > 0).sum()), int((labels[-1] > 0).sum()))

    def tree(self, prefix, dtype):
        """The arrays under `prefix/` as a parameter tree."""
        state = {
            name.removeprefix(f'{prefix}/'): array.astype(dtype)
            for name, array in self.arrays.items()
            if name.startswith(f'{prefix}/')
        }
        return jax.tree.map(jnp.asarray, params_from_state_dict(state))

    def objective(self, params):
        """(total, parts) of the case's batch."""
        return emkd_loss(
            params,
            self.ensemble,
            self.options,
            self.hyper,
            self.batch,
            self.item_attributes,
            self.capacity,
        )

    def activations(self, params):
        """Hidden states and attribute logits of the originals, item logits of the first view."""
        hidden = self.ensemble.hidden(params, self.sequences)
        view_hidden = self.ensemble.hidden(params, self.batch.views.items[0])
        return {
            'hidden': hidden,
            'logits': self.ensemble.item_logits(params, view_hidden),
            'attribute_logits': self.ensemble.attribute_logits(params, hidden),
        }

    def gradients(self):
        """((total, parts), gradients)."""
        return jax.jit(jax.value_and_grad(self.objective, has_aux=True))(self.params)


SCALARS = {
    'masked_items': 'ce',
    'kd': 'kl',
    'attributes': 'bce',
    'icl': 'icl',
    'ccl': 'ccl',
    'total': 'total',
}  # the names here, and those in the files


def errors(case):
    """The relative error of each quantity, scalars first.

    For gradients and for weights after an Adam step, it is the worst over the parameters. Weights
    are compared where the gradient exceeds 1e-6: below, rounding decides the sign of the gradient,
    on which the first step of Adam depends.
    """
    with jax.default_matmul_precision('highest'):
        (total, parts), gradients = case.gradients()
        optimizer = optax.adam(float(case.arrays['lr']))
        with jax.numpy_dtype_promotion('standard'):  # optax raises floats to integer powers
            updates, _ = optimizer.update(gradients, optimizer.init(case.params), case.params)
        stepped = optax.apply_updates(case.params, updates)
        found = parts | {'total': total} | jax.jit(case.activations)(case.params)
    released = {name: case.arrays[key] for name, key in SCALARS.items()} | {
        'hidden': case.arrays['anchors'],
        'logits': case.arrays['logits_first'],
        'attribute_logits': case.arrays['attr_logits'],
    }
    errors = {name: relative_error(found[name], value) for name, value in released.items()}
    released_gradients = case.tree('grad', np.float64)
    where = jax.tree.map(lambda g: np.abs(g) > 1e-6, released_gradients)
    worst = {
        'gradients': jax.tree.map(relative_error, gradients, released_gradients),
        'adam_step': jax.tree.map(relative_error, stepped, case.tree('adam1', np.float64), where),
    }
    return errors | {name: max(jax.tree.leaves(tree)) for name, tree in worst.items()}


def relative_error(found, expected, where=True):
    """The largest difference, divided by the largest entry of `expected` unless that is 0."""
    expected = np.asarray(expected, np.float64)
    difference = np.abs(np.asarray(found, np.float64) - expected).max(initial=0, where=where)
    largest = np.abs(expected).max()
    return float(difference / largest if largest else difference)
