"""A user trains an encoder of their own, which is in one file, without a change to the package."""

import inspect
import os
import re
import subprocess
import sys
import textwrap

import numpy as np

import emkd_jax
from tests.support import QUICK_TO_COMPILE, ROOT
from tests.support.launches import OPTIONS

HEADER = 'import emkd_jax as emkd\nimport jax.numpy as jnp\n\n\n'


def test_the_example_of_the_documentation_trains_on_the_command_line(tmp_path, monkeypatch):
    documentation = inspect.getdoc(emkd_jax.SequenceEncoder)
    example = re.search(r'^    class (\w+).*?(?=\n\n\S)', documentation, re.DOTALL | re.MULTILINE)
    (tmp_path / 'my_encoder.py').write_text(HEADER + textwrap.dedent(example[0]) + '\n')
    monkeypatch.syspath_prepend(tmp_path)
    options = OPTIONS | {
        'model.encoder': f'my_encoder:{example[1]}',
        'ensemble.num_networks': 1,
        'train.num_epochs': 2,
    }
    flags = [f'--config.{name}={value}' for name, value in options.items()]
    workdir = tmp_path / 'run'
    # A process of its own: the command line joins a cluster before anything is computed.
    done = subprocess.run(
        [sys.executable, 'launch.py', '--config=quickstart', f'--workdir={workdir}', *flags],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(tmp_path), 'XLA_FLAGS': QUICK_TO_COMPILE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    model = emkd_jax.load(workdir)
    assert type(model.ensemble.network.encoder).__name__ == example[1]
    assert 0 < model.results['test']['window']['HR@10'] < 1
    scores = model.score([model.item_ids[:3], model.item_ids[3:5]])
    assert np.ptp(scores, axis=1).all()
