"""The Python of the README and of the documentation runs as it stands, with fewer steps."""

import os
import re
import runpy
import subprocess
import sys

from tests.support import QUICK_TO_COMPILE, ROOT


def python_in(page, number=0):
    """A fenced block of Python of a page."""
    return re.findall(r'^```python\n(.*?)^```', (ROOT / page).read_text(), re.M | re.S)[number]


def run(code, folder):
    """What Python prints that runs as a user's does, without the strictness of the tests."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=folder,
        env=os.environ
        | {
            'PYTHONPATH': str(ROOT),
            'TFDS_DATA_DIR': str(folder / 'prepared'),
            'XLA_FLAGS': QUICK_TO_COMPILE,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fewer(code, many, few):
    """The code with fewer epochs or steps."""
    assert code.count(many) == 1
    return code.replace(many, few)


def test_the_readme_trains_and_recommends_and_so_does_the_page_on_serving(tmp_path):
    runpy.run_path(str(ROOT / 'examples' / 'shop.py'))['main'](tmp_path)
    readme = fewer(python_in('README.md'), "'train.num_epochs': 60", "'train.num_epochs': 1")
    serving = python_in('docs/serving.md').replace("'model'", "'another_model'")
    told = run(readme + serving, tmp_path)
    assert 'COF-' in told
    assert {'runs', 'model'} <= set(os.listdir(tmp_path))


def test_a_training_loop_of_ones_own_learns(tmp_path):
    told = run(fewer(python_in('docs/api/building-blocks.md'), 'range(60)', 'range(40)'), tmp_path)
    losses = [float(loss) for loss in re.findall(r'loss ([\d.]+)', told)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
