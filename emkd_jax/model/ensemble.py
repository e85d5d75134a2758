"""N networks as one: parameters stacked on a leading axis, and functions vectorised over it."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.encoders import make_encoder
from emkd_jax.model.encoders.layers import linear_params
from emkd_jax.model.precision import accumulation_dtype, activation_dtype


class Network(nn.Module):
    """One network: an encoder with an item head and an attribute head of its own.

    Attributes:
      encoder: a `SequenceEncoder`.
      num_items: V; items are 1..V.
      num_attributes: A; attributes are 1..A.
    """

    encoder: nn.Module
    num_items: int
    num_attributes: int

    def setup(self):
        dim = self.encoder.dim
        # Class 0 is the padding item (or its attribute): in the softmax, never a label.
        self.item_head = linear_params(self, 'item_head_', self.num_items + 1, dim)
        self.attribute_head = linear_params(self, 'attribute_head_', self.num_attributes + 1, dim)

    def __call__(
        self,
        items: Int[Array, 'rows slots'],
        keys: UInt32[Array, 'rows slots'] | None = None,
        last_only: bool = False,
    ) -> Float[Array, 'rows slots_out dim']:
        """Hidden states; see `SequenceEncoder.__call__`."""
        return self.encoder(items, keys, last_only)

    @property
    def mask_token(self) -> int:
        """The token behind a history whose next item is asked for."""
        return self.num_items + 1

    def score(self, items: Int[Array, 'rows slots']) -> Float[Array, 'rows classes']:
        """Item logits at the last slot: how well each item 0..V continues the history before it.

        Args:
          items: the end of each history and then `mask_token`, padded on the left with 0.
        """
        return self.item_logits(self.encoder(items, last_only=True)[:, -1])

    def item_logits(self, hidden: Float[Array, '*lead dim']) -> Float[Array, '*lead classes']:
        """Logits over classes 0..num_items, accumulated and returned in float32 or wider."""
        return _wide_linear(hidden, *self.item_head)

    def attribute_logits(self, hidden: Float[Array, '*lead dim']) -> Float[Array, '*lead classes']:
        """Logits over attributes 0..num_attributes."""
        return _wide_linear(hidden, *self.attribute_head)


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
    """`num_networks` independent copies of `network`. Functions are pure; parameters go in."""

    network: Network
    num_networks: int
    shared_init: bool = False

    def with_dropout(self, rate: hash_rng.Rate) -> 'Ensemble':
        """The same ensemble with another dropout rate, which may be traced."""
        encoder = self.network.encoder.clone(dropout=rate)
        return dataclasses.replace(self, network=self.network.clone(encoder=encoder))

    def init(self, key: jax.Array) -> PyTree[Float[Array, 'networks ...']]:
        """Parameters of all networks; each equals its stand-alone initialisation to the bit.

        With `shared_init`, only embeddings and heads differ, and the rest of every encoder starts
        from the weights of the first one: the released code reseeds before each encoder.
        """
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
        """The key each network is initialised from."""
        return jax.random.split(key, self.num_networks)

    def hidden(
        self,
        params: PyTree,
        items: Int[Array, 'rows slots'],
        row_keys: UInt32[Array, ' rows'] | None = None,
    ) -> Float[Array, 'networks rows slots dim']:
        """Hidden states of every network.

        Args:
          params: parameters of all networks.
          items: padded on the left with 0.
          row_keys: a hash key for each row switches dropout on; it then depends on (row key,
            network, slot, site) alone.
        """
        token_keys = None
        if row_keys is not None:
            token_keys = hash_rng.fold(
                row_keys[None, :, None],
                jnp.arange(self.num_networks)[:, None, None],
                jnp.arange(items.shape[1])[None, None, :],
            )

        def apply(params, items, token_keys):
            return self.network.apply({'params': params}, items, token_keys)

        # Each network gets items of its own: a lookup batched on both sides keeps them apart.
        items = jnp.broadcast_to(items, (self.num_networks, *items.shape))
        axes = (0, 0, None if row_keys is None else 0)
        return jax.vmap(apply, in_axes=axes)(_as_jax_arrays(params), items, token_keys)

    def last_hidden(
        self, params: PyTree, items: Int[Array, 'rows slots']
    ) -> Float[Array, 'networks rows dim']:
        """Hidden states of the last slot of every network."""

        def apply(params):
            return self.network.apply({'params': params}, items, last_only=True)[:, -1]

        return jax.vmap(apply)(_as_jax_arrays(params))

    def scores(
        self, networks: Sequence[PyTree], items: Int[Array, 'rows slots']
    ) -> list[Float[Array, 'rows classes']]:
        """`Network.score` of each network; the ensemble recommends by their sum.

        Networks are scored one at a time, by plain products: a CPU runs batched ones at down to
        half the rate.

        Args:
          networks: the parameters of each network, as `split` gives them.
          items: see `Network.score`.
        """
        return [
            self.network.apply({'params': params}, items, method=Network.score)
            for params in networks
        ]

    def split(self, params: PyTree) -> list[PyTree]:
        """The parameters of each network."""
        return [take_network(params, n) for n in range(self.num_networks)]

    def item_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Item logits of each network from its own hidden states."""
        return jax.vmap(
            lambda p, h: self.network.apply({'params': p}, h, method=Network.item_logits)
        )(params, hidden)

    def attribute_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Attribute logits of each network from its own hidden states."""
        return jax.vmap(
            lambda p, h: self.network.apply({'params': p}, h, method=Network.attribute_logits)
        )(params, hidden)


def _as_jax_arrays(params: PyTree) -> PyTree:
    """Inside `jit`, `vmap` of a custom derivative fails for parameters that are NumPy arrays."""
    return jax.tree.map(jnp.asarray, params)


def take_network(params: PyTree, index: int) -> PyTree:
    """The parameters of one network, for `ensemble.network.apply({'params': ...}, items)`."""
    return jax.tree.map(lambda x: x[index], params)


def make_ensemble(
    config: ml_collections.ConfigDict,
    num_items: int,
    num_attributes: int,
    platform: str | None = None,
) -> Ensemble:
    """The ensemble that `config.model` and `config.ensemble` describe.

    Args:
      config: the run's configuration.
      num_items: V, items are 1..V.
      num_attributes: A, attributes are 1..A.
      platform: what it will run on ('cpu', 'gpu' or 'tpu'); None: the backend of this process.

    Raises:
      UserError: the options do not fit together.
    """
    dtype = activation_dtype(config.model.dtype, platform or jax.default_backend())
    network = Network(make_encoder(config.model, num_items, dtype), num_items, num_attributes)
    return Ensemble(network, config.ensemble.num_networks, config.ensemble.shared_init)
