"""A student of a trained ensemble: trained, compared, and used as any run is."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from emkd_jax.cli.main import main
from emkd_jax.config.checks import set_options
from emkd_jax.errors import UserError
from emkd_jax.runs.distill import compare, distill, in_words
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.loop import train
from emkd_jax.runs.teacher import load_teacher
from emkd_jax.runs.trained import evaluate, load_run
from tests.support.runs import small_config


def comparison(student):
    return json.loads((student.folder / 'distillation.json').read_text())


def test_a_student_is_a_run_of_its_own(finished, capsys):
    results, folder = finished
    student = distill(load_run(folder))
    assert f'serve --workdir={folder}/student' in capsys.readouterr().out
    found = comparison(student)
    assert found['test']['teacher'] == results['test']['window']
    assert student.folder == folder / 'student'
    assert student.config.model.dropout == 0 < load_run(folder).config.model.dropout
    tested = evaluate(student)
    assert tested['test']['window'] == found['test']['student']
    assert len(tested['networks']) == 1


def test_a_student_may_have_other_options_but_no_other_data(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[1], tmp_path / 'run')
    asked, output = [], str(tmp_path / 'smaller')
    monkeypatch.setattr('emkd_jax.runs.cluster.join', lambda *where: None)
    monkeypatch.setattr('emkd_jax.runs.distill.distill', lambda run, *more: asked.append(more))
    arguments = ['--config.train.num_epochs=9', f'--output={output}']
    assert main(['distill', f'--workdir={folder}', *arguments]) == 0
    assert asked[0][0].train.num_epochs == 9
    assert asked[0][1] == output
    options = load_run(folder).config
    options.data.window_step = 7
    with pytest.raises(UserError, match=r'data\.window_step: 1 -> 7 would change it; leave it out'):
        distill(load_run(folder), options)


def test_the_dropout_of_a_student_has_an_option_of_its_own(finished):
    teacher = load_run(finished[1])
    options = teacher.config.copy_and_resolve_references()
    options.model.dropout = 0.2
    with pytest.raises(UserError, match=r'set --config\.distill\.dropout=0\.2 instead'):
        distill(teacher, options)


def test_several_students_are_an_ensemble(finished, tmp_path):
    teacher, folder = load_run(finished[1]), str(tmp_path / 'students')
    options = teacher.config.copy_and_resolve_references()
    options.distill.num_networks, options.train.num_epochs = 2, 1
    found = comparison(distill(teacher, options, folder))
    tested = evaluate(load_run(folder))
    assert found['test']['students'] == tested['test']['window']
    alone = [network['window']['NDCG@10'] for network in tested['networks']]
    assert len(set(alone)) == 2
    assert found['test']['one of the students']['NDCG@10'] == pytest.approx(np.mean(alone))
    options.distill.num_networks = 1
    with pytest.raises(UserError, match=r'num_networks: 2 -> 1.*choose another --output'):
        distill(teacher, options, folder)


@pytest.mark.parametrize(
    'option, value, words',
    [
        ('num_networks', 3, 'not ensemble.num_networks, .*set --config.distill.num_networks=3'),
        ('members', 'sasrec,hstu', 'other than 1 students; set --config.distill.num_networks=2'),
    ],
)
def test_the_number_of_students_has_an_option_of_its_own(finished, option, value, words):
    teacher = load_run(finished[1])
    options = teacher.config.copy_and_resolve_references()
    options.ensemble[option] = value
    with pytest.raises(UserError, match=words):
        distill(teacher, options)


@pytest.fixture
def options_of_students(monkeypatch):
    """Returns the options with which `distill` would train."""

    def of(teacher, **changes):
        class ReachedError(Exception):
            pass

        def stop(config, *_):
            raise ReachedError(config)

        monkeypatch.setattr('emkd_jax.runs.distill.train', stop)
        options = teacher.config.copy_and_resolve_references()
        set_options(options, {name.replace('__', '.'): value for name, value in changes.items()})
        with pytest.raises(ReachedError) as reached:
            distill(teacher, options)
        return reached.value.args[0]

    return of


@pytest.mark.parametrize('students, members', [(1, ''), (2, 'sasrec,hstu')])
def test_students_have_the_encoders_of_as_many_teachers(
    finished, tmp_path, options_of_students, students, members
):
    folder = shutil.copytree(finished[1], tmp_path / 'run')
    stored = json.loads((folder / 'config.json').read_text())
    stored['ensemble']['members'] = 'sasrec,hstu'
    (folder / 'config.json').write_text(json.dumps(stored))
    options = options_of_students(load_run(folder), distill__num_networks=students)
    assert options.ensemble.members == members


@pytest.mark.parametrize(
    'changes, first, every, patience',
    [
        ({'train__num_epochs': 8}, 1, 1, 4),
        ({'train__num_epochs': 70}, 4, 4, 16),
        ({'train__num_epochs': 70, 'eval__every_epochs': 3}, 1, 3, 0),
    ],
)
def test_students_are_validated_early(
    finished, options_of_students, changes, first, every, patience
):
    options = options_of_students(load_run(finished[1]), **changes)
    found = options.eval.first_epoch, options.eval.every_epochs, options.train.patience
    assert found == (first, every, patience)


def test_what_is_kept_is_the_share_of_the_gain():
    def of(value):
        return {'window': {'HR@10': value, 'NDCG@10': 0.5}}

    teacher = {'test': of(0.4), 'networks': [of(0.1), of(0.3)]}
    found = compare(teacher, {'test': of(0.35), 'networks': [of(0.35)]}, 'window')
    assert found['test']['one of its networks'] == {'HR@10': pytest.approx(0.2), 'NDCG@10': 0.5}
    assert found['kept'] == {'HR@10': pytest.approx(0.75), 'NDCG@10': None}


@pytest.mark.parametrize(
    'kept, words',
    [
        (None, 'no better than'),
        (-0.6, 'nothing of the gain'),
        (0.75, '75% of the gain'),
        (2.97, 'all of the gain of the ensemble is kept, and more'),
    ],
)
def test_what_is_kept_is_said_in_words(kept, words):
    test = {'teacher': 0.5, 'one of its networks': 0.3, 'student': 0.45}
    said = in_words('HR@10', {name: {'HR@10': value} for name, value in test.items()}, kept)
    assert said.startswith('HR@10 of the student: +0.1500 to one of the networks, -0.0500 to')
    assert words in said


def student_config(teacher, **changes):
    return small_config(ensemble__num_networks=1, distill__teacher=str(teacher), **changes)


def test_a_teacher_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r'distill\.teacher=.* cannot teach: .* holds no run'):
        load_teacher(make_experiment(student_config(tmp_path)))


def test_a_teacher_must_have_finished(finished, tmp_path):
    folder = shutil.copytree(finished[1], tmp_path / 'run')
    (folder / 'results.json').unlink()
    with pytest.raises(UserError, match='holds no finished run; train the teacher'):
        distill(load_run(folder))


def test_a_teacher_that_sees_less_is_refused(finished, tmp_path):
    config = student_config(finished[1], model__max_len=12)
    with pytest.raises(UserError, match=r'10 items, .*--config\.model\.max_len=10'):
        train(config, workdir=str(tmp_path / 'student'))
    assert not (tmp_path / 'student').exists()


def test_a_teacher_of_other_items_is_refused(finished, tmp_path):
    experiment = make_experiment(student_config(finished[1]))
    data = dataclasses.replace(
        experiment.data,
        num_items=151,
        item_ids=np.arange(151),
        item_attributes=np.pad(experiment.data.item_attributes, ((0, 1), (0, 0))),
    )
    with pytest.raises(UserError, match=r'holds a run on other data \(its fingerprint'):
        load_teacher(dataclasses.replace(experiment, data=data))


def test_a_student_with_other_cut_offs_is_compared_where_it_can_be():
    def results(**values):
        return {'test': {'window': values}, 'networks': [{'window': dict.fromkeys(values, 0.1)}]}

    found = compare(
        results(**{'HR@1': 0.2, 'NDCG@10': 0.3}), results(**{'NDCG@10': 0.2, 'HR@5': 0.1}), 'window'
    )
    assert found['kept'] == pytest.approx({'NDCG@10': 0.5})
