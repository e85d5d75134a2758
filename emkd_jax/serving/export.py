"""`--mode=export`: a trained ensemble as files that do not need this package.

model.stablehlo   jax.export: int32[batch, slots] histories -> float32[batch, items] scores, for any
                  batch size, on CPU, CUDA GPUs and TPUs, with the weights inside
items.json        original ids and titles of the items, in the order of the scores
item_vectors.npy  the item heads of all networks side by side, and
item_biases.npy   the sums of their biases; see `serving.vectors`
items.faiss       an index of both, with `config.export.index`
card.json         what the model is: data, configuration, metrics
weights.*         the parameters by name, in the format `config.export.weights`
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export as jax_export
from jaxtyping import Array, Float, Int

from emkd_jax.cli.console import say
from emkd_jax.data.atomic import new_folder
from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.serving.model import Model
from emkd_jax.serving.vectors import import_faiss, write_index
from emkd_jax.serving.weights import save_weights

_PLATFORMS = ('cpu', 'cuda', 'tpu')
_MOST_BYTES = 2**31 - 2**24  # of weights, which the file format can hold


def export(run: TrainedRun, output: str = '') -> None:
    """Writes the best checkpoint of a run to a new folder.

    Args:
      run: a trained run.
      output: the folder; '' for `export` in the workdir.

    Raises:
      UserError: the folder cannot be written, or the weights are more than one file holds.
    """
    model, folder = Model.from_run(run), epath.Path(output or run.folder / 'export')
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    if size > _MOST_BYTES:
        raise UserError(
            f'The weights have {size / 2**30:.1f} GiB, and one exported file holds 2; train fewer '
            'networks or a smaller model.hidden_dim, or raise data.k_core.'
        )
    if run.config.export.index:
        import_faiss()
    slots = model.ensemble.network.encoder.max_len - 1
    card = model.card() | {
        'slots': slots,
        'input': 'int32[batch, slots]: item numbers (1 = the first id in items.json), newest last, '
        'left-padded with 0',
        'output': 'float32[batch, items]: scores, in the order of items.json',
    }
    items = {'items': model.item_ids.tolist(), 'titles': model.titles.tolist()}
    with new_folder(folder, 'name another folder with --output') as partial:
        (partial / 'model.stablehlo').write_bytes(_serialize(model, slots))
        (partial / 'items.json').write_text(json.dumps(items))
        (partial / 'card.json').write_text(json.dumps(card, indent=2) + '\n')
        if ending := run.config.export.weights:
            save_weights(partial / f'weights.{ending}', model.params)
        vectors, biases = model.item_embeddings(), model.item_biases()
        np.save(partial / 'item_vectors.npy', vectors)
        np.save(partial / 'item_biases.npy', biases)
        if run.config.export.index:
            write_index(partial / 'items.faiss', vectors, biases)
        names = sorted(path.name for path in partial.iterdir())
    say(f'Exported to {folder}: {", ".join(names)}.')


def _serialize(model: Model, slots: int) -> bytearray:
    """The scoring function, with the parameters inside, in the form of `jax.export`."""
    data = model.dataset
    # Activations are float32 on every platform unless model.dtype says otherwise.
    ensemble = make_ensemble(
        model.config, data.num_items, data.num_attributes, 'cpu', data.item_attributes
    )
    ensemble, params = ensemble.with_effective(model.params)
    networks = ensemble.split(params)

    def scores(histories: Int[Array, 'batch slots']) -> Float[Array, 'batch items']:
        mask = jnp.full((histories.shape[0], 1), ensemble.network.mask_token, jnp.int32)
        items = jnp.concatenate([histories, mask], axis=1)
        found = ensemble.score(networks, items)
        if (counts := model.counts) is not None:
            found = found + counts.weight * counts.model.device_scores(histories)
        return found[:, 1:]

    (batch,) = jax_export.symbolic_shape('batch')
    with _no_source_lines():
        exported = jax_export.export(jax.jit(scores), platforms=_PLATFORMS)(
            jax.ShapeDtypeStruct((batch, slots), jnp.int32)  # type: ignore[no-untyped-call]
        )
    return exported.serialize()


@contextlib.contextmanager
def _no_source_lines() -> Iterator[None]:
    """Keeps the paths of this machine's source files out of what is compiled in the block."""
    name = 'jax_traceback_in_locations_limit'
    update: Callable[[str, Any], None] = jax.config.update
    before = getattr(jax.config, name)
    update(name, 0)
    try:
        yield
    finally:
        update(name, before)
