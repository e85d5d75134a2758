"""The two forms of the survival tests: short, or the long one that `EMKD_SOAK=FILE` asks for.

    EMKD_SOAK=results/survival.json pytest -m soak

writes its figures to FILE.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

from tests.support import ROOT

FILE = os.environ.get('EMKD_SOAK')


def short_or_long(short, long):
    """How often to do something."""
    return long if FILE else short


def record(name, **figures):
    """Adds the figures of one test to FILE."""
    if not FILE:
        return
    path = pathlib.Path(FILE)
    whole = json.loads(path.read_text()) if path.exists() else {}
    whole |= {
        'command': f'EMKD_SOAK={FILE} pytest -m soak',
        'device': f'{os.cpu_count()} x {platform.machine()} CPU cores',
        'versions': {
            name: importlib.metadata.version(name) for name in ('jax', 'flax', 'orbax-checkpoint')
        }
        | {'python': platform.python_version()},
        name: figures | {'date': datetime.date.today().isoformat(), 'commit': _commit()},
    }
    path.write_text(json.dumps(whole, indent=2) + '\n')


def _commit():
    """Of the code that was tested; None outside a clone."""
    said = subprocess.run(
        ['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None
