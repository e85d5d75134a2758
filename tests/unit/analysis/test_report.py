"""The report of a run."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest

from emkd_jax.analysis.report import _by, report
from emkd_jax.errors import UserError
from tests.support.runs import small_config


def test_a_run_is_reported_with_its_plots(finished):
    results, folder = finished
    file = report(small_config(), str(folder))
    text = file.read_text()
    assert 'stand-in' in text
    assert f'| ensemble | {results["test"]["window"]["HR@10"]:.4f} |' in text
    shown = [line.split('](')[1][:-1] for line in text.splitlines() if line.startswith('![')]
    assert shown == [
        'losses.png',
        'validation.png',
        'diversity.png',
        'length.png',
        'popularity.png',
    ]
    for name in shown:
        assert (file.parent / name).read_bytes().startswith(b'\x89PNG')


def test_a_run_is_reported_as_far_as_it_is(finished, tmp_path):
    """Killed while it wrote its log, after two epochs."""
    folder = tmp_path / 'run'
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns('report'))
    (folder / 'results.json').unlink()
    log = folder / 'metrics.jsonl'
    whole = log.read_text().splitlines(keepends=True)
    log.write_text(''.join(whole[:4]) + whole[4][:20])
    assert (report(small_config(), str(folder)).parent / 'losses.png').exists()


def test_the_student_of_a_run_is_reported_with_it(finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns('report', 'student'))
    assert 'student' not in report(small_config(), str(folder)).read_text()
    (folder / 'student').mkdir()
    (folder / 'student' / 'distillation.json').write_text(
        json.dumps(
            {
                'test': {'student': {'HR@10': 0.1, 'NDCG@10': 0.05}},
                'kept': {'HR@10': 0.754, 'NDCG@10': None},
            }
        )
    )
    text = report(small_config(), str(folder)).read_text()
    assert '| student | 0.1000 | 0.0500 |' in text
    assert '| share of the gain that is kept | 75% | no gain |' in text


@pytest.mark.parametrize('lines', [None, 0, 1])
def test_without_a_validated_epoch_there_is_nothing_to_report(finished, tmp_path, lines):
    """As where weights were imported, which leaves no log."""
    folder = tmp_path / 'run'
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns('report'))
    log = folder / 'metrics.jsonl'
    if lines is None:
        log.unlink()
    else:
        log.write_text(''.join(log.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(UserError, match=r'metrics\.jsonl tells of no epoch with a validation'):
        report(small_config(), str(folder))
    assert not (folder / 'report').exists()


def test_without_a_run_there_is_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match='holds no run'):
        report(small_config(), str(tmp_path / 'nowhere'))
    assert not (tmp_path / 'nowhere').exists()


def test_diversity_is_logged_at_each_validation(finished):
    _, folder = finished
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    for line in lines:
        if line['kind'] == 'validation':
            assert 0 <= line['diversity']['overlap@10'] < 1
            assert line['diversity']['kl'] > 0


def test_groups_hold_every_user_once():
    values = np.array([1, 1, 1, 1, 1, 2, 2, 3, 9, 9, 50, 70])
    hits = np.stack([values > 8, values > 0]).astype(float)
    groups = _by(values, hits)
    assert sum(group['users'] for group in groups) == len(values)
    for group, after in itertools.pairwise(groups):
        assert group['high'] < after['low']
    assert groups[0] == {'low': 1, 'high': 1, 'users': 5, 'HR@10': [0.0, 1.0]}
    assert groups[-1]['HR@10'] == [1.0, 1.0]


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UserError, match=r'pip install -r requirements-report\.txt'):
        report(small_config(), 'nowhere')
