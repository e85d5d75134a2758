"""The script that measures everything on a GPU: what it runs, and that all of it runs."""

import json
import os
import re
import shutil
import subprocess
import sys

from emkd_jax.config import get_config
from emkd_jax.runs.experiment import make_experiment
from tests.support import QUICK_TO_COMPILE
from tests.support import ROOT as _ROOT
from tests.support.clones import make_clone

# Runs what it is asked to, with less patience.
BRIEF = f"""#!{sys.executable}
import sys

sys.argv, sys.path[0] = sys.argv[1:], ''
if sys.argv[0] == 'launch.py':
    from emkd_jax.cli import main as cli
    from emkd_jax.analysis.benchmark.compare import benchmark

    benchmark.__defaults__ = (*benchmark.__defaults__[:-2], 1, 0.0)
    sys.exit(cli.main())
from benchmarks import step_profile

step_profile.ROUNDS, step_profile.SECONDS = 1, 0.0
step_profile.main()
"""
SMALL = {
    'data.stand_in': True,
    'model.max_len': 4,
    'model.hidden_dim': 8,
    'model.num_blocks': 1,
    'objective.num_views': 1,
    'train.batch_size': 16,
    'train.num_steps': 2,
}


def _on_gpu(tmp_path, *flags, **env):
    """Runs the batch script with a Python that notes its flags; the parts that were run."""
    python = tmp_path / 'python'
    python.write_text(f"""#!/usr/bin/env bash
echo "$@" >> {tmp_path}/calls
case "$*" in
    *--mode=plan*) echo no plan >&2; exit 2 ;;
    *--mode=train*)
        mkdir -p {tmp_path}/out/training
        echo '{{"steps": 7}}' > {tmp_path}/out/training/results.json ;;
    benchmarks/peers.py*)
        mkdir -p {tmp_path}/out/peers
        echo '{{"systems": {{}}}}' > {tmp_path}/out/peers/peers.json ;;
esac
echo table
echo '{{"speedup": 2}}'
""")
    python.chmod(0o755)
    (tmp_path / 'calls').write_text('')
    done = subprocess.run(
        [_ROOT / 'benchmarks/on_gpu.sh', tmp_path, tmp_path / 'out', *flags],
        env=os.environ | {'PYTHON': str(python)} | env,
        capture_output=True,
        text=True,
    )
    return done, (tmp_path / 'calls').read_text().splitlines()


def test_batch_script_measures_every_part_and_goes_on_after_a_failure(tmp_path):
    done, calls = _on_gpu(tmp_path, '--config.seed=3', CONFIG='configs/beauty.py')
    assert done.returncode == 1
    assert re.search(r'plan: no result after \d+ s; no plan', done.stdout)
    clone = f'--pytorch_repo={tmp_path}'
    flags = [call.split() for call in calls]
    assert all('--config.seed=3' in f for f in flags)
    assert flags.pop()[:2] == ['benchmarks/step_profile.py', '--config=configs/beauty.py:best']
    assert all('--config=configs/beauty.py' in f for f in flags)
    assert [
        set(f) & {'--mode=benchmark', '--mode=train', '--mode=plan', '--torch_tuned', clone}
        for f in flags
    ] == [
        {'--mode=benchmark', clone},
        {'--mode=train'},
        {'--mode=plan'},
        {'--mode=benchmark', clone, '--torch_tuned'},
    ]
    results = {p.name: json.loads(p.read_text()) for p in (tmp_path / 'out').glob('*.json')}
    assert results == {
        'released.json': {'speedup': 2},
        'training.json': {'steps': 7},
        'tuned.json': {'speedup': 2},
        'step.json': {'speedup': 2},
    }


def test_every_part_works_at_small_size(tmp_path):
    counts = make_experiment(get_config('toys:quick', **SMALL)).counts
    clone = make_clone(tmp_path / 'clone', counts)
    python = tmp_path / 'python'
    python.write_text(BRIEF)
    python.chmod(0o755)
    flags = [f'--config.{name}={value}' for name, value in SMALL.items()]
    done = subprocess.run(
        [_ROOT / 'benchmarks/on_gpu.sh', clone, tmp_path / 'out', *flags],
        env=os.environ
        | {
            'PYTHON': str(python),
            'CONFIG': 'configs/toys.py:quick',
            'XLA_FLAGS': QUICK_TO_COMPILE,  # one device
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    found = {p.stem: json.loads(p.read_text()) for p in (tmp_path / 'out').glob('*.json')}
    assert set(found) == {'released', 'training', 'plan', 'tuned', 'step'}
    assert found['released']['speedup'] > 0 and found['tuned']['torch_tuned']
    assert found['training']['steps'] == 2
    assert found['plan']['flops'] > 0
    assert found['step']['ms a step, median'] > 0 and 'softmax' in found['step']['parts']


def test_batch_script_goes_on_where_it_stopped(tmp_path):
    _on_gpu(tmp_path)
    _, calls = _on_gpu(tmp_path)
    assert len(calls) == 1
    assert '--mode=plan' in calls[0]


def test_batch_script_stops_when_its_time_is_up(tmp_path):
    done, calls = _on_gpu(tmp_path, SECONDS_LEFT='0')
    assert done.returncode == 1
    assert not calls


def test_peers_are_measured_where_the_data_of_toys_are_named(tmp_path):
    done, calls = _on_gpu(tmp_path, '--config.data.source=/data')
    assert calls[-1] == f'benchmarks/peers.py {tmp_path}/out/peers --source=/data --minutes=1'
    assert json.loads((tmp_path / 'out' / 'peers.json').read_text()) == {'systems': {}}
    assert 'peers: done' in done.stdout
    shutil.rmtree(tmp_path / 'out')
    done, calls = _on_gpu(tmp_path, '--config.data.source=/data', CONFIG='configs/beauty.py')
    assert not [call for call in calls if 'benchmarks/peers.py' in call]
    assert 'peers: left out; they need Toys' in done.stdout
