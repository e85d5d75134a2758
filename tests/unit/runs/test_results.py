"""The script that makes all results, with a launch.py that only notes its flags."""

import json
import os
import re
import subprocess

import pytest

from tests.support import ROOT as _ROOT

_BEST = {'model.dropout': 0.5, 'optimizer.learning_rate': 5e-4, 'objective.temperature': 1.0}


def _results(tmp_path, *flags, fails='nothing', **env):
    """What the script says, and the calls it makes, less the workdir and those of python itself."""
    python = tmp_path / 'python'
    python.write_text(f"""#!/usr/bin/env bash
[ "$1" = -c ] && exec python3 "$@"
workdir=
for flag; do
    case "$flag" in
        --workdir=*) workdir=${{flag#*=}} ;;
        --output=*) echo '{{"flops": 1}}' > ${{flag#*=}} ;;
    esac
done
echo "$@" >> {tmp_path}/calls
case "$*" in *{fails}*) echo it failed >&2; exit 1 ;; esac
mkdir -p $workdir/student
echo '{json.dumps({'tried': [{'settings': _BEST}], 'config': {'teacher': f'{tmp_path}/out/x'}})}' |
    tee $workdir/results.json $workdir/study.json > $workdir/student/distillation.json
echo '# report' > $workdir/report.md
echo plot > $workdir/systems.png
""")
    python.chmod(0o755)
    (tmp_path / 'calls').write_text('')
    done = subprocess.run(
        [_ROOT / 'benchmarks/results.sh', tmp_path / 'out', *flags],
        env=os.environ | {'PYTHON': str(python)} | env,
        capture_output=True,
        text=True,
    )
    return done, [line.split() for line in (tmp_path / 'calls').read_text().splitlines()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """All parts of two sets, and their folder."""
    folder = tmp_path_factory.mktemp('results')
    return *_results(folder, '--config.seed=3', SETS='toys ml_1m'), folder


def test_every_part_of_every_set_leaves_its_record(whole):
    done, calls, folder = whole
    assert done.returncode == 0, done.stdout + done.stderr
    assert all('--config.seed=3' in call for call in calls)
    studies = ('ablation', 'generality', 'ensemble_size')
    parts = ('released', 'published', 'sweep', 'tuned', *studies, 'student', 'seeds')
    assert len(calls) == 2 * len(parts)
    assert {path.name for path in (folder / 'out/results').iterdir()} == {
        f'{name}-{part}.json' for name in ('toys', 'ml_1m') for part in parts
    } | {
        f'{name}-{part}.{kind}'
        for name in ('toys', 'ml_1m')
        for kind in ('md', 'png')
        for part in parts
        if part not in ('student', 'seeds')
    }
    record = json.loads((folder / 'out/results/toys-published.json').read_text())
    assert record['config'] == {'teacher': 'FOLDER/x'}


def test_what_is_compared_has_three_seeds_and_the_sweep_one(whole):
    _, calls, _ = whole
    for call in calls:
        if not {'distill', 'benchmarks/seeds.py'} & {*call}:
            swept = any(flag.startswith('--config.sweep.') for flag in call)
            assert swept != ('--config.train.num_seeds=3' in call), call


def test_the_best_of_the_sweep_is_trained(whole):
    _, calls, folder = whole
    [tuned] = [call for call in calls if f'--workdir={folder}/out/toys-tuned' in call]
    assert {
        '--config.model.dropout=0.5',
        '--config.optimizer.learning_rate=0.0005',
        '--config.objective.temperature=1.0',
        '--config=configs/toys.py',
    } <= {*tuned}


def test_the_student_is_of_one_of_the_published(whole):
    _, calls, folder = whole
    [student, _] = [call for call in calls if 'distill' in call]
    assert f'--workdir={folder}/out/toys-published/seed_0' in student


def test_a_part_that_failed_is_said_and_tried_again(tmp_path):
    done, _ = _results(tmp_path, fails='study=generality', SETS='toys', VARIANT=':quick')
    assert done.returncode == 1
    assert re.search(r'toys-generality: not finished after \d+ s; it failed', done.stdout)
    assert 'toys-seeds: done' in done.stdout
    done, calls = _results(tmp_path, SETS='toys', VARIANT=':quick')
    assert done.returncode == 0
    [call] = calls
    assert {'--study=generality', '--config=configs/toys.py:quick'} <= {*call}
