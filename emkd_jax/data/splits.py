"""The leave-one-out split, and the windows that training histories are cut into."""

import numpy as np
from jaxtyping import Int32

from emkd_jax.data.dataset import Dataset, Holdout, Ragged, Split


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


def windows(train: Ragged, max_len: int, step: int) -> Int32[np.ndarray, 'windows slots']:
    """Cuts training histories into windows of `max_len` items, padded with 0 on the left.

    A history of n items gives the windows that start at n - max_len, n - max_len - step, ... as
    long as the start is positive, and one that starts at 0. Users keep their order.
    """
    lengths = train.lengths
    last_start = np.maximum(lengths - max_len, 0)
    windows_per_row = -(-last_start // step) + (lengths > 0)
    row = np.repeat(np.arange(len(train)), windows_per_row)
    first_window = np.cumsum(windows_per_row) - windows_per_row
    place = np.arange(len(row)) - np.repeat(first_window, windows_per_row)
    start = np.maximum(last_start[row] - place * step, 0)
    end = np.minimum(start + max_len, lengths[row])
    item = end[:, None] - max_len + np.arange(max_len)[None, :]
    values = np.append(train.values, np.int32(0))  # index -1 reads this padding
    return values[np.where(item >= start[:, None], train.offsets[row][:, None] + item, -1)]
