"""Transition counts as a member of the ensemble: their settings and weight, found on validation."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32

from emkd_jax.data.dataset import Holdout, Ragged, Split
from emkd_jax.data.splits import some_of
from emkd_jax.evaluation.metrics import RULES, host_ranks, user_metrics
from emkd_jax.model.counts import SETTINGS, CountModel, CountSettings

# Weights of the counts, for each network, that are tried on validation.
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_SEARCH_USERS = 3000  # of the validation, which settings are compared on
_ROWS = 256  # histories that are scored at a time
_TRIED: dict[str, tuple[Any, ...]] = {
    'gain': ('root', 'inverse', 'decay'),
    'reach': (5, 10, 20),
    'scale': (50.0, 150.0, 1500.0, 15000.0),
    'popularity': (-0.4, -0.1, -0.04, 0.0),
    'history': (50, 200),
    'tail': (False, True),
}


class CountMember(NamedTuple):
    """Counts that are added to the scores of an ensemble.

    Attributes:
      model: the counts of the training histories.
      weight: what their scores are multiplied by before they are added to the sum of the networks'.
    """

    model: CountModel
    weight: float

    def scores(
        self, histories: Ragged, index: Int[np.ndarray, '*rows']
    ) -> Float32[np.ndarray, '*rows classes']:
        """Weighted scores of the classes 0..V; row -1 is an empty history."""
        scores = self.model.scores(histories, index.reshape(-1))
        return (np.float32(self.weight) * scores).reshape(*index.shape, -1)

    def to_json(self) -> dict[str, Any]:
        """Weight and settings, from which `from_json` makes the same member."""
        return {'weight': self.weight, 'settings': dataclasses.asdict(self.model.settings)}

    @classmethod
    def from_json(cls, stored: dict[str, Any], counted: Ragged, num_items: int) -> 'CountMember':
        """Counts the same histories again, which are `Experiment.counted` of the run."""
        settings = CountSettings(**stored['settings'])
        return cls(CountModel(counted, num_items, settings), stored['weight'])


def choose_settings(
    name: str, split: Split, num_items: int, max_len: int, search: bool = False
) -> CountSettings:
    """Returns the settings that the paper has for a data set, or else the best on validation.

    Args:
      name: name of the data set.
      split: its split; the test is not read.
      num_items: V.
      max_len: slots of a model's input, which the rule `window` refers to.
      search: whether to improve one setting after another instead of only choosing among those of
        the paper.
    """
    if name in SETTINGS and not search:
        return SETTINGS[name]
    holdout = some_of(split.validation, _SEARCH_USERS)

    def quality(settings: CountSettings) -> float:
        model = CountModel(split.train, num_items, settings)
        ranks = count_ranks(model, holdout, max_len)[RULES.index('history')]
        return float(user_metrics(ranks, 10)['NDCG@10'].mean())

    tried = {settings: quality(settings) for settings in SETTINGS.values()}
    while search:
        best = max(tried, key=lambda settings: tried[settings])
        near = [
            dataclasses.replace(best, **{option: value})
            for option, values in _TRIED.items()
            for value in values
        ]
        new = [settings for settings in near if settings not in tried]
        if not new:
            break
        tried |= {settings: quality(settings) for settings in new}
    return max(tried, key=lambda settings: tried[settings])


def count_ranks(
    model: CountModel, holdout: Holdout, max_len: int
) -> Int32[np.ndarray, 'rules rows']:
    """Ranks the targets of a held-out set by the counts alone, under each of `RULES`."""
    ranks = np.zeros((len(RULES), len(holdout.targets)), np.int32)
    for rows in _batches(len(holdout.targets)):
        scores = model.scores(holdout.histories, rows)
        ranks[:, rows] = host_ranks(scores, holdout, rows, max_len)
    return ranks


def _batches(count: int) -> Iterator[np.ndarray]:
    for first in range(0, count, _ROWS):
        yield np.arange(first, min(first + _ROWS, count))
