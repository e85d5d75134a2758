"""A trained model in Python: recommendations, scores, metrics and embeddings."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Array, Float, Float32, Int, PyTree

from emkd_jax.config.options import flatten
from emkd_jax.config.stored import from_json, to_json
from emkd_jax.data.atomic import new_folder, write_json
from emkd_jax.data.cache import read_dataset, save_dataset
from emkd_jax.data.dataset import Dataset, Ragged, check_dataset
from emkd_jax.data.splits import split_of
from emkd_jax.errors import UserError
from emkd_jax.evaluation import Evaluator
from emkd_jax.evaluation.counts import CountMember
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.runs.experiment import Experiment, make_experiment
from emkd_jax.runs.results import read_results, versions
from emkd_jax.runs.trained import TrainedRun, load_run
from emkd_jax.runs.workdir import read_config
from emkd_jax.serving.ids import IdIndex, Unknown
from emkd_jax.serving.recommender import Recommender, compiled, in_batches
from emkd_jax.serving.vectors import directions, item_vectors
from emkd_jax.serving.weights import check_weights, load_weights, save_weights
from emkd_jax.training.placement import place

_DATA, _WEIGHTS, _CARD = 'data', 'weights.safetensors', 'card.json'
# Options that name files of this machine. They are left out of what is given to others.
PATH_OPTIONS = (
    'data.source',
    'data.attributes',
    'distill.teacher',
    'recommend.exclude',
    'recommend.only',
)


def load(path: epath.PathLike) -> 'Model':
    """Loads a trained model.

    Args:
      path: the workdir of a run, or a folder that `Model.save` wrote.

    Raises:
      UserError: the folder holds neither, or it is damaged.
    """
    folder = epath.Path(path)
    if not (folder / _WEIGHTS).exists():
        return Model.from_run(load_run(folder))
    config, params = from_json(read_config(folder)), load_weights(folder / _WEIGHTS)
    experiment = make_experiment(config, read_dataset(folder / _DATA))
    check_weights(params, experiment.state_shapes().params, folder / _WEIGHTS)
    card = read_results(folder, _CARD) or {}
    counts = None
    if stored := card.get('counts'):
        counts = CountMember.from_json(stored, experiment.counted, experiment.data.num_items)
    return Model(experiment, params, card, counts)


class Model:
    """A trained ensemble with the ids of its items and users. `emkd_jax.load` makes one.

    A history is a list of original item ids, the oldest first, of any length. Ids are compared as
    text, so 7, '7' and 7.0 are the same item. Items that the model does not know are left out of
    their history, and users that it does not know get no recommendations; a warning on standard
    error counts them. With `strict=True` they are an error instead.

    Attributes:
      config: the options of the run.
      dataset: the data that it was trained on.
      item_ids: original ids of the items; `user_ids` are those of the users in the data.
      titles: titles of the items, in the same order; empty if the data has none.
      ensemble: the networks.
      params: their parameters, as host arrays with a leading axis of networks.
      counts: the transition counts that recommend with them, if the run has some.
      results: 'test' has the metrics on the test items by rule, if the run has finished; 'epoch' is
        the epoch of the parameters.
      ids: finds items and users by their ids.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: PyTree,
        results: dict[str, Any],
        counts: CountMember | None = None,
    ):
        self.config, self.dataset = experiment.config, experiment.data
        self.item_ids, self.user_ids = self.dataset.item_ids, self.dataset.user_ids
        self.titles = np.array(self.dataset.titles, object)
        self.ensemble, self.params, self.counts = experiment.ensemble, params, counts
        self.results = {name: results.get(name) for name in ('test', 'epoch')}
        self.ids = IdIndex(self.dataset)

    def __repr__(self) -> str:
        networks = self.ensemble.num_networks
        return f'<Model {self.config.name}: {networks} networks, on {self.dataset!r}>'

    @classmethod
    def from_run(cls, run: TrainedRun) -> 'Model':
        """The best checkpoint of a run.

        Raises:
          UserError: the run has no validated checkpoint yet.
        """
        results = run.results | {'epoch': run.record['best']['epoch']}
        return cls(run.experiment, run.params, results, run.counts)

    def recommend(
        self,
        histories: Iterable[Iterable[Any]] | None = None,
        k: int = 10,
        *,
        users: Iterable[Any] | None = None,
        exclude_seen: bool = True,
        only: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        network: int | None = None,
        strict: bool = False,
    ) -> pd.DataFrame:
        """Recommends items after histories, or to users of the data.

        Args:
          histories: a history for each row; None if `users` are given.
          k: number of items; fewer are returned where no more are allowed.
          users: ids of users, whose histories are in the data.
          exclude_seen: whether to leave out all items of the history.
          only: ids of the items that may be recommended; None allows all.
          exclude: ids of items that may not be recommended.
          network: number of the one network that recommends; None: all of them together.
          strict: whether an id that is not known is an error.

        Returns:
          A table with the columns row (the place in `histories`) or user, rank (from 1), item,
          score (the sum of the networks' logits and of the weighted counts) and, if the data has
          titles, title.

        Raises:
          UserError: an argument is not allowed, or an id is not known and `strict` is set.
        """
        if (histories is None) == (users is None):
            raise UserError('Model.recommend takes either histories or users.')
        unknown = Unknown(strict)
        only, exclude = (
            None if ids is None else self.ids.items(_listed(ids, name), unknown, name)
            for name, ids in (('only', only), ('exclude', exclude))
        )
        recommender = self.recommender(k, exclude_seen, network, only, exclude)
        if histories is not None:
            label, rows = 'row', self._numbers(histories, unknown)
            labels: Sequence[Any] = range(len(rows))
        else:
            found = [
                (user, self.ids.user(user, unknown, f'users[{place}]'))
                for place, user in enumerate(_listed(users, 'users'))
            ]
            label, labels = 'user', [user for user, row in found if row is not None]
            rows = [self.dataset.histories[row] for _, row in found if row is not None]
        unknown.report()
        return self.table(label, labels, *recommender(Ragged.from_rows(rows)))

    def score(
        self, histories: Iterable[Iterable[Any]], *, strict: bool = False
    ) -> Float32[np.ndarray, 'rows items']:
        """Scores every item as the continuation of each history, in the order of `item_ids`.

        A score is the sum of the networks' logits and of the weighted transition counts.

        Raises:
          UserError: an id is not known and `strict` is set.
        """
        return self._for_each(_score, len(self.item_ids), histories, strict, self.counts)

    def embeddings(
        self, histories: Iterable[Iterable[Any]], *, strict: bool = False
    ) -> Float32[np.ndarray, 'rows networks_times_dim']:
        """Embeds each history: the hidden states of all networks that predict the next item.

        Columns 0 to `model.hidden_dim` - 1 belong to network 0, and so on. The sum of the networks'
        logits is `embeddings(histories) @ item_embeddings().T + item_biases()`.

        Raises:
          UserError: an id is not known and `strict` is set.
        """
        width = self.ensemble.num_networks * self.ensemble.network.encoder.dim
        return self._for_each(_embed, width, histories, strict)

    def item_embeddings(self) -> Float32[np.ndarray, 'items networks_times_dim']:
        """The item heads of all networks side by side, in the order of `item_ids`."""
        return self._items[0]

    def item_biases(self) -> Float32[np.ndarray, ' items']:
        """The sum of the networks' biases of each item, in the order of `item_ids`."""
        return self._items[1]

    def similar(self, items: Iterable[Any], k: int = 10, *, strict: bool = False) -> pd.DataFrame:
        """Finds the items that are most like some items.

        The score is the cosine of the items' embeddings, the mean over the networks.

        Args:
          items: ids of items.
          k: number of items that are found for each.
          strict: whether an id that is not known is an error; otherwise it is left out.

        Returns:
          A table with the columns to (the id that was asked for), rank, item, score and, if the
          data has titles, title.

        Raises:
          UserError: k is less than 1, or an id is not known and `strict` is set.
        """
        _check_number(k)
        unknown = Unknown(strict)
        asked = [
            (item, self.ids.items([item], unknown, 'items')) for item in _listed(items, 'items')
        ]
        unknown.report()
        known = [(item, numbers[0]) for item, numbers in asked if len(numbers)]
        numbers = np.array([number for _, number in known], np.int32)
        scores = self.similarities(numbers)
        scores[np.arange(len(numbers)), numbers - 1] = -np.inf
        best = np.argsort(-scores, axis=1, kind='stable')[:, : min(k, len(self.item_ids) - 1)]
        found = np.take_along_axis(scores, best, axis=1)
        return self.table('to', [item for item, _ in known], list(best + 1), list(found))

    def similarities(
        self, items: Int[np.ndarray, ' queries'], others: Int[np.ndarray, ' others'] | None = None
    ) -> Float32[np.ndarray, 'queries compared']:
        """Compares items, by their numbers from 1, with others or with all; see `similar`."""
        compared = self._directions if others is None else self._directions[others - 1]
        found: Float32[np.ndarray, 'queries compared'] = self._directions[items - 1] @ compared.T
        return found

    def evaluate(self, dataset: Dataset | None = None) -> dict[str, dict[str, float]]:
        """Measures the model on the test items of a data set.

        Args:
          dataset: data with the items of the model; None: the data that it was trained on.

        Returns:
          {rule: {metric: value}}, as `test` in results.json.

        Raises:
          UserError: the data has other items, or no test items.
        """
        dataset = self.dataset if dataset is None else dataset
        check_dataset(dataset)
        if not np.array_equal(dataset.item_ids, self.item_ids):
            raise UserError(
                f'{dataset.name} does not have the items of the model; evaluate it on data with '
                'the same item_ids.'
            )
        test = split_of(dataset, self.config.eval.max_users).test
        if not len(test.targets):
            raise UserError(f'{dataset.name} has no test items; a user needs three events.')
        ensemble, devices = self.ensemble.sharded(self._shards), jax.local_devices()
        params = place(self.params, devices, ensemble.shards)
        evaluator = Evaluator(self.config.eval, ensemble, test, devices, self.counts)
        return evaluator(params).ensemble

    def save(self, folder: epath.PathLike) -> None:
        """Writes everything that `emkd_jax.load` needs to a new folder.

        It holds the configuration, the weights, the data, and a card with the metrics. No path of
        this machine is in it.

        Raises:
          UserError: the folder exists already, or cannot be written.
        """
        with new_folder(folder, 'choose another folder') as partial:
            card = self.card()
            write_json(partial / 'config.json', card['config'])
            save_weights(partial / _WEIGHTS, self.params)
            save_dataset(self.dataset, partial / _DATA)
            write_json(partial / _CARD, card)

    def card(self) -> dict[str, Any]:
        """Describes the model: its data, metrics, configuration and libraries."""
        config = self.config.copy_and_resolve_references()
        known = flatten(config.to_dict())
        config.update_from_flattened_dict({name: '' for name in PATH_OPTIONS if name in known})
        data = {'name': self.dataset.name, 'stand_in': self.dataset.stand_in}
        return {
            'name': config.name,
            'data': self.dataset.counts() | data,
            **self.results,
            'counts': None if self.counts is None else self.counts.to_json(),
            'config': to_json(config),
            'versions': versions(),
        }

    def recommender(
        self,
        k: int,
        exclude_seen: bool,
        network: int | None,
        only: Int[np.ndarray, ' only'] | None,
        exclude: Int[np.ndarray, ' excluded'] | None,
    ) -> Recommender:
        """A recommender of items by number; see `recommend` for the arguments.

        Raises:
          UserError: an argument is not allowed.
        """
        count = self.ensemble.num_networks
        _check_number(k)
        if network is not None and network not in range(count):
            raise UserError(f'There is no network {network}; use 0 to {count - 1}.')
        allowed = np.full(len(self.item_ids) + 1, only is None)
        if only is not None:
            allowed[only] = True
        if exclude is not None:
            allowed[exclude] = False
        allowed[0] = False  # the padding item
        if not allowed.any():
            raise UserError('The items allowed and the items excluded leave no item to recommend.')
        (ensemble, networks), counts = self._scoring, self.counts
        if network is not None:
            ensemble, networks, counts = ensemble.only(network), [networks[network]], None
        rows = self.config.eval.batch_size
        return Recommender(ensemble, networks, allowed, k, exclude_seen, rows, counts)

    def table(
        self,
        label: str,
        labels: Sequence[Any],
        items: Sequence[Int[np.ndarray, ' _']],
        scores: Sequence[Float32[np.ndarray, ' _']],
    ) -> pd.DataFrame:
        """A table of what a `Recommender` found, with a row for each item.

        Args:
          label: name of the first column.
          labels: its value for each history.
          items, scores: of each history.
        """
        counts = [len(found) for found in items]
        numbers = np.concatenate([np.empty(0, np.int32), *items]) - 1
        columns = {
            label: pd.Series(labels).repeat(counts).array,
            'rank': np.concatenate([np.empty(0, int), *map(np.arange, counts)]) + 1,
            'item': self.item_ids[numbers],
            'score': np.concatenate([np.empty(0, np.float32), *scores]),
        }
        return pd.DataFrame(columns | ({'title': self.titles[numbers]} if len(self.titles) else {}))

    @functools.cached_property
    def _items(self) -> tuple[np.ndarray, np.ndarray]:
        return item_vectors(self.ensemble, self.params)

    @functools.cached_property
    def _directions(self) -> np.ndarray:
        return directions(self.item_embeddings(), self.ensemble.num_networks)

    @property
    def _shards(self) -> int:
        """Over how many devices of this process the item tables are split."""
        return jax.local_device_count() if self.config.ensemble.shard_items else 1

    @functools.cached_property
    def _scoring(self) -> tuple[Ensemble, list[PyTree]]:
        """The ensemble that scores, and the parameters of each network, on the devices."""
        ensemble, params = self.ensemble.sharded(self._shards), self.params
        if ensemble.shards == 1:  # tables that are split may be too large for one device
            ensemble, params = ensemble.with_effective(params)
        networks = ensemble.split(params)
        return ensemble, [place(one, jax.local_devices(), ensemble.shards) for one in networks]

    def _for_each(
        self,
        function: Callable[..., Any],
        width: int,
        histories: Iterable[Any],
        strict: bool,
        counts: CountMember | None = None,
    ) -> Float32[np.ndarray, 'rows width']:
        unknown = Unknown(strict)
        rows = Ragged.from_rows(self._numbers(histories, unknown))
        unknown.report()
        ensemble, networks = self._scoring
        compute = compiled((0,), function, ensemble)
        found = np.zeros((len(rows), width), np.float32)
        for places, values in in_batches(
            self.ensemble,
            rows,
            lambda _, items: compute(networks, items),
            self.config.eval.batch_size,
            width,
        ):
            found[places] = values
            if counts is not None:
                found[places] += counts.scores(rows, places)[:, 1:]
        return found

    def _numbers(self, histories: Iterable[Any], unknown: Unknown) -> list[Int[np.ndarray, ' _']]:
        return [
            self.ids.items(_listed(history, place := f'histories[{row}]'), unknown, place)
            for row, history in enumerate(_listed(histories, 'histories'))
        ]


def _score(
    ensemble: Ensemble, networks: list[PyTree], items: Int[Array, 'rows slots']
) -> Float[Array, 'rows items']:
    return ensemble.score(networks, items)[:, 1:]


def _embed(
    ensemble: Ensemble, networks: list[PyTree], items: Int[Array, 'rows slots']
) -> Float[Array, 'rows networks_times_dim']:
    return jnp.concatenate(ensemble.states(networks, items), axis=-1).astype(jnp.float32)


def _listed(values: Any, name: str) -> Iterable[Any]:
    """Refuses a single id where a list is meant, since a text is a list of letters too."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UserError(
            f'{name} is {values!r}, which is not a list; one history is written [[...]], and one '
            'id [...].'
        )
    return values


def _check_number(k: Any) -> None:
    if not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f'k is {k!r}; it must be a whole number of at least 1.')
