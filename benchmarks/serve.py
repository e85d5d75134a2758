"""Measures `--mode=serve` with a public load generator, ab of Apache (Debian: apache2-utils):

    python benchmarks/serve.py WORKDIR FILE [--requests=5000]

Starts the server of a trained run, asks it to recommend after one history over 1 and then over 32
connections, so many times each, and writes the record FILE.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import importlib.metadata

from emkd_jax.runs.trained import load_run

ROOT = pathlib.Path(__file__).parents[1]
CONNECTIONS = (1, 32)
SECONDS = 120  # that one measurement may take
PACKAGES = ('jax', 'jaxlib', 'fastapi', 'uvicorn', 'httptools', 'uvloop')


def start(workdir):
    """Returns the process of a server, and its address."""
    command = [sys.executable, 'launch.py', 'serve', f'--workdir={workdir}', '--port=0']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if found := re.search(r'at (http://\S+:\d+)', line):
            return process, found[1]
    raise SystemExit('The server did not start.')


def load(url, body, requests, connections):
    """Returns what ab measured."""
    command = ['ab', '-q', '-k', '-l', f'-n{requests}', f'-c{connections}', f'-s{SECONDS}']
    with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
        json.dump(body, file)
        file.flush()
        command += ['-p', file.name, '-T', 'application/json', f'{url}/recommend']
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def number(pattern):
        found = re.search(pattern, text)
        return float(found[1]) if found else 0.0

    return {
        'connections': connections,
        'requests': int(number(r'Complete requests:\s+(\d+)')),
        'failed': int(number(r'Failed requests:\s+(\d+)') + number(r'Non-2xx responses:\s+(\d+)')),
        'requests_per_second': number(r'Requests per second:\s+([\d.]+)'),
        'p50_ms': number(r'\b50%\s+(\d+)'),
        'p99_ms': number(r'\b99%\s+(\d+)'),
        'longest_ms': number(r'100%\s+(\d+)'),
    }


def main():
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('workdir')
    parser.add_argument('file', type=pathlib.Path)
    parser.add_argument('--requests', type=int, default=5000)
    given = parser.parse_args()
    run = load_run(given.workdir)
    history = run.dataset.item_ids[run.dataset.histories[0][-5:] - 1].tolist()
    body = {'history': history, 'k': 10}
    process, url = start(given.workdir)
    try:
        measured = [load(url, body, given.requests, count) for count in CONNECTIONS]
        with urllib.request.urlopen(f'{url}/metrics') as answer:
            text = answer.read().decode()
        batches = {
            name: float(re.search(rf'emkd_batch_size_{name} (\S+)', text)[1])
            for name in ('sum', 'count')
        }
    finally:
        process.terminate()
        process.wait()
    record = {
        'command': 'python benchmarks/serve.py WORKDIR FILE',
        'load': "ab -k -l -n REQUESTS -c CONNECTIONS -p BODY -T 'application/json' URL/recommend",
        'body': body,
        'run': run.config.name,
        'data': run.dataset.counts(),
        'measured': measured,
        'queries_per_batch': batches['sum'] / batches['count'],
        'cores': os.cpu_count(),
        'device': 'cpu',
        'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    given.file.write_text(json.dumps(record, indent=2) + '\n')
    print(json.dumps(measured, indent=2))


if __name__ == '__main__':
    main()
