"""Item tables whose rows are split over the devices of a pmap.

A table has a row for every item: the embeddings of the items, and the kernel and the bias of an
item head. With the moments of Adam, the tables are nearly all the memory of a model with
millions of items. With D devices, device s holds R >= rows / D rows of each table, those from s R
on; the last ones are filled up with zeros, which nothing reads.

A network never sees a table that is split. It is given a small table instead, which holds the rows
that the batch looks up, one for each slot, and the items are numbered anew. Encoders, and those
written elsewhere, therefore need not know about it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

AXIS = 'devices'  # the pmapped axis over which batches, and the rows of tables, are spread
# TPUs store tables in tiles of 8 rows. Where R is a multiple, tables of several networks can be
# read as one table, and a compiled step works on the arrays of the state instead of on copies.
_TILE = 8
_LOOKED_UP_AT_A_TIME = 1 << 14  # positions of all devices, whose rows a device holds together

Tables = Float[Array, 'networks rows dim']


def is_table(path: tuple[Any, ...]) -> bool:
    """Returns whether a leaf of parameters, or of moments of them, is an item table.

    Args:
      path: where the leaf is in its tree, as `jax.tree_util.tree_map_with_path` gives it.
    """
    names = [getattr(key, 'key', getattr(key, 'name', None)) for key in path[-2:]]
    return names == ['embedding', 'tokens'] or names[-1:] in (
        ['item_head_kernel'],
        ['item_head_bias'],
    )


def table_bytes(tree: PyTree) -> tuple[int, int]:
    """Returns the bytes of the item tables of a tree of arrays or shapes, and of all the rest."""
    tables = rest = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        size = leaf.size * leaf.dtype.itemsize
        tables, rest = (tables + size, rest) if is_table(path) else (tables, rest + size)
    return tables, rest


def row_axis(path: tuple[Any, ...]) -> int:
    """Returns which axis of an item table has its rows, counted from the end."""
    return -1 if getattr(path[-1], 'key', None) == 'item_head_bias' else -2


def rows_per_device(rows: int, shards: int) -> int:
    """Returns R, how many rows of a table each of `shards` devices holds."""
    return -(-rows // (shards * _TILE)) * _TILE


def split_rows(
    leaf: Float[np.ndarray, '*shape'], axis: int, shards: int
) -> Float[np.ndarray, '_ ...']:
    """Splits the rows of a table, which lie along `axis` (negative), into those of each device."""
    rows = leaf.shape[axis]
    each = rows_per_device(rows, shards)
    padding = [(0, 0)] * leaf.ndim
    padding[axis] = (0, shards * each - rows)
    place = leaf.ndim + axis
    split = (*leaf.shape[:place], shards, each, *leaf.shape[place + 1 :])
    return np.moveaxis(np.pad(leaf, padding).reshape(split), place, 0)


def join_rows(
    leaf: Float[np.ndarray, '_ ...'], axis: int, rows: int
) -> Float[np.ndarray, '*shape']:
    """Undoes `split_rows` for a table of `rows` rows."""
    place = leaf.ndim - 1 + axis
    whole = np.moveaxis(leaf, 0, place)
    shape = (*whole.shape[:place], -1, *whole.shape[place + 2 :])
    return np.take(whole.reshape(shape), np.arange(rows), axis=place)


@jax.custom_vjp
def lookup(
    table: Tables, items: Int[Array, ' positions']
) -> Float[Array, 'networks positions dim']:
    """Looks rows up in a table that is split over the devices.

    The items of all devices are gathered, each device looks up those whose rows it holds, and sums
    over the devices give every device the rows of its own items. The gradient is that of the global
    batch, so that it must not be summed over the devices again.

    Args:
      table: this device's rows of the tables of several networks.
      items: this device's items, numbered as in the whole table. Their number must be the same on
        every device.
    """
    networks, rows, dim = table.shape
    flat = table.reshape(-1, dim)

    def some(items):
        places = _places_in_all(items, networks, rows)
        return sum_of_own(flat.at[places].get(mode='fill', fill_value=0))

    # Only some positions at a time: those of all devices together may need more than the table.
    found = jax.lax.map(some, _in_chunks(items, 0))
    return jnp.moveaxis(found, 0, 1).reshape(networks, -1, dim)[:, : len(items)]


def _lookup_forward(table, items):
    return lookup(table, items), (table.shape, items)


def _lookup_backward(kept, grad):
    (networks, rows, dim), items = kept

    def add(sums, chunk):
        items, grad = chunk
        grad = jax.lax.all_gather(grad, AXIS, axis=1, tiled=True)
        return sums.at[_places_in_all(items, networks, rows)].add(grad, mode='drop'), None

    zeros = jnp.zeros((networks * rows, dim), grad.dtype)
    sums, _ = jax.lax.scan(add, zeros, (_in_chunks(items, 0), _in_chunks(grad, 1)))
    # Without the barrier, parts of the optimizer would be computed before the reshape, and stored.
    table_grad = jax.lax.optimization_barrier(sums.reshape(networks, rows, dim))
    return table_grad, np.zeros(items.shape, jax.dtypes.float0)


lookup.defvjp(_lookup_forward, _lookup_backward)


def _in_chunks(array, axis):
    """Chunks of positions, which lie along `axis`; the last is filled up with zeros."""
    count = array.shape[axis]
    size = min(count, max(1, _LOOKED_UP_AT_A_TIME // jax.lax.axis_size(AXIS)))
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, -count % size)
    chunks = (*array.shape[:axis], -1, size, *array.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(array, padding).reshape(chunks), axis, 0)


def _places_in_all(items, networks, rows):
    """Places (networks, positions of all devices) in the tables of all networks, one after another.

    Rows that another device has are behind the last place.
    """
    places = local_places(jax.lax.all_gather(items, AXIS, tiled=True), rows)
    firsts = jnp.arange(networks)[:, None] * rows
    return jnp.where((places < rows)[None], firsts + places[None], networks * rows)


def sum_of_own(
    array: Float[Array, 'networks all_positions dim'],
) -> Float[Array, 'networks positions dim']:
    """Sums an array over the devices, at the positions of this device.

    This is `psum_scatter` as an exchange and a sum, which send as many bytes: the compiler for TPUs
    (libtpu 0.0.42) aborts over the reduce-scatter of a pmap.
    """
    networks, _, dim = array.shape
    parts = array.reshape(networks, jax.lax.axis_size(AXIS), -1, dim)
    return jax.lax.all_to_all(parts, AXIS, split_axis=1, concat_axis=1).sum(1)


def local_places(items: Int[Array, '*lead'], rows: int) -> Int[Array, '*lead']:
    """Returns the place of each item among this device's `rows`; `rows` if another one has it."""
    places = items - jax.lax.axis_index(AXIS) * rows
    return jnp.where((places >= 0) & (places < rows), places, rows)


