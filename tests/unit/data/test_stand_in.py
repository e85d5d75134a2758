"""Made-up data resembles the real data."""

import numpy as np
import pytest

from emkd_jax.data import stand_in
from emkd_jax.data.released import RELEASES
from emkd_jax.data.splits import leave_one_out


@pytest.mark.parametrize('name', [*sorted(RELEASES), 'quickstart'])
def test_a_stand_in_has_the_character_of_real_data(name):
    made_up = stand_in.make(name)
    assert made_up.fingerprint == stand_in.make(name).fingerprint
    assert len(made_up.item_attributes) == made_up.num_items + 1
    used = np.unique(made_up.item_attributes[made_up.item_attributes >= 0])
    assert used.tolist() == list(range(made_up.num_attributes + 1))
    values = made_up.histories.values
    assert values.min() >= 1
    assert values.max() <= made_up.num_items
    assert made_up.histories.lengths.min() >= 5

    # Popularity is skewed: a tenth of the items has far more than a tenth of the events.
    popularity = np.sort(np.bincount(values, minlength=made_up.num_items + 1))[::-1]
    assert popularity[: made_up.num_items // 10].sum() > 0.2 * len(values)

    # Attributes follow transitions: neighbours share them far more often than chance.
    groups = made_up.item_attributes[values, 1]
    shared = (groups[1:] == groups[:-1]).mean()
    assert shared > 3 * (np.bincount(groups) ** 2).sum() / len(values) ** 2

    # Transitions repeat: their counts predict held-out items far better than popularity does.
    split = leave_one_out(made_up)
    hits = {'popularity': 0, 'markov': 0}
    counts = np.zeros((made_up.num_items + 1,) * 2)
    for row in split.train:
        np.add.at(counts, (row[:-1], row[1:]), 1)
    popular = np.bincount(split.train.values, minlength=made_up.num_items + 1) / 1e6
    for history, target in zip(split.test.histories, split.test.targets, strict=True):
        for scorer, scores in (
            ('popularity', popular.copy()),
            ('markov', counts[history[-1]] + popular),
        ):
            own = scores[target]
            scores[history] = -1
            hits[scorer] += (scores >= own).sum() < 10
    assert hits['markov'] > 1.5 * hits['popularity']
