"""The studies: what they compare, how sure they are, and one from training to report."""

import json
import math

import jax
import numpy as np
import pytest

from emkd_jax.analysis import study as study_room
from emkd_jax.analysis.statistics import paired_bootstrap
from emkd_jax.analysis.study import study
from emkd_jax.analysis.study_cost import cost_of
from emkd_jax.analysis.study_designs import QUESTIONS
from emkd_jax.errors import UserError
from emkd_jax.runs.experiment import make_experiment
from tests.support.runs import small_config


def test_the_bootstrap_agrees_with_the_normal_approximation():
    differences = np.random.default_rng(0).choice([-1.0, 0, 0, 1], 4000, p=[0.2, 0.3, 0.25, 0.25])
    found = paired_bootstrap(differences)
    error = differences.std() / 4000**0.5
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.1 * error)
    assert found.p == pytest.approx(math.erfc(found.value / error / 2**0.5), abs=0.01)


def test_no_difference_is_never_significant():
    assert paired_bootstrap(np.zeros(50)).p == 1
    assert paired_bootstrap(np.array([1.0, -1.0] * 50)).p > 0.5


def test_the_sign_tells_who_is_better():
    assert paired_bootstrap(np.full(50, 0.2)).p < 0.001
    assert paired_bootstrap(np.full(50, -0.2)).high < 0


@pytest.mark.parametrize('question', QUESTIONS)
def test_pairs_are_of_systems(question):
    systems, pairs = QUESTIONS[question](small_config())
    names = [system.name for system in systems]
    assert len(set(names)) == len(names)
    assert {name for pair in pairs for name in pair} == set(names)


def test_runs_of_one_shape_train_together():
    config = small_config(train__num_seeds=2)

    def sizes(question):
        systems, _ = QUESTIONS[question](config)
        runs = {
            run.name: run
            for system in systems
            for seed in (0, 1)
            for run in [study_room._member(config, system, seed)]
        }
        return [len(group) for group in study_room._groups(list(runs.values()))]

    assert sizes('ablation') == [12]
    assert sizes('generality') == [4] * 5
    assert sizes('ensemble_size') == [2] * 5


def test_where_there_are_no_attributes_none_are_left_out():
    systems, _ = QUESTIONS['ablation'](small_config(objective__attribute_weight=0.0))
    assert 'without attributes' not in [system.name for system in systems]


@pytest.fixture(scope='module')
def answered(tmp_path_factory):
    """An ablation of two seeds, without its measurements, and its folder."""
    folder = tmp_path_factory.mktemp('studies') / 'ablation'
    with pytest.MonkeyPatch.context() as patch:
        cost = {'parameters': 1000, 'sequences/s': 5.0, 'users/s': 7.0}
        patch.setattr(study_room, 'cost_of', lambda experiment: cost)
        config = small_config(train__num_seeds=2, train__num_epochs=1)
        return study(config, str(folder), 'ablation'), folder


def test_a_study_reports_what_its_runs_found(answered):
    found, folder = answered
    assert json.loads((folder / 'study.json').read_text()) == json.loads(json.dumps(found))
    text = (folder / 'report.md').read_text()
    assert 'stand-in' in text
    assert (folder / 'systems.png').read_bytes().startswith(b'\x89PNG')
    systems = {system['name']: system for system in found['systems']}
    for name, slug in {'EMKD': 'as_configured', 'without distillation': 'kd_weight_0.0'}.items():
        of_seeds = [
            json.loads((folder / slug / f'seed_{seed}' / 'results.json').read_text())
            for seed in (0, 1)
        ]
        for metric in ('HR@10', 'NDCG@10'):
            expected = [results['test']['window'][metric] for results in of_seeds]
            assert systems[name]['test'][metric]['seeds'] == pytest.approx(expected)
            assert f'{np.mean(expected):.4f} ± ' in text
    for pair in found['comparisons']:
        means = [systems[pair[side]]['test']['HR@10']['mean'] for side in ('better', 'than')]
        assert pair['differences']['HR@10']['value'] == pytest.approx(means[0] - means[1])


def test_a_finished_study_is_shown_again(answered, capsys, monkeypatch):
    found, folder = answered
    monkeypatch.setattr(study_room, '_answer', None)
    config = small_config(train__num_seeds=2, train__num_epochs=1)
    assert study(config, str(folder), 'ablation') == json.loads(json.dumps(found))
    assert '| without ICL |' in capsys.readouterr().out


def test_another_question_needs_another_folder(answered):
    config = small_config(train__num_seeds=2, train__num_epochs=1)
    with pytest.raises(UserError, match='holds the study ablation; choose another --workdir'):
        study(config, str(answered[1]), 'ensemble_size')


def test_networks_alone_are_judged_by_the_mean_over_them():
    [system] = [s for s in QUESTIONS['generality'](small_config())[0] if s.name == 'hstu alone']
    runs = [study_room._member(small_config(), system, 0)]
    ranks = {runs[0].name: np.array([[1, 1, 1], [1, 20, 1], [3, 20, 20]])}
    scores = study_room._scores(system, {study_room._slug(system): runs}, ranks)
    np.testing.assert_allclose(scores['HR@10'], [[1, 0, 0.5]])
    np.testing.assert_allclose(scores['NDCG@10'], [[0.75, 0, 0.5]])


def test_costs_are_measured():
    experiment = make_experiment(small_config(ensemble__num_networks=1))
    cost = cost_of(experiment)
    params = experiment.state_shapes().params
    assert cost['parameters'] == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert cost['sequences/s'] > 0
    assert cost['users/s'] > 0


@pytest.mark.parametrize(
    'question, changes, sentence',
    [
        ('why', {}, "--study is 'why'; use ablation, generality, ensemble_size"),
        ('ablation', {'sweep__dropout': (0.1,)}, r'leave sweep\.\* and distill\.teacher out'),
        ('ensemble_size', {'distill__teacher': 'x'}, r'leave sweep\.\* and distill\.teacher out'),
        (
            'ablation',
            {'ensemble__num_networks': 1},
            r'ensemble\.num_networks is 1; take 2 at least',
        ),
        ('generality', {'train__num_seeds': 0}, r'train\.num_seeds is 0; it must be at least 1'),
    ],
)
def test_what_makes_no_sense_is_refused(question, changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        study(small_config(**changes), str(tmp_path / 'study'), question)
    assert not (tmp_path / 'study').exists()
