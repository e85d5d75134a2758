"""The configs say what the paper and the released code say, and every variant is a whole config."""

import importlib
import json
import math
import pathlib
import re

import numpy as np
import pytest

from emkd_jax import config
from emkd_jax.config import checks, options, stored
from emkd_jax.errors import UserError

SETS = ('beauty', 'ml_1m', 'toys')
VARIANTS = [(name, variant) for name in SETS for variant in ('', 'released', 'quick')]


def get_config(name, *variant):
    return importlib.import_module(f'configs.{name}').get_config(*variant)


def option_names(made):
    return {
        f'{room}.{option}'
        for room, options in made.to_dict().items()
        for option in (options if isinstance(options, dict) else [''])
    }


@pytest.mark.parametrize(
    ('name', 'max_len', 'dropout', 'temperature', 'num_heads', 'window_step'),
    [('beauty', 15, 0.3, 0.3, 2, 1), ('toys', 20, 0.3, 0.3, 2, 1), ('ml_1m', 40, 0.2, 1.0, 4, 10)],
)
def test_published_hyper_parameters(name, max_len, dropout, temperature, num_heads, window_step):
    for variant in ('', 'released'):
        made = get_config(name, variant)
        assert made.data.window_step == window_step
        assert made.model.max_len == max_len
        assert made.model.dropout == dropout
        assert made.model.num_heads == num_heads
        assert made.objective.temperature == temperature
        assert (made.model.hidden_dim, made.model.num_blocks) == (256, 2)
        assert (made.ensemble.num_networks, made.objective.num_views) == (3, 8)
        assert (made.objective.contrast_weight, made.objective.kd_weight) == (0.01, 0.001)
        assert (made.objective.mask_prob, made.objective.attribute_weight) == (0.15, 1)
        assert made.objective.self_contrast == 'zero'
        assert made.optimizer.learning_rate == 1e-3
        assert (made.train.batch_size, made.train.num_epochs) == (256, 250)
        assert (made.eval.rule, tuple(made.eval.ks)) == ('window', (1, 5, 10, 20))
        assert not made.data.stand_in


@pytest.mark.parametrize('name', SETS)
def test_released_differs_in_the_quirks_alone(name):
    published, released = (get_config(name, variant).to_dict() for variant in ('', 'released'))
    differing = {
        f'{room}.{option}': value
        for room, options in released.items()
        if isinstance(options, dict)
        for option, value in options.items()
        if value != published[room][option]
    }
    assert differing == {
        'model.dtype': 'float32',
        'ensemble.shared_init': True,
        'eval.first_epoch': 102,
        'eval.every_epochs': 1,
    }


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_every_variant_is_named_and_has_the_options_of_the_base(name, variant):
    made = get_config(name, variant)
    assert made.name == (f'{name}_{variant}' if variant else name)
    assert made.data.name == name
    assert option_names(made) == option_names(config.base_config())
    assert get_config(name) == get_config(name, '')


@pytest.mark.parametrize('name', SETS)
def test_quick_is_small_and_trains_on_real_data(name):
    quick, published = get_config(name, 'quick'), get_config(name)
    assert not quick.data.stand_in
    assert quick.model.hidden_dim < published.model.hidden_dim
    assert quick.objective.num_views < published.objective.num_views
    assert quick.train.num_epochs < published.train.num_epochs
    assert quick.eval.first_epoch <= quick.train.num_epochs


@pytest.mark.parametrize('name', [*SETS, 'quickstart'])
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(UserError, match=rf"configs/{name}.py has no variant.*'fast'"):
        config.get_config(f'{name}:fast')
    assert config.get_config(name).name == name
    assert config.get_config(f'configs/{name}.py').name == name


