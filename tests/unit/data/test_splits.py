"""The split, and rows of large logs: taken in blocks, sampled, and the users who are tested."""

import dataclasses

import numpy as np
import pytest

import emkd_jax as emkd
from emkd_jax.data import dataset as dataset_module
from emkd_jax.data.dataset import Dataset, Ragged
from emkd_jax.data.splits import leave_one_out, split_of
from emkd_jax.runs import experiment as experiment_module
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.trained import evaluate, load_run
from tests.support.runs import small_config
from tests.support.tiny import tiny_data


def as_lists(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize('at_a_time', [1, 4, 7, 1000])
def test_rows_are_taken_in_blocks(monkeypatch, at_a_time):
    monkeypatch.setattr(dataset_module, '_VALUES_AT_A_TIME', at_a_time)
    lists = [[], [1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12], []]
    rows = Ragged.from_rows(lists)
    order = np.array([3, 0, 1, 4, 3, 5])
    assert as_lists(rows.take(order)) == [lists[row] for row in order]
    cut = np.array([2, 0, 1, 2, 6, 0])
    expected = [lists[row][: len(lists[row]) - drop] for row, drop in zip(order, cut, strict=True)]
    assert as_lists(rows.take(order, drop_last=cut)) == expected
    assert as_lists(rows.take(np.zeros(0, np.int64))) == []


def test_a_sample_has_rows_at_even_distances():
    rows = Ragged.from_rows([[user] * 10 for user in range(1, 101)])
    assert rows.sample(1000) is rows
    sample = rows.sample(200)
    assert len(sample.values) == 200
    found = [row[0] for row in as_lists(sample)]
    assert found[0] == 1 and found[-1] == 100 and max(np.diff(found)) <= 6


@pytest.mark.parametrize('has_split', [False, True])
def test_fewer_users_are_tested_after_the_same_training(has_split):
    data = tiny_data()
    whole = leave_one_out(data)
    if has_split:
        data = dataclasses.replace(data, split=whole)
    split = split_of(data, 7)
    assert as_lists(split.train) == as_lists(whole.train)
    for few, all_users in ((split.validation, whole.validation), (split.test, whole.test)):
        assert len(few.targets) == len(few.users) == len(few.histories) == 7
        places = [all_users.users.tolist().index(user) for user in few.users.tolist()]
        assert few.targets.tolist() == all_users.targets[places].tolist()
        assert as_lists(few.histories) == [all_users.histories[p].tolist() for p in places]
        assert places[0] == 0 and places[-1] == len(all_users.users) - 1
    assert len(split_of(data, 1000).test.users) == len(whole.test.users)


def test_what_is_sampled_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(experiment_module, 'MOST_COUNTED', 500)
    config = small_config(train__num_epochs=1, eval__max_users=50, ensemble__counts=True)
    results = train(config, workdir=str(tmp_path)).results
    printed = capsys.readouterr().out
    assert 'validation and test: 50 users (eval.max_users)' in printed
    assert 'a sample of 4' in printed or 'a sample of 5' in printed
    counted = make_experiment(config).counted
    assert results['counted_events'] == len(counted.values) < 700
    # A run that is opened again adds the counts of the same sample.
    assert evaluate(load_run(tmp_path))['test'] == results['test']
    emkd.load(tmp_path).save(tmp_path / 'saved')
    saved, opened = (
        model.counts.model.scores(counted, np.arange(9))
        for model in (emkd.load(tmp_path / 'saved'), emkd.load(tmp_path))
    )
    assert np.array_equal(saved, opened)
    assert np.array_equal(saved, make_experiment(config).count_model.scores(counted, np.arange(9)))


def test_leave_one_out():
    rows = [[1, 2, 3], [4], [5, 6, 7, 8, 8], [9, 1], [2, 3, 4, 5]]
    split = leave_one_out(stand_in_with(rows))
    assert [row.tolist() for row in split.train] == [[1], [4], [5, 6, 7], [9, 1], [2, 3]]
    for part, left in ((split.validation, 2), (split.test, 1)):
        assert part.users.tolist() == [0, 2, 4]
        for place, user in enumerate(part.users):
            assert part.histories[place].tolist() == rows[user][:-left]
            assert part.targets[place] == rows[user][-left]


def stand_in_with(rows):
    return Dataset(
        name='x',
        histories=Ragged.from_rows(rows),
        item_attributes=np.zeros((10, 1), np.int32),
        num_items=9,
        num_attributes=0,
        user_ids=np.arange(len(rows)),
        item_ids=np.arange(9),
    )
