"""Measures the memory of training on made-up logs of many events, from prepared data to results.

    python -m benchmarks.large_log FILE [EVENTS ...]

For each number of events, one process writes prepared data, and another trains one small network on
it for a few steps, validates and tests it on 2,000 users beside the baselines, and writes its
results, as every training does. The peak memory of the second process is measured. It includes the
pages of memory-mapped files, which the system can take back.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import emkd_jax as emkd
from emkd_jax.data.cache import read_dataset, save_dataset
from emkd_jax.data.dataset import Dataset, Ragged
from emkd_jax.runs.results import device_name, versions

MEAN = 30  # events of a history
ITEMS = 20_000
STEPS = 100
OPTIONS = {
    'ensemble.num_networks': 1,
    'ensemble.counts': False,
    'model.hidden_dim': 64,
    'model.num_blocks': 1,
    'train.batch_size': 16,
    'train.num_steps': STEPS,
    'eval.max_users': 2_000,
}


def write(events: int, folder: str) -> None:
    """Writes prepared data: popular items are frequent, and half of the events follow a chain."""
    random = np.random.default_rng(0)
    lengths = random.geometric(1 / MEAN, events // MEAN)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    values = (ITEMS ** random.random(offsets[-1], np.float32)).astype(np.int32)
    chained = np.flatnonzero(random.random(len(values), np.float32) < 0.5)[1:]
    values[chained] = values[chained - 1] % ITEMS + 1
    dataset = Dataset(
        name='made_up',
        histories=Ragged(values, offsets),
        item_attributes=np.full((ITEMS + 1, 0), -1, np.int32),
        num_items=ITEMS,
        num_attributes=0,
        user_ids=np.arange(len(lengths)),
        item_ids=np.arange(1, ITEMS + 1),
        stand_in=True,
    )
    save_dataset(dataset, folder)


def train(folder: str, workdir: str) -> dict:
    """Trains on the prepared data; returns what it took."""
    began = time.perf_counter()
    dataset = read_dataset(folder)
    run = emkd.train(emkd.get_config('custom', **OPTIONS), dataset, workdir=workdir)
    seconds = time.perf_counter() - began
    status = pathlib.Path('/proc/self/status').read_text()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        'events': len(dataset.histories.values),
        'users': len(dataset.histories),
        'items': dataset.num_items,
        'steps': STEPS,
        'seconds': round(seconds),
        'peak_process_bytes': peak,
        'mapped_file_bytes_at_the_end': 1024 * int(status.split('RssFile:')[1].split()[0]),
        'sequences_per_second': run.results['sequences_per_second'],
        'counted_events': run.results.get('counted_events'),
    }


def main(output: str, *numbers: str) -> None:
    """Measures every case in processes of its own, and writes the record."""
    cases = []
    for events in numbers or ('1000000', '10000000', '100000000'):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, '-m', 'benchmarks.large_log', f'--of={folder}']
            subprocess.run([*command, events], check=True)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            cases.append(json.loads(done.stdout.splitlines()[-1]))
        print(cases[-1], flush=True)
    record = {
        'what': 'Training on made-up logs: peak memory of the process from data to results.',
        'command': 'python -m benchmarks.large_log FILE',
        'options': OPTIONS,
        'cases': cases,
        'device': device_name(),
        'versions': versions(),
    }
    pathlib.Path(output).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    first, *rest = sys.argv[1:] or sys.exit(__doc__)
    if not first.startswith('--of='):
        main(first, *rest)
    elif rest:
        write(int(rest[0]), first.removeprefix('--of=') + '/data')
    else:
        place = first.removeprefix('--of=')
        print(json.dumps(train(f'{place}/data', f'{place}/run')))
