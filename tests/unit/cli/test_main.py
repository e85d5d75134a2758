"""The command line: help, modes, mistakes, and what importing the package does not do."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import emkd_jax
from emkd_jax.cli import arguments as typed
from emkd_jax.cli import compiler
from emkd_jax.cli import main as cli
from emkd_jax.config import get_config
from emkd_jax.errors import UserError
from tests.support import ROOT
from tests.support.runs import lines


def last_line(capsys):
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    return err.strip().splitlines()[-1]


def test_help_is_one_screen_with_every_mode(capsys):
    assert cli.main(['--help']) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 50
    assert max(map(len, out.splitlines())) <= 100
    for mode in cli.MODES:
        assert f'  {mode} ' in out


def test_without_its_requirements_a_checkout_says_how_to_install_them():
    command = [sys.executable, '-S', 'launch.py', '--help']  # without installed packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(
        r'\w+ is not installed; run: .* install .*-r requirements\.txt\n', done.stderr
    )


def test_version(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'emkd-jax {emkd_jax.__version__}\n'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--config or --workdir is missing; try --config=movielens'),
        (['recommend'], '--config or --workdir is missing'),
        (['--mode=serf'], '--mode=serf is not known; use one of train, '),
        (['--config=tyos'], "no configuration 'tyos'"),
        (
            ['reccommend', '--workdir=x'],
            "'reccommend' is not a mode; the first word is one of train",
        ),
        (['--config=toys', 'stray'], "'stray' is not an option"),
        (['--config=toys', '--config.train.batchsize=3'], 'did you mean train.batch_size?'),
        (
            ['--config=toys', '--config.train.batch_size=x'],
            '=x: it must be a whole number, such as ',
        ),
        (['--config=toys', '--config.model.dropout=x'], '=x: it must be a number, such as 0'),
        (['--config=toys', '--ouput=x'], "'ouput'. Did you mean: output"),
        (['--config=toys', '--epochs=3'], 'in full, here --config.train.num_epochs=VALUE.'),
        (['--config=toys', '--lr=1'], 'in full, here --config.optimizer.learning_rate=VALUE.'),
        (['--config=toys', '--data.source=x'], 'in full, here --config.data.source=VALUE.'),
        (['--config=toys', '--from=x', '--mode=plan'], '--from belongs to --mode=train'),
        (['--from=nowhere'], 'nowhere holds no run'),
        (['train', '--workdir=nowhere'], 'nowhere holds no run; train one with --config=NAME'),
        (['--config=toys', '--output=x'], '--output belongs to --mode=recommend'),
        (['--config=toys', '--config.model.dropout=2'], 'model.dropout is 2.0; it must be less'),
        (
            [
                '--config=toys:best',
                '--config.ensemble.members=hstu,bsarec',
                '--config.ensemble.num_networks=3',
            ],
            'ensemble.num_networks is 3, and ensemble.members=hstu,bsarec names 2 networks',
        ),
        (
            ['--config=toys:best', '--config.objective.icl_weight=0.05'],
            'objective.icl_weight is 0.05 and has no effect, since objective.contrast_weight',
        ),
        (
            ['--config=beauty:best', '--config.model.encoder=hstu'],
            'model.encoder is hstu, and ensemble.members=sasrec_plus,bsarec,hstu names the enc',
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in last_line(capsys)


@pytest.mark.parametrize(
    ('arguments', 'mode', 'config', 'rest'),
    [
        (['recommend', '--workdir=w'], 'recommend', '', ['--workdir=w']),
        (['--mode', 'plan', '--config', 'toys'], 'plan', 'toys', []),
        (['--config.seed', '3', '--config=toys'], 'train', 'toys', ['--config.seed=3']),
        (['--strict', '--mode=recommend'], 'recommend', '', ['--strict']),
        (['--requests', '-', 'x'][:2], 'train', '', ['--requests=-']),
    ],
)
def test_flags_may_be_written_in_several_ways(arguments, mode, config, rest):
    assert typed.split(arguments) == (mode, config, rest)


def test_compiled_programs_are_kept_unless_the_user_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '1')
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'true')
    monkeypatch.setenv('XDG_CACHE_HOME', f'{tmp_path}/cache')
    compiler.set_compilation_cache('')
    assert os.environ['JAX_COMPILATION_CACHE_DIR'].startswith(
        f'{tmp_path}/cache/emkd_jax/compiled/'
    )
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/mine')
    compiler.set_compilation_cache('')
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == '/mine'
    compiler.set_compilation_cache(f'{tmp_path}/other')
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == f'{tmp_path}/other'
    compiler.set_compilation_cache('none')
    assert os.environ['JAX_ENABLE_COMPILATION_CACHE'] == 'false'


def test_without_a_folder_that_can_be_made_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'true')
    with pytest.raises(UserError, match=r'--compilation_cache=.*file/a cannot be used .Not a dir'):
        compiler.set_compilation_cache(f'{tmp_path}/file/a')
    monkeypatch.setenv('XDG_CACHE_HOME', f'{tmp_path}/file')
    compiler.set_compilation_cache('')
    assert os.environ['JAX_ENABLE_COMPILATION_CACHE'] == 'false'
    assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_every_mode_has_its_function():
    for mode in cli.MODES.values():
        assert callable(cli._load(mode)), mode


def test_importing_the_package_starts_nothing_and_loads_little():
    code = (
        'import os, sys; before = dict(os.environ); import emkd_jax; dir(emkd_jax); '
        'from emkd_jax import get_config; get_config("toys"); '
        'heavy = {"jax", "torch", "tensorflow_datasets", "orbax", "tensorboardX", "duckdb"}; '
        'assert not heavy & set(sys.modules), heavy & set(sys.modules); '
        'assert dict(os.environ) == before; '
        'import emkd_jax.runs.loop, emkd_jax.serving.model; '
        'heavy = {"torch", "tensorflow_datasets", "tensorboardX", "matplotlib"}; '
        'assert not heavy & set(sys.modules), heavy & set(sys.modules); '
        'import jax._src.xla_bridge as bridge; assert not bridge._backends'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    for name in emkd_jax.__all__:
        assert getattr(emkd_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        emkd_jax.missing  # noqa: B018


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (
            ['model.encoder=hstu', 'objective.mask_prob=0.5'],
            'objective.mask_prob, since .*=cloze reads it',
        ),
        (['train.row_width=100'], 'train.row_width, since .*=cloze; .*=next_item reads it'),
        (['model.encoder=mine:Encoder', 'train.row_width=100'], ''),
        (['model.encoder=hstu', 'objective.task=cloze', 'objective.mask_prob=0.5'], ''),
        (['objective.mask_prob=0.5'], ''),
    ],
)
def test_options_of_the_other_task_are_told(capsys, arguments, told):
    flags = [f'--config.{argument}' for argument in arguments]
    typed.parse(flags, get_config('toys'), cli.MODES['train'])
    found = capsys.readouterr().err
    assert re.search(f'^without effect: {told}', found) if told else not found


def test_a_student_of_networks_of_different_kinds_may_have_any_encoder():
    argument = '--config.model.encoder=gru4rec'
    given = typed.parse([argument], get_config('beauty:best'), cli.MODES['distill'])
    assert given.config.model.encoder == 'gru4rec'


def test_a_run_goes_on_from_its_workdir_alone(finished, tmp_path, monkeypatch):
    workdir = tmp_path / 'run'
    shutil.copytree(finished[1], workdir)
    monkeypatch.setattr('emkd_jax.data.load', None)  # the data is in the workdir
    monkeypatch.setattr('emkd_jax.runs.cluster.join', lambda *_: None)  # JAX has begun already
    assert cli.main(['train', f'--workdir={workdir}', '--config.train.num_epochs=4']) == 0
    assert [event['epoch'] for event in lines(workdir, 'train')] == [1, 2, 3, 4]


def test_data_that_is_named_is_not_that_of_the_workdir(finished, monkeypatch, capsys):
    def load(_):
        raise UserError('The data that was named.')

    monkeypatch.setattr('emkd_jax.data.load', load)
    monkeypatch.setattr('emkd_jax.runs.cluster.join', lambda *_: None)
    assert cli.main(['train', f'--workdir={finished[1]}', '--config.data.stand_in=True']) == 2
    assert last_line(capsys) == 'The data that was named.'
