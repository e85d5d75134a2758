"""The leave-one-out split."""

import numpy as np

from emkd_jax.data.dataset import Dataset, Holdout, Split


def leave_one_out(data: Dataset) -> Split:
    """Holds out each user's last item for the test and the one before it for validation.

    Users with fewer than three items are trained on with all their items, and not tested.
    """
    histories = data.histories
    tested = histories.lengths >= 3
    users = np.flatnonzero(tested)
    ends = histories.offsets[users + 1]
    all_users = np.arange(len(histories))
    return Split(
        train=histories.take(all_users, drop_last=2 * tested.astype(np.int64)),
        validation=Holdout(histories.take(users, drop_last=2), histories.values[ends - 2], users),
        test=Holdout(histories.take(users, drop_last=1), histories.values[ends - 1], users),
    )
