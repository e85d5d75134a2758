"""One network: an encoder with an item head and an attribute head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from emkd_jax.model import sharded_tables
from emkd_jax.model.attribute_inputs import AttributePairs
from emkd_jax.model.encoders.base import HiddenOut, Items, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import linear_params, normal
from emkd_jax.model.precision import accumulation_dtype


class Network(nn.Module):
    """One network: an encoder, with an item head and an attribute head.

    Attributes:
      encoder: a `SequenceEncoder`.
      num_items: V; items are 1..V.
      num_attributes: A; attributes are 1..A.
      item_bias: whether the item head has a bias.
      attribute_pairs: the attributes of the items, whose embeddings are added to those of the
        items; None: items have embeddings of their own alone.
      shards: over how many devices the rows of the item tables are split. Within a pmap, parameters
        then have this device's rows of them, and items are this device's rows of the batch.
    """

    encoder: SequenceEncoder
    num_items: int
    num_attributes: int
    item_bias: bool = True
    attribute_pairs: AttributePairs | None = None
    shards: int = 1

    @property
    def mask_token(self) -> int:
        """The token that stands for the item to predict."""
        return self.num_items + 1

    def setup(self):
        dim = self.encoder.dim
        if self.attribute_pairs is not None:
            self.param(
                'attribute_embeddings',
                normal(self.encoder.initial_scale),
                (self.num_attributes + 1, dim),
            )
        # Class 0 is the padding item, or its attribute. It is in the softmax but never a label.
        if not self.encoder.tied:
            self.item_head = linear_params(
                self, 'item_head_', self.num_items + 1, dim, with_bias=self.item_bias
            )
        elif self.item_bias:
            self.param('item_head_bias', nn.initializers.zeros, (self.num_items + 1,))
        self.attribute_head = linear_params(self, 'attribute_head_', self.num_attributes + 1, dim)

    def __call__(
        self,
        items: Items,
        keys: SlotKeys = None,
        last_only: bool = False,
        segments: Segments | None = None,
    ) -> HiddenOut:
        """Computes hidden states; see `SequenceEncoder.__call__`."""
        return self.encoder(items, keys, last_only, segments)

    def predicting_state(self, items: Items) -> Float[Array, 'rows dim']:
        """Computes the hidden state that predicts the item at the last slot.

        Args:
          items: the end of each history and then the mask token, padded on the left with 0. A
            network that was trained on next items reads the history alone.
        """
        if self.encoder.task == 'next_item':
            # Without any history, a slot of padding is read.
            items = items[:, :-1] if items.shape[1] > 1 else jnp.zeros_like(items)
        return self.encoder(items, last_only=True)[:, -1]

    def effective(self, params: PyTree) -> PyTree:
        """Returns the parameters with the attributes added to the item embeddings.

        The methods of this class and of `Ensemble` that take hidden states or compute them work
        with effective parameters; those that score histories take the trained ones, and so do the
        losses.
        """
        if self.attribute_pairs is None:
            return params
        encoder = params['encoder']
        embedding = encoder['embedding']
        tokens = self.attribute_pairs.add_to(embedding['tokens'], params['attribute_embeddings'])
        return params | {'encoder': encoder | {'embedding': embedding | {'tokens': tokens}}}

    def without_attributes(self) -> 'Network':
        """Returns the network that computes from effective parameters what this one does.

        What scores more than one batch adds the attributes once and uses this network.
        """
        return self.clone(attribute_pairs=None)

    def item_head_of(self, params: PyTree) -> tuple[Array, Array]:
        """Returns the kernel and the bias of the item head of one network or of stacked ones.

        A tied head is the table of item embeddings. Its class 0 is the row of the padding item,
        which embeds as zero whatever stands there.
        """
        if not self.encoder.tied:
            kernel = params['item_head_kernel']
        else:
            kernel = params['encoder']['embedding']['tokens'][..., : self.num_items + 1, :]
        if self.item_bias:
            return kernel, params['item_head_bias']
        return kernel, jnp.zeros(kernel.shape[:-1], kernel.dtype)

    def state_of(self, params: PyTree, items: Items) -> Float[Array, 'rows dim']:
        """Computes the `predicting_state` from trained parameters."""
        return self._from_effective(self.effective(_as_jax_arrays(params)), items)

    def scores_of(self, params: PyTree, items: Items) -> Float[Array, 'rows classes']:
        """Scores the items 0..V from trained parameters; see `Ensemble.scores`."""
        own = self.own_scores_of(params, items)
        return own if self.shards == 1 else sharded_tables.all_classes(own, self.num_items)

    def own_scores_of(self, params: PyTree, items: Items) -> Float[Array, 'all_rows own_classes']:
        """Scores the items whose rows this device has, for the rows of all devices together.

        Where the tables are whole, these are all items for this device's rows.
        """
        params = self.effective(_as_jax_arrays(params))
        hidden = self._from_effective(params, items)
        if self.shards > 1:
            hidden = jax.lax.all_gather(hidden, sharded_tables.AXIS, tiled=True)
        return self.item_logits_of(params, hidden)

    def _from_effective(self, params, items):
        network = self
        if self.shards > 1:
            stacked = jax.tree.map(lambda x: x[None], params)
            network, stacked, items = sharded_tables.with_rows_of(self, stacked, items)
            params = jax.tree.map(lambda x: x[0], stacked)
        return network.apply({'params': params}, items, method=Network.predicting_state)

    def item_logits_of(
        self, params: PyTree, hidden: Float[Array, '*lead dim']
    ) -> Float[Array, '*lead classes']:
        """Computes logits of the items 0..V by one network, in float32 or wider."""
        return _wide_linear(hidden, *self.item_head_of(params))

    def attribute_logits_of(
        self, params: PyTree, hidden: Float[Array, '*lead dim']
    ) -> Float[Array, '*lead classes']:
        """Computes logits of the attributes 0..A by one network, in float32 or wider."""
        return _wide_linear(hidden, params['attribute_head_kernel'], params['attribute_head_bias'])


def _wide_linear(hidden, kernel, bias):
    y = jax.lax.dot_general(
        hidden,
        kernel.astype(hidden.dtype),
        (((hidden.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=accumulation_dtype(hidden.dtype),
    )
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _as_jax_arrays(params):
    """Lets parameters be NumPy arrays inside `jit`, where a custom derivative cannot take them."""
    return jax.tree.map(jnp.asarray, params)
