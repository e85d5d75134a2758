"""The configs say what the paper and the released code say, and every variant is a whole config."""

import importlib
import re

import pytest
from absl import flags
from ml_collections import config_flags

from emkd_jax.errors import UserError
from tests.support import ROOT

FOLDER = ROOT / 'configs'
SETS = ('beauty', 'ml_1m', 'toys')
VARIANTS = [(name, variant) for name in SETS for variant in ('', 'released', 'quick')]


def get_config(name, *variant):
    return importlib.import_module(f'configs.{name}').get_config(*variant)


def option_names(config):
    return {
        f'{room}.{option}'
        for room, options in config.to_dict().items()
        for option in (options if isinstance(options, dict) else [''])
    }


@pytest.mark.parametrize(
    ('name', 'max_len', 'dropout', 'temperature', 'num_heads', 'window_step'),
    [('beauty', 15, 0.3, 0.3, 2, 1), ('toys', 20, 0.3, 0.3, 2, 1), ('ml_1m', 40, 0.2, 1.0, 4, 10)],
)
def test_published_hyper_parameters(name, max_len, dropout, temperature, num_heads, window_step):
    for variant in ('', 'released'):
        config = get_config(name, variant)
        assert config.data.window_step == window_step
        assert config.model.max_len == max_len
        assert config.model.dropout == dropout
        assert config.model.num_heads == num_heads
        assert config.objective.temperature == temperature
        assert (config.model.hidden_dim, config.model.num_blocks) == (256, 2)
        assert (config.ensemble.num_networks, config.objective.num_views) == (3, 8)
        assert (config.objective.contrast_weight, config.objective.kd_weight) == (0.01, 0.001)
        assert (config.objective.mask_prob, config.objective.attribute_weight) == (0.15, 1)
        assert config.objective.self_contrast == 'zero'
        assert config.optimizer.learning_rate == 1e-3
        assert (config.train.batch_size, config.train.num_epochs) == (256, 250)
        assert (config.eval.rule, tuple(config.eval.ks)) == ('window', (1, 5, 10, 20))
        assert not config.data.stand_in


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
    config = get_config(name, variant)
    assert config.name == (f'{name}_{variant}' if variant else name)
    assert config.data.name == name
    base = importlib.import_module('emkd_jax.config').base_config()
    assert option_names(config) == option_names(base)
    assert get_config(name) == get_config(name, '')


@pytest.mark.parametrize('name', SETS)
def test_quick_is_small_and_runs_without_real_data(name):
    quick, published = get_config(name, 'quick'), get_config(name)
    assert quick.data.stand_in
    assert quick.data.source == ''
    assert quick.model.hidden_dim < published.model.hidden_dim
    assert quick.objective.num_views < published.objective.num_views
    assert quick.train.num_epochs < published.train.num_epochs
    assert quick.eval.first_epoch <= quick.train.num_epochs


@pytest.mark.parametrize('name', [*SETS, 'quickstart'])
def test_an_unknown_variant_is_refused_on_the_command_line_too(name):
    with pytest.raises(UserError, match=rf"configs/{name}.py has no variant.*'fast'"):
        get_config(name, 'fast')
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    with pytest.raises(UserError, match="'fast'"):
        values(['launch.py', f'--config={FOLDER / name}.py:fast'])
    values(['launch.py', f'--config={FOLDER / name}.py'])
    assert values.config.name == name


@pytest.mark.parametrize('name', [*SETS, 'quickstart'])
def test_a_config_opens_with_its_commands_needs_time_and_score(name):
    told = importlib.import_module(f'configs.{name}').__doc__
    commands = re.findall(r'python launch\.py --config=configs/(\w+)\.py(?::(\w+))?', told)
    assert {variant for _, variant in commands} == (
        {''} if name == 'quickstart' else {'', 'released', 'quick'}
    )
    assert {file for file, _ in commands} == {name}
    for word in ('Needs:', 'Takes:', 'Expect'):
        assert word in told
