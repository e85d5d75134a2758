"""An ensemble: networks of one kind, whose parameters are stacked along a leading axis."""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.attribute_inputs import AttributePairs
from emkd_jax.model.encoders import make_encoder
from emkd_jax.model.encoders.base import HiddenOut, Items, Segments, SequenceEncoder, SlotKeys
from emkd_jax.model.encoders.layers import linear_params
from emkd_jax.model.precision import accumulation_dtype, activation_dtype


class Network(nn.Module):
    """One network: an encoder, with an item head and an attribute head.

    Attributes:
      encoder: a `SequenceEncoder`.
      num_items: V; items are 1..V.
      num_attributes: A; attributes are 1..A.
      item_bias: whether the item head has a bias.
      attribute_pairs: the attributes of the items, whose embeddings are added to those of the
        items; None: items have embeddings of their own alone.
    """

    encoder: SequenceEncoder
    num_items: int
    num_attributes: int
    item_bias: bool = True
    attribute_pairs: AttributePairs | None = None

    @property
    def mask_token(self) -> int:
        """The token that stands for the item to predict."""
        return self.num_items + 1

    def setup(self):
        dim = self.encoder.dim
        if self.attribute_pairs is not None:
            self.param(
                'attribute_embeddings',
                nn.initializers.normal(self.encoder.initial_scale),
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
            items = items[:, :-1]
        return self.encoder(items, last_only=True)[:, -1]

    def attribute_logits(self, hidden: Float[Array, '*lead dim']) -> Float[Array, '*lead classes']:
        """Computes logits of the attributes 0..A, in float32 or wider."""
        return _wide_linear(hidden, *self.attribute_head)

    def effective(self, params: PyTree) -> PyTree:
        """Returns the parameters with the attributes added to the item embeddings.

        The methods of this class and of `Ensemble` that take hidden states or compute them work
        with effective parameters; `Ensemble.scores` and the losses take the trained ones.
        """
        if self.attribute_pairs is None:
            return params
        encoder = params['encoder']
        embedding = encoder['embedding']
        tokens = self.attribute_pairs.add_to(embedding['tokens'], params['attribute_embeddings'])
        return params | {'encoder': encoder | {'embedding': embedding | {'tokens': tokens}}}

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

    def item_logits_of(
        self, params: PyTree, hidden: Float[Array, '*lead dim']
    ) -> Float[Array, '*lead classes']:
        """Computes logits of the items 0..V by one network, in float32 or wider."""
        return _wide_linear(hidden, *self.item_head_of(params))


def _wide_linear(hidden, kernel, bias):
    y = jax.lax.dot_general(
        hidden,
        kernel.astype(hidden.dtype),
        (((hidden.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=accumulation_dtype(hidden.dtype),
    )
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """`num_networks` independent copies of `network`.

    It holds no parameters: its functions take them, stacked along a leading axis of networks. With
    `shared_init`, the networks start from the same weights, as in the released code, which sets the
    random seed anew before each encoder; only embeddings and heads then differ. The networks are
    vectorised, or computed `one_after_another`, which is faster on CPUs: their products that are
    batched over networks run at down to half the rate.
    """

    network: Network
    num_networks: int
    shared_init: bool = False
    one_after_another: bool = False

    def with_dropout(self, rate: hash_rng.Rate) -> 'Ensemble':
        """Returns the same ensemble with another dropout rate, which may be traced."""
        encoder = self.network.encoder.clone(dropout=rate)
        return dataclasses.replace(self, network=self.network.clone(encoder=encoder))

    def init(self, key: jax.Array) -> PyTree[Float[Array, 'networks ...']]:
        """Initialises all networks; without `shared_init`, to the bit as each would be alone."""
        items = jnp.ones((1, self.network.encoder.max_len), jnp.int32)
        params = jax.vmap(self.network.init, in_axes=(0, None))(self.keys(key), items)['params']
        if self.shared_init:
            for name, part in params['encoder'].items():
                if name != 'embedding':
                    params['encoder'][name] = jax.tree.map(
                        lambda x: jnp.broadcast_to(x[:1], x.shape), part
                    )
        return params

    def keys(self, key: jax.Array) -> jax.Array:
        """The key from which each network is initialised."""
        return jax.random.split(key, self.num_networks)

    def split(self, params: PyTree) -> list[PyTree]:
        """The parameters of each network, for `network.apply({'params': ...}, items)`."""
        return [jax.tree.map(operator.itemgetter(n), params) for n in range(self.num_networks)]

    def effective(self, params: PyTree) -> PyTree:
        """Returns the `Network.effective` parameters of all networks."""
        if self.network.attribute_pairs is None:
            return params
        return jax.vmap(self.network.effective)(params)

    def hidden(
        self,
        params: PyTree,
        items: Items,
        row_keys: UInt32[Array, ' rows'] | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, 'networks rows slots dim']:
        """Computes the hidden states of every network.

        Args:
          params: parameters of all networks.
          items: item at each slot, padded on the left with 0.
          row_keys: a hash key for each row, which switches dropout on. What is dropped depends only
            on this key, the network, the slot, and the place in the network.
          segments: the sequence at each slot of packed rows; see `SequenceEncoder.__call__`.
        """
        slot_keys = None
        if row_keys is not None:
            slot_keys = hash_rng.fold(
                row_keys[None, :, None],
                jnp.arange(self.num_networks)[:, None, None],
                jnp.arange(items.shape[1])[None, None, :],
            )

        def apply(params, items, slot_keys):
            return self.network.apply({'params': params}, items, slot_keys, segments=segments)

        if self.one_after_another:
            return jnp.stack(
                [
                    apply(params, items, None if slot_keys is None else slot_keys[n])
                    for n, params in enumerate(self.split(_as_jax_arrays(params)))
                ]
            )
        # With items of their own, the networks look up their embeddings separately.
        items = jnp.broadcast_to(items, (self.num_networks, *items.shape))
        return jax.vmap(apply, in_axes=(0, 0, None if slot_keys is None else 0))(
            _as_jax_arrays(params), items, slot_keys
        )

    def item_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Computes the item logits of each network from its own hidden states."""
        return jax.vmap(self.network.item_logits_of)(params, hidden)

    def attribute_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Computes the attribute logits of each network from its own hidden states."""
        return jax.vmap(
            lambda p, h: self.network.apply({'params': p}, h, method=Network.attribute_logits)
        )(params, hidden)

    def states(self, networks: Sequence[PyTree], items: Items) -> list[Float[Array, 'rows dim']]:
        """Computes the `Network.predicting_state` of each network.

        Networks are computed one after another, since a CPU runs products that are batched over
        networks at down to half the rate.
        """
        networks = [self.network.effective(_as_jax_arrays(params)) for params in networks]
        return self._states(networks, items)

    def _states(self, networks, items):
        return [
            self.network.apply({'params': params}, items, method=Network.predicting_state)
            for params in networks
        ]

    def scores(
        self, networks: Sequence[PyTree], items: Items
    ) -> list[Float[Array, 'rows classes']]:
        """Scores every item as the continuation of each history, by each network.

        This is the one way from histories to scores; `score` adds the networks up.

        Args:
          networks: parameters of each network, as `split` returns them.
          items: the end of each history and then `Network.mask_token`, padded on the left with 0.

        Returns:
          The item logits 0..V of each network.
        """
        networks = [self.network.effective(_as_jax_arrays(params)) for params in networks]
        return [
            self.network.item_logits_of(params, state)
            for params, state in zip(networks, self._states(networks, items), strict=True)
        ]

    def score(self, networks: Sequence[PyTree], items: Items) -> Float[Array, 'rows classes']:
        """Sums the `scores` of the networks; the ensemble recommends the items of highest sum."""
        return functools.reduce(jnp.add, self.scores(networks, items))


def _as_jax_arrays(params: PyTree) -> PyTree:
    """Lets parameters be NumPy arrays inside `jit`, where a custom derivative cannot take them."""
    return jax.tree.map(jnp.asarray, params)


def make_ensemble(
    config: ml_collections.ConfigDict,
    num_items: int,
    num_attributes: int,
    platform: str | None = None,
    item_attributes: Int[np.ndarray, 'items most'] | None = None,
) -> Ensemble:
    """Makes the ensemble that `config.model` and `config.ensemble` describe.

    Args:
      config: the run's configuration.
      num_items: V, items are 1..V.
      num_attributes: A, attributes are 1..A.
      platform: 'cpu', 'gpu' or 'tpu', where it will run; None: the backend of this process.
      item_attributes: the attribute ids of every item, padded with -1; read where
        `model.attribute_inputs` is set.

    Raises:
      UserError: the options do not fit together.
    """
    platform = platform or jax.default_backend()
    dtype = activation_dtype(config.model.dtype, platform)
    pairs = None
    if config.model.attribute_inputs and num_attributes and item_attributes is not None:
        pairs = AttributePairs(item_attributes)
    encoder = make_encoder(config.model, num_items, dtype, config.objective.task)
    return Ensemble(
        Network(encoder, num_items, num_attributes, config.model.item_bias, pairs),
        config.ensemble.num_networks,
        config.ensemble.shared_init,
        one_after_another=platform == 'cpu' and encoder.task == 'next_item',
    )
