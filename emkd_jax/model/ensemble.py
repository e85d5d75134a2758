"""An ensemble: stacks of networks, whose parameters lie along a leading axis of networks."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.errors import UserError
from emkd_jax.model import hash_rng
from emkd_jax.model.attribute_inputs import AttributePairs
from emkd_jax.model.encoders import make_encoder
from emkd_jax.model.encoders.base import Items, Segments
from emkd_jax.model.encoders.in_parts import WITH_FAST_MEMORY
from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.model.network import Network
from emkd_jax.model.precision import activation_dtype
from emkd_jax.model.sharded_tables import rows_per_device, with_rows_of


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Independent networks. Those of one kind form a stack.

    An ensemble holds no parameters: its functions take them. The parameters of a stack have a
    leading axis of networks. Those of an ensemble are those of its only stack, or else a dictionary
    {'stack_0': ..., 'stack_1': ...}.

    With `shared_init`, the networks of a stack start from the same weights, as in the released
    code, which sets the random seed anew before each encoder; only embeddings and heads then
    differ. The networks of a stack are vectorised, or computed `one_after_another`, which is faster
    on CPUs: their products that are batched over networks run at down to half the rate.

    Where the rows of the item tables are split over devices (`shards`), functions take parameters
    that have this device's rows, within a pmap.

    Attributes:
      stacks: the network of each stack, and the number of copies of it. All networks agree in the
        number of items, the width of the hidden states, the largest input and the task.
      shared_init, one_after_another: see above.
    """

    stacks: tuple[tuple[Network, int], ...]
    shared_init: bool = False
    one_after_another: bool = False

    @property
    def network(self) -> Network:
        """The first network, for what all networks agree in."""
        return self.stacks[0][0]

    @property
    def shards(self) -> int:
        """Over how many devices the rows of the item tables are split."""
        return self.network.shards

    @property
    def networks(self) -> list[Network]:
        """The networks in their order."""
        return [network for network, count in self.stacks for _ in range(count)]

    @property
    def num_networks(self) -> int:
        """N, the number of networks."""
        return sum(count for _, count in self.stacks)

    def only(self, n: int) -> 'Ensemble':
        """Returns an ensemble of network `n` alone."""
        return dataclasses.replace(self, stacks=((self.networks[n], 1),))

    def with_dropout(self, rate: hash_rng.Rate) -> 'Ensemble':
        """Returns the same ensemble with another dropout rate, which may be traced."""
        stacks = tuple(
            (network.clone(encoder=network.encoder.clone(dropout=rate)), count)
            for network, count in self.stacks
        )
        return dataclasses.replace(self, stacks=stacks)

    def sharded(self, shards: int) -> 'Ensemble':
        """Returns the same ensemble with item tables that are split over devices."""
        stacks = []
        for network, count in self.stacks:
            pairs = network.attribute_pairs
            if pairs is not None:
                rows = network.num_items + (1 if network.encoder.task == 'next_item' else 2)
                pairs = pairs.split(rows_per_device(rows, shards) if shards > 1 else 0)
            stacks.append((network.clone(attribute_pairs=pairs, shards=shards), count))
        return dataclasses.replace(self, stacks=tuple(stacks))

    def over_stacks(self, function: Callable[..., PyTree], *trees: PyTree) -> PyTree:
        """Calls function(network, trees of the stack ...) for each stack.

        The trees, and what is returned, have the form of the parameters of an ensemble.
        """
        if len(self.stacks) == 1:
            return function(self.network, *trees)
        return {
            name: function(network, *(tree[name] for tree in trees))
            for name, (network, _) in zip(self._names, self.stacks, strict=True)
        }

    def place(self, params: PyTree, n: int) -> tuple[PyTree, int]:
        """Returns the parameters of the stack of network `n`, and its place in the stack."""
        for stack, (_, count) in zip(self._stacks_of(params), self.stacks, strict=True):
            if n < count:
                return stack, n
            n -= count
        raise IndexError(n)

    def init(self, key: jax.Array) -> PyTree[Float[Array, '_ ...']]:
        """Initialises all networks; without `shared_init`, to the bit as each would be alone."""
        return _compiled_init(self)(key)

    def _init(self, key):
        items = jnp.ones((1, self.network.encoder.max_len), jnp.int32)
        keys, first, found = self.keys(key), 0, []
        for network, count in self.stacks:
            init = jax.vmap(network.init, in_axes=(0, None))
            params = init(keys[first : first + count], items)['params']
            if self.shared_init:
                for name, part in params['encoder'].items():
                    if name != 'embedding':
                        params['encoder'][name] = jax.tree.map(
                            lambda x: jnp.broadcast_to(x[:1], x.shape), part
                        )
            found.append(params)
            first += count
        return self._from_stacks(found)

    def keys(self, key: jax.Array) -> jax.Array:
        """The key from which each network is initialised."""
        return jax.random.split(key, self.num_networks)

    def split(self, params: PyTree) -> list[PyTree]:
        """The parameters of each network, for `network.apply({'params': ...}, items)`."""
        return [
            jax.tree.map(operator.itemgetter(n), stack)
            for stack, (_, count) in zip(self._stacks_of(params), self.stacks, strict=True)
            for n in range(count)
        ]

    def apart(self, params: PyTree) -> tuple['Ensemble', PyTree]:
        """Returns the same networks as stacks of one network each, and their parameters.

        In a loss, the gradients of the networks are then put together once, at the end. Those of
        `split` are added up in arrays of all networks instead, one for each use of a parameter.
        """
        found = []
        for stack, (_, count) in zip(self._stacks_of(params), self.stacks, strict=True):
            leaves, structure = jax.tree.flatten(stack)
            pieces = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
            found += [structure.unflatten(own) for own in zip(*pieces, strict=True)]
        stacks = tuple((network, 1) for network in self.networks)
        ensemble = dataclasses.replace(self, stacks=stacks)
        return ensemble, ensemble._from_stacks(found)

    def effective(self, params: PyTree) -> PyTree:
        """Returns the `Network.effective` parameters of all networks."""
        if self.network.attribute_pairs is None:
            return params
        return self.over_stacks(lambda network, p: jax.vmap(network.effective)(p), params)

    def with_effective(self, params: PyTree) -> tuple['Ensemble', PyTree]:
        """Adds the attributes to the embeddings once, for what scores many batches of histories.

        Returns:
          An ensemble without attributes, and parameters with which it scores as this one does.
        """
        if self.network.attribute_pairs is None:
            return self, params
        stacks = tuple((network.without_attributes(), count) for network, count in self.stacks)
        return dataclasses.replace(self, stacks=stacks), jax.jit(self.effective)(params)

    def hidden(
        self,
        params: PyTree,
        items: Items,
        row_keys: UInt32[Array, ' rows'] | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, 'networks rows slots dim']:
        """Computes the hidden states of every network.

        Args:
          params: effective parameters of all networks.
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
        params = jax.tree.map(jnp.asarray, params)
        if self.shards > 1:
            small, params, items = self._on_rows_of(params, items)
            return small._hidden(params, items, slot_keys, segments)
        return self._hidden(params, items, slot_keys, segments)

    def _on_rows_of(self, params, items):
        """The ensemble that knows the rows of these items alone; see `sharded_tables`."""
        found = [
            with_rows_of(network, stack, items)
            for stack, (network, _) in zip(self._stacks_of(params), self.stacks, strict=True)
        ]
        networks, stacks, numbers = zip(*found, strict=True)
        kinds = zip(networks, (count for _, count in self.stacks), strict=True)
        small = dataclasses.replace(self, stacks=tuple(kinds))
        return small, self._from_stacks(stacks), numbers[0]

    def _hidden(self, params, items, slot_keys, segments):
        def apply(network, params, items, slot_keys):
            return network.apply({'params': params}, items, slot_keys, segments=segments)

        if self.one_after_another:
            return jnp.stack(
                [
                    apply(network, p, items, None if slot_keys is None else slot_keys[n])
                    for n, (network, p) in enumerate(
                        zip(self.networks, self.split(params), strict=True)
                    )
                ]
            )
        found, first = [], 0
        for stack, (network, count) in zip(self._stacks_of(params), self.stacks, strict=True):
            keys = None if slot_keys is None else slot_keys[first : first + count]
            # With items of their own, the networks look up their embeddings separately.
            own_items = jnp.broadcast_to(items, (count, *items.shape))
            compute = functools.partial(apply, network)
            in_axes = (0, 0, None if keys is None else 0)
            found.append(jax.vmap(compute, in_axes=in_axes)(stack, own_items, keys))
            first += count
        return _joined(found)

    def item_heads(self, params: PyTree) -> ItemHeads:
        """Returns the item heads of all networks, from effective parameters."""
        heads = [
            network.item_head_of(stack)
            for stack, (network, _) in zip(self._stacks_of(params), self.stacks, strict=True)
        ]
        kernels, biases = zip(*heads, strict=True)
        return ItemHeads(_joined(kernels), _joined(biases))

    def item_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Computes the item logits of each network from its own hidden states."""
        return self._from_hidden(Network.item_logits_of, params, hidden)

    def attribute_logits(
        self, params: PyTree, hidden: Float[Array, 'networks *lead dim']
    ) -> Float[Array, 'networks *lead classes']:
        """Computes the attribute logits of each network from its own hidden states."""
        return self._from_hidden(Network.attribute_logits_of, params, hidden)

    def states(self, networks: Sequence[PyTree], items: Items) -> list[Float[Array, 'rows dim']]:
        """Computes the `Network.predicting_state` of each network; see `scores`."""
        return [
            network.state_of(params, items)
            for network, params in zip(self.networks, networks, strict=True)
        ]

    def scores(
        self, networks: Sequence[PyTree], items: Items
    ) -> list[Float[Array, 'rows classes']]:
        """Scores every item as the continuation of each history, by each network.

        This is the one way from histories to scores; `score` adds the networks up. Networks are
        scored one after another, since a CPU runs products that are batched over networks at down
        to half the rate.

        Args:
          networks: trained parameters of each network, as `split` returns them.
          items: the end of each history and then `Network.mask_token`, padded on the left with 0.

        Returns:
          The item logits 0..V of each network.
        """
        return [
            network.scores_of(params, items)
            for network, params in zip(self.networks, networks, strict=True)
        ]

    def score(self, networks: Sequence[PyTree], items: Items) -> Float[Array, 'rows classes']:
        """Sums the `scores` of the networks; the ensemble recommends the items of highest sum."""
        return functools.reduce(jnp.add, self.scores(networks, items))

    @property
    def _names(self) -> list[str]:
        return [f'stack_{number}' for number in range(len(self.stacks))]

    def _stacks_of(self, params):
        return [params] if len(self.stacks) == 1 else [params[name] for name in self._names]

    def _from_stacks(self, stacks):
        """The parameters of the ensemble whose `_stacks_of` are these."""
        return stacks[0] if len(stacks) == 1 else dict(zip(self._names, stacks, strict=True))

    def _from_hidden(self, function, params, hidden):
        found, first = [], 0
        for stack, (network, count) in zip(self._stacks_of(params), self.stacks, strict=True):
            compute = functools.partial(function, network)
            found.append(jax.vmap(compute)(stack, hidden[first : first + count]))
            first += count
        return _joined(found)


