"""The two sides of a benchmark, with a stand-in for the authors' code that needs no PyTorch."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from configs import quickstart, toys
from emkd_jax.analysis.benchmark import memory, report, sides
from emkd_jax.analysis.benchmark.arguments import arguments, dataset_code
from emkd_jax.analysis.benchmark.clone import link_data, open_clone
from emkd_jax.analysis.benchmark.compare import benchmark
from emkd_jax.analysis.benchmark.protocol import Child
from emkd_jax.errors import UserError
from emkd_jax.runs.experiment import make_experiment
from tests.support import QUICK_TO_COMPILE, ROOT
from tests.support.clones import COUNTS, make_clone


def _config(**changes):
    config = toys.get_config('quick')
    config.update(
        {
            'data': {'stand_in': True},
            'model': {'max_len': 4, 'hidden_dim': 8, 'num_blocks': 1},
            'objective': {'num_views': 1},
            'train': {'batch_size': 16},
        }
    )
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.fixture
def child(tmp_path):
    """A process that answers in every way there is."""
    (tmp_path / 'side.py').write_text("""
import os, signal, time
from emkd_jax.analysis.benchmark.protocol import serve
from emkd_jax.errors import UserError

class Side:
    def echo(self, value):
        print('noise')
        os.system('echo noise of a library')
        return value

    def work(self):
        sum(range(3_000_000))
        return time.process_time()

    def refuse(self):
        raise UserError('Do it otherwise.')

    def fail(self, what):
        raise RuntimeError(what)

    def leave(self):
        os._exit(3)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

