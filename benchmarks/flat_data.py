"""Measures what the training data of made-up event logs takes on a device, and to prepare:

    python benchmarks/flat_data.py FILE [EVENTS ...]

For each number of events, once as windows (20 slots, a window for every event, as `toys` has them)
and once as packed rows (pieces of 50 slots in rows of 64, as `toys:best` has them). Beside the
bytes that the arrays have stands what they would take if every window, or every slot of the rows,
were stored, which is how the project had it before. Each case runs in a process of its own, whose
peak memory is measured.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from emkd_jax.data.dataset import Ragged
from emkd_jax.data.packing import pack
from emkd_jax.data.windows import windows

MEAN = 30  # items of a history
ITEMS = 1_000_000
SLOTS, PIECE, WIDTH = 20, 51, 64


def histories(events):
    """Returns made-up histories whose lengths are distributed geometrically."""
    random = np.random.default_rng(0)
    lengths = random.geometric(1 / MEAN, events // MEAN)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return Ragged(random.integers(1, ITEMS, offsets[-1], np.int32), offsets)


def measure(events, form):
    """Returns bytes and seconds of one case."""
    train = histories(events)
    began = time.perf_counter()
    rows = windows(train, SLOTS, 1) if form == 'windows' else pack(train, PIECE, WIDTH)
    seconds = time.perf_counter() - began
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(rows))
    if form == 'windows':
        stored = 4 * len(rows) * SLOTS
    else:
        stored = 8 * len(rows) * WIDTH + 8 * len(rows.piece_starts) + 4 * len(rows.values)
    return {
        'events': len(train.values),
        'histories': len(train),
        'form': form,
        'rows': len(rows),
        'bytes': held,
        'bytes_per_event': held / len(train.values),
        'bytes_if_stored': stored,
        'seconds': round(seconds, 1),
        'peak_process_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    } | ({'fill': rows.fill} if form == 'packed' else {})


def main():
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('file')
    parser.add_argument('events', nargs='*', type=int)
    parser.add_argument('--form', help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form:
        print(json.dumps(measure(given.events[0], given.form)))
        return
    measured = []
    for events in given.events or [10**6, 10**7, 10**8]:
        for form in ('windows', 'packed'):
            command = [sys.executable, __file__, '-', str(events), f'--form={form}']
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured.append(json.loads(done.stdout))
            print(measured[-1], flush=True)
    record = {
        'command': 'python benchmarks/flat_data.py FILE',
        'measured': measured,
        'cores': os.cpu_count(),
        'versions': {'jax': jax.__version__, 'numpy': np.__version__},
    }
    pathlib.Path(given.file).write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