def _joined(arrays):
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)


@functools.lru_cache(8)  # small, so that a notebook that builds many ensembles does not keep them
def _compiled_init(ensemble):
    return jax.jit(ensemble._init)


def make_ensemble(
    config: ml_collections.ConfigDict,
    num_items: int,
    num_attributes: int,
    platform: str | None = None,
    item_attributes: Int[np.ndarray, 'items most'] | None = None,
    device_kind: str | None = None,
) -> Ensemble:
    """Makes the ensemble that `config.model` and `config.ensemble` describe.

    Args:
      config: the run's configuration.
      num_items: V, items are 1..V.
      num_attributes: A, attributes are 1..A.
      platform: 'cpu', 'gpu' or 'tpu', where it will run; None: the backend of this process.
      item_attributes: the attribute ids of every item, padded with -1; read where
        `model.attribute_inputs` is set.
      device_kind: of the devices there, as JAX calls it; None: unknown, or that of this process.

    Raises:
      UserError: the options do not fit together.
    """
    if platform is None:
        platform, device_kind = jax.default_backend(), jax.devices()[0].device_kind
    dtype = activation_dtype(config.model.dtype, platform)
    pairs = None
    if config.model.attribute_inputs and num_attributes and item_attributes is not None:
        pairs = AttributePairs(item_attributes, on_cpu=platform == 'cpu')
    model = config.model.copy_and_resolve_references()
    kinds = member_encoders(config)
    stacks = []
    for kind in dict.fromkeys(kinds):
        model.encoder = kind
        encoder = make_encoder(model, num_items, dtype, config.objective.task)
        encoder = encoder.clone(fast_memory=device_kind in WITH_FAST_MEMORY)
        network = Network(encoder, num_items, num_attributes, model.item_bias, pairs)
        stacks.append((network, kinds.count(kind)))
    tasks = {network.encoder.task for network, _ in stacks}
    if len(tasks) > 1:
        raise UserError(
            f'ensemble.members={config.ensemble.members} would be trained on different tasks; set '
            '--config.objective.task=cloze, which every encoder can be trained on.'
        )
    return Ensemble(
        tuple(stacks),
        config.ensemble.shared_init,
        one_after_another=platform == 'cpu' and tasks == {'next_item'},
    )


def member_encoders(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the encoder of every network that a configuration asks for.

    Raises:
      UserError: a name in `ensemble.members` is empty.
    """
    if not config.ensemble.members:
        return [config.model.encoder] * config.ensemble.num_networks
    kinds = [kind.strip() for kind in config.ensemble.members.split(',')]
    if not all(kinds):
        raise UserError(
            f'ensemble.members is {config.ensemble.members!r}; write the encoders of the networks '
            'with a comma between them, such as sasrec_plus,sasrec_plus,bsarec.'
        )
    return kinds
