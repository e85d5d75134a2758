"""Training windows, cut from histories."""

import jax
import numpy as np
import pytest

from emkd_jax.data.dataset import Ragged
from emkd_jax.data.windows import windows


@pytest.mark.parametrize('max_len', [1, 4, 7])
@pytest.mark.parametrize('step', [1, 3, 10])
def test_windows(max_len, step):
    random = np.random.default_rng(max_len)
    rows = [random.integers(1, 9, length).tolist() for length in (0, 1, 4, 3, 7, 8, 0, 20, 31, 0)]
    expected = []
    for row in rows:
        for start in [*range(len(row) - max_len, 0, -step), *([0] if row else [])]:
            window = row[start : start + max_len]
            expected.append([0] * (max_len - len(window)) + window)
    cut = windows(Ragged.from_rows(rows), max_len, step)
    assert {leaf.dtype for leaf in jax.tree.leaves(cut)} == {np.dtype(np.int32)}
    rows = zip(cut.starts.tolist(), cut.lengths.tolist(), strict=True)
    assert [
        [0] * (cut.slots - length) + cut.values[start : start + length].tolist()
        for start, length in rows
    ] == expected
    # Items are stored once, and each window takes 8 bytes.
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(cut)) == 4 * 74 + 8 * len(expected)
