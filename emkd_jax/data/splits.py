"""The leave-one-out split, and the users on whom a model is tested."""

import numpy as np
from jaxtyping import Int64

from emkd_jax.data.dataset import Dataset, Holdout, Split


def split_of(data: Dataset, max_users: int = 0) -> Split:
    """Returns the split that came with the data, or else that of `leave_one_out`.

    Args:
      data: the data set.
      max_users: the number of users in each held-out set, taken at even distances; 0 for all.
    """
    if data.split is None:
        return leave_one_out(data, max_users)
    if not max_users:
        return data.split
    train, *holdouts = data.split
    return Split(train, *(some_of(holdout, max_users) for holdout in holdouts))


def some_of(holdout: Holdout, most: int) -> Holdout:
    """Returns `most` rows of a held-out set at even distances, or all if there are no more."""
    rows = _spread(len(holdout.targets), most)
    if rows is None:
        return holdout
    return Holdout(holdout.histories.take(rows), holdout.targets[rows], holdout.users[rows])


def leave_one_out(data: Dataset, max_users: int = 0) -> Split:
    """Holds out each user's last item for the test and the one before it for validation.

    Users with fewer than three items are trained on with all their items, and not tested. With
    `max_users`, so many others are tested; the last two items of the rest are held out as well, so
    that the training is the same.
    """
    histories = data.histories
    tested = histories.lengths >= 3
    users = np.flatnonzero(tested)
    all_users = np.arange(len(histories))
    train = histories.take(all_users, drop_last=2 * tested.astype(np.int64))
    if (rows := _spread(len(users), max_users)) is not None:
        users = users[rows]
    ends = histories.offsets[users + 1]
    return Split(
        train=train,
        validation=Holdout(histories.take(users, drop_last=2), histories.values[ends - 2], users),
        test=Holdout(histories.take(users, drop_last=1), histories.values[ends - 1], users),
    )


def _spread(count: int, most: int) -> Int64[np.ndarray, ' rows'] | None:
    """`most` of `count` places at even distances; None for all of them."""
    if not most or count <= most:
        return None
    return np.linspace(0, count - 1, most).astype(np.int64)