def with_rows_of(network: Any, params: PyTree, items: Int[Array, '*lead']) -> tuple[Any, ...]:
    """Returns networks that know the items of a batch alone.

    Args:
      network: the networks of a stack.
      params: their effective parameters, with this device's rows of the tables.
      items: the items of this device's batch; 0 is padding.

    Returns:
      The network, its parameters, with a leading axis of networks, and the items, numbered anew.
    """
    count = items.size
    tokens = params['encoder']['embedding']['tokens']
    tokens = lookup(tokens, items.reshape(-1))
    networks, _, dim = tokens.shape
    # In front is the padding item; behind, what the cloze task would have for the mask token.
    encoder = network.encoder.clone(num_items=count)
    small = network.clone(encoder=encoder, num_items=count, attribute_pairs=None, shards=1)
    behind = 1 if network.encoder.task == 'next_item' else 2
    tokens = jnp.pad(tokens, ((0, 0), (1, behind - 1), (0, 0)))
    own = params['encoder']
    params = params | {
        'encoder': own | {'embedding': own['embedding'] | {'tokens': tokens}},
        # The heads are not read; what takes their place is dropped from the compiled program.
        'item_head_kernel': jnp.zeros((networks, count + 1, dim)),
        'item_head_bias': jnp.zeros((networks, count + 1)),
    }
    numbers = jnp.arange(1, count + 1, dtype=items.dtype).reshape(items.shape)
    return small, params, jnp.where(items > 0, numbers, 0)


def all_classes(logits: Float[Array, 'all_rows classes'], num_items: int) -> Float[Array, 'rows _']:
    """Exchanges logits of this device's classes for all rows by those of all classes for its rows.

    Args:
      logits: of the classes that this device has, for the rows of all devices in their order.
      num_items: V; the classes are 0..V.
    """
    shards = jax.lax.axis_size(AXIS)
    own = jax.lax.all_to_all(
        logits.reshape(shards, -1, logits.shape[-1]), AXIS, split_axis=0, concat_axis=0
    )
    return jnp.moveaxis(own, 0, 1).reshape(own.shape[1], -1)[:, : num_items + 1]