serve(Side())
""")
    log = tmp_path / 'side.log'
    with Child('The side', 'side', log, cwd=tmp_path, advice='take less') as side:
        yield side


def test_child_answers_between_noise(child, tmp_path):
    assert child.ask('echo', value={'a': [1, None]}) == {'a': [1, None]}
    assert child.ask('echo', value=2) == 2
    assert (tmp_path / 'side.log').read_text().count('noise of a library') == 2


def test_idle_time_is_told_from_work(child):
    child.ask('echo', value=1)
    worked = child.ask('work')
    child.ask('echo', value=1)
    assert child.idle_cpu_seconds < worked / 4


@pytest.mark.parametrize(
    ('command', 'arguments', 'sentence'),
    [
        ('refuse', {}, r'^Do it otherwise\.$'),
        ('fail', {'what': 'no such luck'}, r'The side failed \(RuntimeError: no such luck\); see'),
        ('fail', {'what': 'CUDA out of memory.'}, r'The side ran out of memory; take less\.'),
        ('die', {}, 'The side was killed, most likely because the memory is full; take less'),
        ('leave', {}, r'The side ended with code 3; see .*side\.log'),
    ],
)
def test_child_that_cannot_go_on(child, command, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        child.ask(command, **arguments)


def test_child_that_is_gone(child):
    with pytest.raises(UserError):
        child.ask('die')
    with pytest.raises(UserError, match='was killed'):
        child.ask('echo', value=1)


def test_ratios_are_of_pairs():
    measured = report.ratios([20.0, 60.0, 40.0], [10.0, 20.0, 40.0])
    assert measured == {
        'speedup': 2.0,
        'speedup_min': 1.0,
        'speedup_max': 3.0,
        'speedups': [2.0, 3.0, 1.0],
    }


def _blocks(*seconds, what='sequences'):
    return [{'steps': 2, what: 64, 'seconds': s} for s in seconds]


def test_summary_of_two_sides(capsys):
    summary = report.summarise(
        {'emkd_jax': _blocks(1.0, 2.0, 1.0), 'original': _blocks(8.0, 8.0, 4.0)},
        {'emkd_jax': _blocks(1.0, 1.0, what='users'), 'original': _blocks(40.0, what='users')},
        {'emkd_jax': {'host': 10**9, 'device': 5}, 'original': {'host': 4 * 10**9, 'device': None}},
    )
    assert summary['speedups'] == [8.0, 4.0, 4.0]
    assert summary['speedup'] == 4.0
    assert summary['sequences_per_second'] == {'emkd_jax': 64.0, 'original': 8.0}
    assert summary['step_seconds'] == {'emkd_jax': 0.5, 'original': 4.0}
    assert summary['evaluation_speedup'] == 40.0
    report.print_summary(summary)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ['training,', 'sequences/s', '64.0', '8.0', '4']
    assert lines[4].split() == ['peak', 'host', 'memory,', 'GB', '1.00', '4.00', '0.25']
    assert 'device' not in lines[5]  # one side could not tell
    assert '3 pairs' in lines[-1]


def test_summary_of_this_code_alone(capsys):
    summary = report.summarise(
        {'emkd_jax': _blocks(1.0, 2.0)},
        {'emkd_jax': _blocks(1.0, what='users')},
        {'emkd_jax': {'host': 10**9, 'device': None}},
    )
    assert summary['speedup'] is summary['evaluation_speedup'] is None
    assert summary['sequences_per_second'] == {'emkd_jax': 48.0}
    report.print_summary(summary)
    assert 'ratio' not in capsys.readouterr().out


def test_clone_is_checked(tmp_path):
    with pytest.raises(UserError, match=r'is not a clone of hw-du/EMKD \(there is no options\.py'):
        open_clone(str(tmp_path), 'toys')
    clone = make_clone(tmp_path)
    assert open_clone(str(clone), 'toys') == (clone, None, None)
    with pytest.raises(UserError, match='has no Data/preprocessed/beauty_'):
        open_clone(str(clone), 'beauty')


def test_clone_knows_its_commit(tmp_path):
    clone = make_clone(tmp_path)

    def git(*words):
        env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
        env['GIT_CONFIG_GLOBAL'] = os.devnull
        who = '-c', 'user.name=a', '-c', 'user.email=a@b'
        return subprocess.run(
            ['git', *who, *words], cwd=clone, env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'all')
    assert open_clone(str(clone), 'toys')[1:] == (git('rev-parse', 'HEAD'), False)
    git('read-tree', '--empty')  # as after a checkout that ended early
    assert not open_clone(str(clone), 'toys').modified
    with open(clone / 'trainers/bert.py', 'a') as file:
        file.write('# changed\n')
    assert open_clone(str(clone), 'toys').modified


def test_original_is_driven_and_left_as_it_was(tmp_path):
    clone, workplace = make_clone(tmp_path / 'clone'), tmp_path / 'workplace'
    workplace.mkdir()
    link_data(open_clone(str(clone), 'toys'), workplace)
    before = _files(clone)
    given = arguments(_config(train__batch_size=20, ensemble__num_networks=4))
    with Child(
        'It',
        'emkd_jax.analysis.benchmark.pytorch_side',
        tmp_path / 'log',
        cwd=workplace,
        env={'PYTHONDONTWRITEBYTECODE': ''},
    ) as original:
        about = original.ask(
            'set_up',
            clone=str(clone),
            dataset_code='toys',
            device='cpu',
            arguments=given,
            tuned=False,
        )
        blocks = [original.ask('train', seconds=0, min_steps=n) for n in (2, 1, 2)]
        one_batch = original.ask('evaluate', max_batches=1)
        whole = original.ask('evaluate')
        peaks = original.ask('memory')
    assert about['counts'] == COUNTS
    # 50 windows in batches of 20: the third is short, and the next epoch follows.
    assert [(b['steps'], b['sequences']) for b in blocks] == [(2, 40), (1, 10), (2, 40)]
    assert (one_batch['users'], whole['users']) == (256, 600)
    assert peaks['host'] > 1e6
    assert peaks['device'] is None
    seen = json.loads((workplace / 'seen.json').read_text())
    assert seen['template_was_set'] == 'train_bert'
    assert (seen['dataset_code'], seen['device']) == ('toys', 'cpu')
    assert seen['N'] == 4
    assert seen['bert_hidden_units'] == 8
    assert _files(clone) == before


def _set_up(tmp_path, **arguments_changed):
    with Child(
        'It', 'emkd_jax.analysis.benchmark.pytorch_side', tmp_path / 'log', cwd=tmp_path
    ) as original:
        original.ask(
            'set_up',
            clone=str(tmp_path),
            dataset_code='toys',
            device='cpu',
            arguments=arguments(_config()) | arguments_changed,
            tuned=False,
        )


def test_module_the_original_lacks(tmp_path):
    (make_clone(tmp_path) / 'models/__init__.py').write_text('import a_module_nobody_has')
    with pytest.raises(UserError, match=r"'a_module_nobody_has'.*pip install '.*\[torch\]'"):
        _set_up(tmp_path)
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    lines = [*project['optional-dependencies']['torch'], *(ROOT / 'requirements.txt').open()]
    installed = {re.match(r'[\w-]*', line).group() for line in lines}
    assert installed >= {'torch', 'tensorboard', 'numpy', 'pandas', 'scipy', 'tqdm', 'wget'}


def test_other_version_of_the_original(tmp_path):
    make_clone(tmp_path)
    with pytest.raises(UserError, match=r'has no argument no_such; check out the released code'):
        _set_up(tmp_path, no_such=1)


def test_configuration_in_the_originals_words():
    given = arguments(toys.get_config())
    assert given['bert_max_len'] == 20
    assert given['num_positive'] == 8
    assert given['mu'] == 0.001
    assert given['lambda_'] == 0.01
    assert given['train_batch_size'] == 256
    assert arguments(toys.get_config('released')) == given


@pytest.mark.parametrize(
    'change',
    [
        {'objective__attribute_weight': 0.5},
        {'objective__self_contrast': 'excluded'},
        {'model__encoder': 'sasrec'},
    ],
)
def test_what_the_original_cannot_do_is_refused(change):
    (name,) = change
    with pytest.raises(UserError, match=f'cannot do {name.replace("__", ".")}='):
        arguments(_config(**change))


def test_data_the_original_does_not_have_is_refused():
    with pytest.raises(UserError, match='no data set quickstart'):
        dataset_code(quickstart.get_config())


def test_peak_memory_is_this_processs():
    before = memory.peak_host_bytes()
    array = np.ones(before // 8 + 16_000_000)  # more than there ever was
    assert memory.peak_host_bytes() > before + 8 * 15_000_000
    del array


def test_original_at_full_batch_is_too_big_for_24_gigabytes():
    counts = {'users': 19_412, 'items': 11_924}
    config = toys.get_config()
    assert memory.original_host_bytes(config, counts) > 30e9
    config.train.batch_size = 32
    assert 7e9 < memory.original_host_bytes(config, counts) < 10e9


def _start_original(tmp_path, config, platform='cpu', counts=COUNTS):
    clone = open_clone(str(make_clone(tmp_path / 'clone')), 'toys')
    with contextlib.ExitStack() as stack:
        sides.start_original(
            stack, clone, config, {'platform': platform, 'counts': counts}, False, tmp_path
        )


def test_too_little_memory_is_told_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sides, 'available_host_bytes', lambda: 24 * 10**9)
    counts = {'users': 19_412, 'items': 11_924}
    with pytest.raises(UserError, match=r'about 37 GB .* 24 GB are free; .*batch_size=32'):
        _start_original(tmp_path, toys.get_config(), counts=counts)
    assert not (tmp_path / 'benchmark_original.log').exists()


def test_original_has_no_tpu(tmp_path):
    with pytest.raises(UserError, match='does not run on a TPU'):
        _start_original(tmp_path, _config(), platform='tpu')


def test_other_data_is_refused(tmp_path):
    counts = COUNTS | {'windows': 51}
    with pytest.raises(UserError, match=r'\(51 windows here, 50 in .*--config.data.source='):
        _start_original(tmp_path, _config(), counts=counts)


def test_tuning_needs_something_to_tune(tmp_path):
    with pytest.raises(UserError, match='--pytorch_repo'):
        benchmark(_config(), str(tmp_path), torch_tuned=True)


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='--workdir'):
        benchmark(_config(), str(tmp_path / 'file'))


def test_both_sides_in_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing_prepared'))
    monkeypatch.setenv('XLA_FLAGS', QUICK_TO_COMPILE)  # one device
    monkeypatch.chdir(tmp_path)
    config = _config()
    counts = make_experiment(config).counts
    clone = make_clone(tmp_path / 'clone', counts)
    benchmark(config, '', str(clone), pairs=2, block_seconds=0.0)
    workdir = tmp_path / 'runs/toys_quick_stand_in'
    lines = capsys.readouterr().out.splitlines()
    assert [bool(re.fullmatch(r'about \d+ s left', line)) for line in lines].count(True) == 2
    printed = json.loads(lines[-1])
    assert printed == json.loads((workdir / 'benchmark.json').read_text())
    assert printed['sizes'] == counts
    assert printed['stand_in']
    assert len(printed['speedups']) == 2
    assert printed['speedup_min'] <= printed['speedup'] <= printed['speedup_max']
    assert {len(blocks) for blocks in printed['training'].values()} == {2}
    for blocks in printed['training'].values():
        assert all(b['steps'] >= 3 and b['sequences'] > 32 for b in blocks)
    assert all(p['users'] == counts['users'] for p in printed['evaluation']['emkd_jax'])
    assert printed['versions']['jax']
    assert printed['config'] == json.loads(config.to_json_best_effort())


def test_mistake_in_the_flags_is_one_sentence(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'launch.py',
            '--config=configs/toys.py',
            '--mode=benchmark',
            f'--pytorch_repo={tmp_path}',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f'--pytorch_repo={tmp_path} is not a clone of hw-du/EMKD')
    assert done.stderr.count('\n') == 1
