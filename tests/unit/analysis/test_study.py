"""The studies: what they compare, and one of them from training to report."""

import json
import math

import jax
import numpy as np
import pytest

from emkd_jax.analysis import study as study_module
from emkd_jax.analysis.speed import measure_cost
from emkd_jax.analysis.study import study
from emkd_jax.analysis.study_designs import DESIGNS
from emkd_jax.errors import UserError
from emkd_jax.model.encoders import ENCODERS
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.runs.trained import load_run
from tests.support.runs import small_config

PLAIN = {
    'objective__kd_weight': 0.0,
    'objective__contrast_weight': 0.0,
    'objective__attribute_weight': 0.0,
}


@pytest.mark.parametrize('design', DESIGNS)
def test_pairs_are_of_systems(design):
    _, systems, pairs = DESIGNS[design](small_config())
    names = [system.name for system in systems]
    assert len(set(names)) == len(names)
    assert {name for pair in pairs for name in pair} == set(names)


@pytest.mark.parametrize('task', ['auto', 'cloze', 'next_item'])
def test_encoders_are_compared_on_one_task(task):
    systems = DESIGNS['generality'](small_config(objective__task=task)).systems
    encoders = {system.changes['model.encoder'] for system in systems}
    assert encoders == {name for name, e in ENCODERS.items() if e.packs or task != 'next_item'}
    expected = 'cloze' if task == 'auto' else task
    assert {system.changes['objective.task'] for system in systems} == {expected}


def test_runs_of_one_shape_train_together():
    config = small_config(train__num_seeds=2)

    def sizes(design):
        systems = DESIGNS[design](config).systems
        runs = [run for system in systems for run in study_module._runs(config, system)]
        return [len(group) for group in study_module._groups(runs)]

    assert sizes('ablation') == [12]
    assert sizes('generality') == [4] * 7
    assert sizes('ensemble_size') == [2] * 5
    config.objective.kd_weight = config.objective.contrast_weight = 0.0
    assert sizes('ensemble_size') == [2]


@pytest.mark.parametrize(
    ('changes', 'names'),
    [
        ({'icl_weight': 0.0}, ['without CCL', 'without distillation', 'without attributes']),
        ({'contrast_weight': 0.0}, ['without distillation', 'without attributes']),
        ({'kd_weight': 0.0}, ['without ICL', 'without CCL', 'without attributes']),
        ({'attribute_weight': 0.0, 'contrast_weight': 0.0}, []),
    ],
)
def test_only_parts_that_are_used_are_left_out(changes, names):
    config = small_config(**{f'objective__{name}': value for name, value in changes.items()})
    systems = DESIGNS['ablation'](config).systems
    assert [system.name for system in systems] == ['EMKD', *names, 'plain ensemble']


@pytest.fixture(scope='module')
def answered(tmp_path_factory):
    """An ablation of two seeds, without its measurements, and its folder."""
    folder = tmp_path_factory.mktemp('studies') / 'ablation'
    with pytest.MonkeyPatch.context() as patch:
        cost = {'parameters': 1000, 'sequences/s': 5.0, 'users/s': 7.0}
        patch.setattr(study_module, 'measure_cost', lambda experiment: cost)
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
    monkeypatch.setattr(study_module, '_carry_out', None)
    config = small_config(train__num_seeds=2, train__num_epochs=1)
    assert study(config, str(folder), 'ablation') == json.loads(json.dumps(found))
    assert '| without ICL ' in capsys.readouterr().out


def test_another_question_needs_another_folder(answered):
    config = small_config(train__num_seeds=2, train__num_epochs=1)
    with pytest.raises(UserError, match='holds the study ablation; choose another --workdir'):
        study(config, str(answered[1]), 'ensemble_size')


def test_a_run_of_a_study_is_a_run_of_its_own(answered, monkeypatch):
    """The data of the study is kept once, in the folder of the study."""
    monkeypatch.setattr('emkd_jax.data.load', None)
    run = load_run(answered[1] / 'as_configured' / 'seed_1')
    assert run.config.seed == 1
    assert run.dataset.fingerprint == answered[0]['data']['fingerprint']


def test_networks_alone_are_judged_by_the_mean_over_them():
    [system] = [s for s in DESIGNS['generality'](small_config()).systems if s.name == 'hstu alone']
    ranks = np.array([[1, 1, 1], [1, 20, 1], [3, 20, 20]])
    scores = study_module._user_scores(system, [ranks])
    np.testing.assert_allclose(scores['HR@10'], [[1, 0, 0.5]])
    np.testing.assert_allclose(scores['NDCG@10'], [[0.75, 0, 0.5]])


def test_the_first_networks_of_a_plain_ensemble_are_a_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, 'measure_cost', lambda experiment: {'parameters': 1})
    monkeypatch.setattr(study_module, 'write_report', lambda folder, found: None)
    monkeypatch.setattr(study_module, 'markdown', lambda found: '')
    plain = {'objective__kd_weight': 0.0, 'objective__contrast_weight': 0.0}
    config = small_config(**plain, train__num_epochs=1)
    found = study(config, str(tmp_path / 'sizes'), 'ensemble_size')
    [folder] = (tmp_path / 'sizes' / 'num_networks_5').iterdir()
    results = json.loads((folder / 'results.json').read_text())
    one, *_, five = [system['test']['NDCG@10']['mean'] for system in found['systems']]
    assert one == pytest.approx(results['networks'][0]['window']['NDCG@10'])
    assert five == pytest.approx(results['test']['window']['NDCG@10'])
    assert one != five


def test_costs_are_measured(monkeypatch):
    monkeypatch.setattr('emkd_jax.analysis.speed._SECONDS', 0.1)
    experiment = make_experiment(small_config())
    cost = measure_cost(experiment)
    params = experiment.state_shapes().params
    assert cost['parameters'] == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert cost['sequences/s'] > 0
    assert cost['users/s'] > 0


@pytest.mark.parametrize(
    'design, changes, sentence',
    [
        ('why', {}, "--study is 'why'; it must be one of ablation, parts, generality"),
        ('ablation', {'sweep__dropout': (0.1,)}, r'leave sweep\.\* and distill\.teacher out'),
        ('ensemble_size', {'distill__teacher': 'x'}, r'leave sweep\.\* and distill\.teacher out'),
        (
            'ablation',
            {'ensemble__num_networks': 1},
            r'ensemble\.num_networks is 1; set it to 2 at least',
        ),
        (
            'ensemble_size',
            {'ensemble__members': 'hstu,gru4rec'},
            r'chooses the networks, and ensemble\.members=hstu,gru4rec names them',
        ),
        ('generality', {'ensemble__members': 'hstu,gru4rec'}, '--study=generality chooses the net'),
        ('ablation', PLAIN, '--study=ablation compares EMKD with a plain ensemble'),
        ('generality', PLAIN, 'or use --study=parts'),
        ('generality', {'train__num_seeds': 0}, r'train\.num_seeds is 0; it must be at least 1'),
    ],
)
def test_what_makes_no_sense_is_refused(design, changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        study(small_config(**changes), str(tmp_path / 'study'), design)
    assert not (tmp_path / 'study').exists()
