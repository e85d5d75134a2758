"""Training that goes on from a trained run, on a log that has grown since."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Int, PyTree

from emkd_jax.cli.console import say
from emkd_jax.data.dataset import Dataset
from emkd_jax.errors import UserError
from emkd_jax.runs.beginning import begin
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.trained import TrainedRun, default_workdir, load_run
from emkd_jax.runs.workdir import holds_run
from emkd_jax.training.sweep import check_single

# Tables of parameters with a row for each item, and for each attribute, by their last name.
_ITEM_TABLES = ('tokens', 'item_head_kernel', 'item_head_bias')
_ATTRIBUTE_TABLES = ('attribute_embeddings', 'attribute_head_kernel', 'attribute_head_bias')


def continue_training(
    source: str,
    config: ml_collections.ConfigDict,
    data: Dataset | None = None,
    workdir: str = '',
    signals: StopSignals | None = None,
) -> TrainedRun:
    """Trains a new run that begins with the best parameters of another one.

    The rows of known items and attributes are taken over by their original ids and names. The row
    of a new item is the mean of those of the known items that share an attribute with it or, where
    none does, of all known items. Adam starts anew. The same call resumes the new run.

    Args:
      source: workdir of the trained run.
      config: options of the new run, whose model must be that of the trained run.
      data: the new data; None: `config.data` describes it.
      workdir: of the new run; '' for the default one.
      signals: see `train`.

    Raises:
      UserError: as `train`; or the runs have different models, or the same workdir.
    """
    workdir = workdir or default_workdir(config)
    check_single(config, '--from')
    if not holds_run(workdir):
        if jax.process_count() > 1:
            raise UserError(
                '--from begins a run on one host only; start the command on one host, stop it once '
                'it trains, and start it again on all hosts.'
            )
        before = load_run(source)
        experiment = make_experiment(config, data)
        params = carry_over(before, experiment.initial_state().params, experiment.data)
        folder, value = begin(experiment, params, workdir, started_from=str(before.folder))
        say(f'{folder} begins with the parameters of {before.folder}: validation {value:.4f}.')
        data = experiment.data
    return train(config, data, workdir, signals)


def carry_over(before: TrainedRun, initial: PyTree, data: Dataset) -> PyTree:
    """Returns the parameters of a run, with rows for the items and attributes of other data.

    Args:
      before: the trained run.
      initial: initial parameters for the other data, which new attributes keep.
      data: the other data.

    Raises:
      UserError: the parameters are those of another model, or of other items altogether.
    """
    old_data = before.dataset
    items = _places(old_data.item_ids.tolist(), data.item_ids.tolist())
    if not items.any():
        raise UserError(
            f'{before.folder} knows none of the {len(items):,} items of {data.name}; name a run on '
            'an earlier log of the same items with --from, or leave it out.'
        )
    attributes = _places(_attribute_names(old_data), _attribute_names(data))
    similar = _similar_items(data, items)
    old = dict(_leaves(before.params))
    new_leaves = []
    for path, leaf in _leaves(jax.device_get(initial)):
        last = path.rpartition('/')[2]
        found = old.get(path)
        if found is None:
            raise _other_model(before, path)
        if last in _ITEM_TABLES or last in _ATTRIBUTE_TABLES:
            axis = found.ndim - (1 if last.endswith('bias') else 2)
            rows, source = np.moveaxis(np.array(leaf), axis, 0), np.moveaxis(found, axis, 0)
            if rows.shape[1:] != source.shape[1:]:
                raise _other_model(before, path)
            if last in _ITEM_TABLES:
                rows = _item_rows(rows, source, items, similar)
            else:
                rows[0] = source[0]
                known = np.flatnonzero(attributes)
                rows[known + 1] = source[attributes[known]]
            leaf = np.moveaxis(rows, 0, axis)
        elif found.shape == leaf.shape:
            leaf = found
        else:
            raise _other_model(before, path)
        new_leaves.append(leaf)
    say(
        f'{np.count_nonzero(items):,} of {len(items):,} items and '
        f'{np.count_nonzero(attributes):,} of {len(attributes):,} attributes are known to '
        f'{before.folder}'
    )
    return jax.tree.unflatten(jax.tree.structure(initial), new_leaves)


def _item_rows(
    rows: np.ndarray, source: np.ndarray, items: np.ndarray, similar: dict[int, np.ndarray]
) -> np.ndarray:
    """The rows of an item table: known ones, and means for new items."""
    rows[0] = source[0]  # the padding item
    if len(rows) > len(items) + 1:  # the mask token
        rows[-1] = source[-1]
    known = np.flatnonzero(items)
    rows[known + 1] = source[items[known]]
    mean = source[items[known]].mean(0)
    for place in np.flatnonzero(items == 0).tolist():
        like = similar[place]
        rows[place + 1] = rows[like + 1].mean(0) if len(like) else mean
    return rows


def _similar_items(data: Dataset, items: Int[np.ndarray, ' items']) -> dict[int, np.ndarray]:
    """The places of the known items that share an attribute with each new item, by its place."""
    table = data.item_attributes[1:]
    holders: dict[int, list[int]] = {}
    for place in np.flatnonzero(items).tolist():
        for attribute in table[place][table[place] > 0].tolist():
            holders.setdefault(attribute, []).append(place)
    return {
        place: np.array(
            sorted({p for a in table[place].tolist() if a > 0 for p in holders.get(a, ())}), int
        )
        for place in np.flatnonzero(items == 0).tolist()
    }


def _places(before: Iterable[Any], after: Iterable[Any]) -> Int[np.ndarray, ' after']:
    """The number, from 1, that each of `after` has in `before`; 0 where it is new."""
    number_of = {str(name): number for number, name in enumerate(before, 1)}
    return np.array([number_of.get(str(name), 0) for name in after], int)


def _attribute_names(data: Dataset) -> Sequence[Any]:
    return data.attribute_names or range(1, data.num_attributes + 1)


def _leaves(tree: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield '/'.join(str(getattr(key, 'key', key)) for key in path), np.asarray(leaf)


def _other_model(before: TrainedRun, path: str) -> UserError:
    return UserError(
        f'{before.folder} has another model than the configuration (they differ in {path}); use '
        'its configuration, which is taken if --config is left out.'
    )
