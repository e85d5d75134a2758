"""What lists of recommendations are like beside being right: coverage, popularity and diversity.

Coverage, after Ge et al., "Beyond accuracy: evaluating recommender systems by coverage and
serendipity" (RecSys 2010), is the share of the catalogue that is recommended to anybody. Popularity
is the mean number of training events of a recommended item; the lower, the more novel (Vargas and
Castells, RecSys 2011). Diversity, after Ziegler et al., "Improving recommendation lists through
topic diversification" (WWW 2005), is the mean distance of two items of a list, here one minus the
Jaccard index of their attributes.
"""

import itertools
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int, Int32


class ListMetrics:
    """Measures lists of recommendations. Call it with lists."""

    def __init__(
        self,
        train: Int[np.ndarray, ' events'],
        num_items: int,
        attributes: Int[np.ndarray, 'items_and_padding most'],
        num_attributes: int,
    ):
        """Prepares what lists are compared with.

        Args:
          train: the items of all training events.
          num_items: V.
          attributes: attribute numbers of each item 0..V, padded with -1.
          num_attributes: A; 0 if the items have no attributes, which leaves diversity undefined.
        """
        self._popularity = np.bincount(train, minlength=num_items + 1)
        self._attributes: Any = None
        if num_attributes:
            item, place = np.nonzero(attributes >= 0)
            values = attributes[item, place]
            shape = (num_items + 1, num_attributes + 1)
            ones = np.ones(len(item), np.float32)
            self._attributes = scipy.sparse.csr_matrix((ones, (item, values)), shape)
            self._attributes.data[:] = 1  # an attribute that is listed twice counts once

    def __call__(self, lists: Int32[np.ndarray, 'users k']) -> dict[str, float]:
        """Measures the lists of some users.

        Args:
          lists: recommended items, with 0 where there are fewer than k.

        Returns:
          'coverage@k', 'popularity@k' and, where items have attributes, 'diversity@k'.
        """
        k, found = lists.shape[1], lists[lists > 0]
        metrics = {
            f'coverage@{k}': len(np.unique(found)) / (len(self._popularity) - 1),
            f'popularity@{k}': float(self._popularity[found].sum() / max(len(found), 1)),
        }
        if self._attributes is not None and k > 1:
            metrics[f'diversity@{k}'] = self._diversity(lists)
        return metrics

    def _diversity(self, lists):
        """The mean over all pairs of which an item has an attribute; 0 if there is no such pair."""
        sizes = np.asarray(self._attributes.sum(1)).ravel()
        total = pairs = 0.0
        for a, b in itertools.combinations(range(lists.shape[1]), 2):
            real = (lists[:, a] > 0) & (lists[:, b] > 0)
            first, second = lists[real, a], lists[real, b]
            common = self._attributes[first].multiply(self._attributes[second]).sum(1)
            common = np.asarray(common).ravel()
            either = sizes[first] + sizes[second] - common
            total += float((1 - common[either > 0] / either[either > 0]).sum())
            pairs += float((either > 0).sum())
        return total / max(pairs, 1.0)
