"""`--mode=export`: a trained ensemble as files that need none of this project's code.

model.stablehlo   jax.export: int32[batch, slots] histories -> float32[batch, items] scores,
                  for any batch, on CPU, CUDA GPUs and TPUs; the weights are inside
items.json        original ids (and titles) of the items, in the order of the scores
card.json         what it is: data, configuration, metrics
weights.*         the parameters by name, as `config.export.weights` asks
"""

import json
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath
from jax import export as jax_export
from jaxtyping import Array, Float, Int, PyTree

from emkd_jax import data as data_room
from emkd_jax.errors import UserError
from emkd_jax.model.ensemble import Ensemble, make_ensemble
from emkd_jax.runs.evaluate import best_params
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.reporting import say
from emkd_jax.runs.results import default_workdir, read_results
from emkd_jax.runs.workdir import is_remote
from emkd_jax.serving.weights import FORMATS, save_weights

_PLATFORMS = ('cpu', 'cuda', 'tpu')
_MOST_BYTES = 2**31 - 2**24  # of weights: what the file format can hold


def export(config: ml_collections.ConfigDict, workdir: str = '', output: str = '') -> None:
    """Writes the best checkpoint of `workdir` to the folder `output` (default: export in workdir).

    Raises:
      UserError: an option or a folder is wrong, or the weights are more than one file holds.
    """
    if config.export.weights not in ('', *FORMATS):
        raise UserError(
            f"export.weights is '{config.export.weights}'; use {', '.join(FORMATS)}, or '' for "
            'none.'
        )
    experiment = make_experiment(config)
    workdir = workdir or default_workdir(experiment)
    params, record = best_params(experiment, workdir)
    if is_remote(output or workdir):
        raise UserError(
            f'Exported files are written to a folder of this machine, and {output or workdir} is '
            'none; name one with --output.'
        )
    folder = pathlib.Path(output or pathlib.Path(workdir) / 'export')
    if folder.exists():
        raise UserError(f'{folder} is already there; name another folder with --output.')
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > _MOST_BYTES:
        raise UserError(
            f'The weights have {size / 2**30:.1f} GiB, and one exported file holds 2; take fewer '
            'networks or a smaller model.hidden_dim, or raise data.k_core.'
        )
    data = experiment.data
    # The same numbers on every platform: activations are float32 unless asked otherwise.
    ensemble = make_ensemble(config, data.num_items, data.num_attributes, platform='cpu')
    results = read_results(epath.Path(workdir)) or {}
    card = {
        'name': config.name,
        'data': experiment.counts | {'name': data.name, 'stand_in': data.stand_in},
        'slots': ensemble.network.encoder.max_len - 1,
        'input': 'int32[batch, slots]: item numbers (1 = the first id in items.json), newest last, '
        'left-padded with 0',
        'output': 'float32[batch, items]: scores, in the order of items.json',
        'test': results.get('test'),
        'epoch': record['best']['epoch'],
        'config': json.loads(config.to_json_best_effort()),
        'jax': jax.__version__,
    }
    items = {'items': data.item_ids.tolist(), 'titles': data_room.titles(config.data)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
        try:
            (partial / 'model.stablehlo').write_bytes(serialized(ensemble, params))
            (partial / 'items.json').write_text(json.dumps(items))
            (partial / 'card.json').write_text(json.dumps(card, indent=2) + '\n')
            if config.export.weights:
                save_weights(partial / f'weights.{config.export.weights}', params)
            partial.chmod(0o755)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be written ({error.strerror or error}); mend --output.'
        ) from error
    say(f'Exported to {folder}: {", ".join(sorted(path.name for path in folder.iterdir()))}.')


def serialized(ensemble: Ensemble, params: PyTree) -> bytearray:
    """The scoring function with `params` inside, in the form of `jax.export`."""
    encoder = ensemble.network.encoder
    params = jax.tree.map(jnp.asarray, params)  # custom derivatives take no host arrays

    def scores(histories: Int[Array, 'batch slots']) -> Float[Array, 'batch items']:
        mask = jnp.full((histories.shape[0], 1), ensemble.network.num_items + 1, jnp.int32)
        hidden = ensemble.last_hidden(params, jnp.concatenate([histories, mask], axis=1))
        return ensemble.item_logits(params, hidden).sum(0)[:, 1:]

    jax.config.update('jax_traceback_in_locations_limit', 0)  # no paths of this machine inside
    (batch,) = jax_export.symbolic_shape('batch')
    exported = jax_export.export(jax.jit(scores), platforms=_PLATFORMS)(
        jax.ShapeDtypeStruct((batch, encoder.max_len - 1), jnp.int32)
    )
    return exported.serialize()
