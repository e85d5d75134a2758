"""Training windows: the ends of histories, and earlier stretches of long ones.

The items are stored once, end to end, and a window is a place among them. The windows of a batch
are cut on the devices (`training/batches.py`).
"""

from typing import Any

import flax.struct
import numpy as np

from emkd_jax.data.dataset import Ragged


@flax.struct.dataclass
class Windows:
    """The windows of all training histories.

    Leaves may be NumPy arrays, device arrays or ShapeDtypeStructs.

    Attributes:
      values: (events,) int32, the items of all histories, end to end.
      starts: (windows,) int32, where each window begins in `values`.
      lengths: (windows,) int32, its number of items.
      slots: the slots of a window, L; shorter ones are padded with 0 on the left.
    """

    values: Any
    starts: Any
    lengths: Any
    slots: int = flax.struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.starts)


def windows(train: Ragged, max_len: int, step: int) -> Windows:
    """Cuts training histories into windows of `max_len` items.

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
    size = np.minimum(max_len, lengths[row] - start)
    starts = (train.offsets[row] + start).astype(np.int32)
    return Windows(train.values, starts, size.astype(np.int32), max_len)