def test_options_are_changed_by_name_and_mistakes_are_named():
    changed = config.get_config('custom:quick', **{'train.num_epochs': 60, 'eval.ks': (5, 10)})
    assert (changed.train.num_epochs, tuple(changed.eval.ks)) == (60, (5, 10))
    for name, value, message in (
        ('train.batchsize', 3, r'no option train\.batchsize \(did you mean train\.batch_size'),
        ('dropout', 0.1, r'did you mean model\.dropout'),
        ('model.n_layers', 3, r'did you mean model\.num_blocks'),
        ('data.items', 'items.csv', r'did you mean data\.attributes'),
        ('train.batch_size', 'many', r"train\.batch_size is 'many'; it must be of the type int"),
    ):
        with pytest.raises(UserError, match=message):
            config.get_config('custom', **{name: value})
    config.get_config(
        'toys', **{'model.encoder': 'hstu', 'objective.task': 'cloze', 'objective.num_views': 2}
    )
    config.get_config(
        'toys:best', **{'objective.icl_weight': 0.1, 'sweep.contrast_weight': (0.0, 0.1)}
    )
    with pytest.warns(match=r'without effect: train\.row_width'):
        config.get_config('toys', **{'train.row_width': 32})
    with pytest.raises(UserError, match='ccl_weight is 0.1 and has no effect'):
        config.get_config('toys:best', **{'objective.ccl_weight': 0.1})
    members = {'ensemble.members': 'hstu,bsarec'}
    config.get_config('toys:best', **members)
    with pytest.raises(
        UserError, match=r'num_networks is 1, and ensemble\.members=hstu,bsarec names 2'
    ):
        config.get_config('toys:best', **members, **{'ensemble.num_networks': 1})
    with pytest.raises(UserError, match=r"no configuration 'tyos'; use one of beauty, custom"):
        config.get_config('tyos')


def test_a_notebook_gives_numbers_of_numpy_and_paths():
    given = {
        'train.num_epochs': np.int64(3),
        'model.dropout': np.float32(0.25),
        'eval.ks': np.array([5, 10]),
        'sweep.dropout': [np.float64(0.1), 0.2],
        'data.source': pathlib.Path('events.csv'),
        'data.attribute_columns': ['brand', 'colour'],
        'ensemble.members': ('hstu', 'bsarec'),
    }
    made = config.get_config('custom', **given)
    checks.check_config(made)
    assert made.train.num_epochs == 3 and made.model.dropout == 0.25
    assert made.data.source == 'events.csv'
    assert made.data.attribute_columns == 'brand,colour' and made.ensemble.members == 'hstu,bsarec'
    json.dumps(stored.to_json(made))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('model.dropout', 1.0, 'less than 1'),
        ('model.max_len', 0, 'at least 1'),
        ('objective.temperature', 0.0, 'more than 0'),
        ('objective.mask_prob', math.nan, 'more than 0'),
        ('eval.rule', 'all', 'one of window, history, none'),
        ('eval.ks', (5,), '10 among them'),
        ('seed', 2**31, 'at most'),
        ('sweep.dropout', ('a',), 'a list of numbers'),
        ('data.max_bad_lines', -1, 'at least 0'),
        ('data.split', 'random', 'one of leave_one_out, time'),
        ('export.weights', 'onnx', "one of '', safetensors, npz, pth"),
    ],
)
def test_a_value_out_of_range_is_named(name, value, message):
    changed = config.get_config('custom', **{name: value})
    with pytest.raises(UserError, match=f'{name} is .*{message}'):
        checks.check_config(changed)


def test_an_error_in_a_config_file_is_not_taken_for_a_wrong_option(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('def get_config():\n    return object().missing\n')
    with pytest.raises(UserError, match=r"mine\.py cannot be used \(AttributeError: .*'missing'"):
        config.get_config(file)


def test_a_configuration_comes_back_from_json():
    written = config.get_config('custom:quick', **{'sweep.dropout': (0.1, 0.2)})
    tree = json.loads(json.dumps(stored.to_json(written)))
    assert stored.from_json(tree) == written
    del tree['export']  # an option that did not exist then has its default
    assert stored.from_json(tree) == written


def test_only_options_that_change_results_are_compared():
    before = stored.to_json(config.get_config('toys'))
    same = config.get_config('toys', **{'data.source': 'x', 'recommend.k': 3})
    assert stored.differences(before, stored.to_json(same)) == []
    other = config.get_config('toys', **{'train.num_epochs': 3})
    assert stored.differences(before, stored.to_json(other)) == ['train.num_epochs: 250 -> 3']


def test_every_option_says_what_it_means():
    for name, option in (options.OPTIONS | options.EVENT_LOG_OPTIONS).items():
        assert option.meaning.endswith(('.', ')')) and option.meaning[0].isupper(), name


@pytest.mark.parametrize('name', [*SETS, 'quickstart'])
def test_a_config_opens_with_its_commands_needs_time_and_score(name):
    told = importlib.import_module(f'configs.{name}').__doc__
    commands = re.findall(r'python launch\.py --config=configs/(\w+)\.py(?::(\w+))?', told)
    assert {variant for _, variant in commands} == (
        {''} if name == 'quickstart' else {'', 'best', 'released', 'quick'}
    )
    assert {file for file, _ in commands} == {name}
    for word in ('Needs:', 'Takes:', 'Expect'):
        assert word in told
