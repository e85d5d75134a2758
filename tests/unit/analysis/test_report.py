"""The report of a run."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from emkd_jax.analysis.report import group_users, report
from emkd_jax.errors import UserError, install_command
from emkd_jax.runs.trained import load_run


def markdown(file):
    return file.with_suffix('.md').read_text()


def test_a_run_is_reported_with_its_plots(finished):
    results, folder = finished
    file = report(load_run(folder))
    text = markdown(file)
    assert 'stand-in' in text
    cells = [line.strip('| ').split('|') for line in text.splitlines() if line.startswith('|')]
    rows = {cell[0].strip(): [value.strip() for value in cell[1:]] for cell in cells}
    assert list(rows)[2:8] == [
        'ensemble',
        'network 0',
        'network 1',
        'baseline: popularity',
        'baseline: markov',
        'baseline: pctm',
    ]
    assert rows['ensemble'][0] == f'{results["test"]["window"]["HR@10"]:.4f}'
    coverage = results['beyond_accuracy']['markov']['coverage@10']
    assert rows['baseline: markov'][3] == f'{coverage:.4f}'
    assert '- **kd**: ' in text
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
    page = file.read_text()
    assert page.count('src="data:image/png;base64,') == len(shown)
    assert '.png"' not in page  # it opens without the files beside it
    assert f'{coverage:.4f}</td>' in page


def test_a_run_is_reported_as_far_as_it_is(finished, tmp_path):
    """Killed while it wrote its log, after two epochs."""
    folder = tmp_path / 'run'
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns('report'))
    (folder / 'results.json').unlink()
    log = folder / 'metrics.jsonl'
    whole = log.read_text().splitlines(keepends=True)
    log.write_text(''.join(whole[:4]) + whole[4][:20])
    assert (report(load_run(folder)).parent / 'losses.png').exists()


def test_the_student_of_a_run_is_reported_with_it(finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns('report', 'student'))
    assert 'student' not in markdown(report(load_run(folder)))
    (folder / 'student').mkdir()
    (folder / 'student' / 'distillation.json').write_text(
        json.dumps(
            {
                'test': {'student': {'HR@10': 0.1, 'NDCG@10': 0.05}},
                'kept': {'HR@10': 0.754, 'NDCG@10': None},
            }
        )
    )
    text = markdown(report(load_run(folder)))
    cells = [line.strip('| ').split('|') for line in text.splitlines() if line.startswith('|')]
    rows = {cell[0].strip(): [value.strip() for value in cell[1:]] for cell in cells}
    assert rows['student'] == ['0.1000', '0.0500']
    assert rows['share of the gain that is kept'] == ['75%', 'no gain']


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
    with pytest.raises(UserError, match=r'metrics\.jsonl has no epoch with a validation'):
        report(load_run(folder))
    assert not (folder / 'report').exists()


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
    groups = group_users(values, hits)
    assert sum(group.users for group in groups) == len(values)
    assert [group.label for group in groups] == ['1', '2', '3', '9', '50 to 70']
    assert groups[0] == ('1', 5, 0.0, 1.0)
    assert groups[-1][2:] == (1.0, 1.0)


def test_without_matplotlib_it_is_said_what_to_install(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UserError, match=re.escape(install_command('[report]'))):
        report(load_run(finished[1]))
