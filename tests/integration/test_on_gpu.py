"""The script that measures everything on a GPU, with a launch.py that only notes its flags."""

import json
import os
import re
import shutil
import subprocess

from tests.support import ROOT as _ROOT


def _on_gpu(tmp_path, *flags, **env):
    """Runs the batch script with a launch.py that notes its flags; the parts that were run."""
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
    assert all({'--config=configs/beauty.py', '--config.seed=3'} <= set(f) for f in flags)
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
    }


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
