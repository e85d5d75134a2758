"""Time and memory of preparing an event log: prepare_custom.py OUTPUT [ENGINE [EVENTS ...]]

Makes up logs (CSV: user, item, rating, timestamp; skewed items) in a temporary folder, prepares
each in a process of its own with the default filters (5-core), and writes a record. The engine is
duckdb, which is in that process, or spark, whose own process is measured beside it.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv

EVENTS = (1_250_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000, 100_000_000)
SPARK = '--master local[2] --driver-memory 4g --conf spark.ui.enabled=false pyspark-shell'
_CHUNK = 1_000_000

# Runs in the measured process: everything that --mode=prepare does.
PREPARE = """
import json, resource, sys, time
from configs import custom
from emkd_jax import data
from emkd_jax.analysis.benchmark.memory import peak_host_bytes
options = custom.get_config().data
options.source, options.engine = sys.argv[1:]
start = time.perf_counter()
prepared = data.load(options)
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
measured = {
    'seconds': round(seconds, 1), 'cpu_seconds': round(usage.ru_utime + usage.ru_stime, 1),
    'peak_bytes': peak_host_bytes(),
}
if options.engine == 'spark':
    from pyspark import SparkContext
    SparkContext._gateway.proc.stdin.close()  # which ends it
    SparkContext._gateway.proc.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured['spark_cpu_seconds'] = round(usage.ru_utime + usage.ru_stime, 1)
    measured['spark_peak_bytes'] = usage.ru_maxrss * 1024
print(json.dumps(prepared.counts() | {'fingerprint': prepared.fingerprint} | measured))
"""


def make_log(path: pathlib.Path, events: int) -> None:
    """Writes a log of `events` rows: 20 a user and 100 an item in the mean, few items popular."""
    random = np.random.default_rng(0)
    with pyarrow.OSFile(str(path), 'wb') as file:
        writer = None
        for start in range(0, events, _CHUNK):
            rows = min(_CHUNK, events - start)
            user = random.integers(0, events // 20, rows)
            item = (events // 100 * random.random(rows) ** 3).astype(np.int64)
            table = pyarrow.table(
                {
                    'user': np.char.add('A', user.astype(str)),
                    'item': np.char.add('B00', item.astype(str)),
                    'rating': random.integers(1, 6, rows),
                    'timestamp': 1_300_000_000 + random.integers(0, 200_000_000, rows),
                }
            )
            if writer is None:
                writer = pyarrow.csv.CSVWriter(file, table.schema)
            writer.write_table(table)
        writer.close()


def measure(events: int, engine: str) -> dict[str, Any]:
    """Prepares a log of so many events in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / 'events.csv'
        make_log(log, events)
        load = os.getloadavg()[0]
        root = str(pathlib.Path(__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, '-c', PREPARE, str(log), engine],
            check=True,
            stdout=subprocess.PIPE,
            cwd=root,
            env=os.environ
            | {'TFDS_DATA_DIR': folder, 'JAX_PLATFORMS': 'cpu', 'PYSPARK_SUBMIT_ARGS': SPARK},
        )
        return {
            'events': events,
            'file_bytes': log.stat().st_size,
            'load_before': round(load, 1),
        } | json.loads(done.stdout)


def main(output: str, engine: str = 'duckdb', *sizes: str) -> None:
    """Measures all sizes and writes the record, anew after each."""
    rows = []
    for events in map(int, sizes or EVENTS):
        rows.append(measure(events, engine))
        print(json.dumps(rows[-1]), flush=True)
        pathlib.Path(output).write_text(
            json.dumps(
                {
                    'command': ' '.join(
                        ['python benchmarks/prepare_custom.py', output, engine, *sizes]
                    ),
                    'engine': engine,
                    'date': time.strftime('%Y-%m-%d'),
                    'machine': f'{os.cpu_count()} CPU cores, {platform.machine()}',
                    'load_before': 'processes that others had running when a size began',
                    'versions': {'python': platform.python_version()}
                    | {
                        name: importlib.metadata.version(name)
                        for name in ('duckdb', 'numpy', 'pyarrow', 'pyspark')
                    },
                    'sizes': rows,
                },
                indent=2,
            )
            + '\n'
        )


if __name__ == '__main__':
    main(*sys.argv[1:])
