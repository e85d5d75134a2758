"""What a step costs, as XLA counts it: a ceiling that no change may break through unnoticed."""

import importlib.util
import json
import os
import re

import jax
import numpy as np
import pytest

from emkd_jax.config import get_config
from emkd_jax.data.dataset import Ragged
from emkd_jax.data.windows import windows
from emkd_jax.errors import UserError, install_command
from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.objective.catalogue_loss import BLOCK
from emkd_jax.planning.chips import CHIPS, Chip, device_chip, device_memory, roofline
from emkd_jax.planning.cost import Cost, compile_loss, step_cost
from emkd_jax.planning.plan import _largest_batch, plan
from emkd_jax.planning.topology import target_devices
from emkd_jax.training.dispatch import make_capacity
from tests.support import soak, tiny

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs the extra plan'
)
# Counted on one CPU: 12.1e9, 0.213e12 and 1.07e9.
CPU_BYTES, CPU_FLOPS, CPU_TEMPORARY = 12.6e9, 0.22e12, 1.1e9
# Counted for a small model on four TPU v5e: 41.5e6, 2.31e9 and 20.9e6.
TPU_BYTES, TPU_FLOPS, TPU_MEMORY = 44e6, 2.4e9, 22e6
# The size of Toys.
ITEMS, ATTRIBUTES, WINDOWS = 11_924, 1_027, 31_506


def cost_of(config, devices, platform, items=ITEMS, attributes=ATTRIBUTES, count=WINDOWS):
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 8, count) + 2, 20)
    ensemble = make_ensemble(
        config, items, attributes, platform, device_kind=devices[0].device_kind
    )
    return step_cost([config], ensemble, windows_of(lengths, config), 8, devices)


def windows_of(lengths, config):
    """A window for each history of these lengths."""
    ends = np.cumsum(lengths)
    histories = Ragged(np.ones(ends[-1], np.int32), np.append(0, ends))
    return windows(histories, config.model.max_len, 1)


def test_a_step_on_the_cpu_moves_no_more_than_it_did():
    cost = cost_of(get_config('toys', **{'train.batch_size': 32}), jax.devices()[:1], 'cpu')
    assert cost.bytes_accessed < CPU_BYTES
    assert cost.flops < CPU_FLOPS
    assert cost.temporary < CPU_TEMPORARY


@needs_libtpu
def test_a_step_on_a_tpu_moves_no_more_than_it_did():
    options = {
        'train.batch_size': 64,
        'model.num_blocks': 1,
        'model.hidden_dim': 128,
        'objective.num_views': 1,
        'ensemble.num_networks': 2,
    }
    with target_devices('v5e:2x2') as devices:
        cost = cost_of(get_config('toys', **options), devices, 'tpu', 2500, 100, 5000)
    assert cost.bytes_accessed < TPU_BYTES
    assert cost.flops < TPU_FLOPS
    assert cost.memory < TPU_MEMORY


@needs_libtpu
@pytest.mark.soak
@pytest.mark.skipif(not soak.FILE, reason='compiles for minutes; set EMKD_SOAK')
def test_a_step_of_full_size_on_a_tpu_moves_no_more_than_it_did():
    with target_devices('v5e:2x2') as devices:
        cost = cost_of(get_config('toys', **{'train.batch_size': 1024}), devices, 'tpu')
    assert cost.bytes_accessed < 5.5e9
    assert cost.memory < 3e9


def small_config(**changes):
    """A configuration that compiles fast."""
    fast = {'model__num_blocks': 1, 'objective__num_views': 1, 'objective__attribute_weight': 0.0}
    return tiny.tiny_config(**fast | changes)


def test_every_block_of_the_catalogue_counts():
    """XLA counts a loop's body once; the step's cost must grow with the catalogue all the same."""
    config, device = small_config(objective__contrast_weight=0.0), jax.devices()[0]
    rows = windows_of(np.full(100, 8), config)

    def cost_of(blocks):
        ensemble = make_ensemble(config, BLOCK * blocks - 1, 1, 'cpu')
        return step_cost([config], ensemble, rows, 1, [device])

    more, fewer = cost_of(12), cost_of(4)
    weights = 3 * BLOCK * config.model.hidden_dim
    positions = make_capacity(config.objective, np.full(100, 8), 8).all_views
    # Embeddings, kernels and biases; see `finite.are_finite_on_cpus`.
    checked = 2 * 3 * BLOCK * (2 * config.model.hidden_dim + 1)
    # Forward once and backward thrice.
    assert more.flops - fewer.flops == 8 * (positions * 4 * 2 * weights + checked)
    # The weights are read in each pass, and their gradients are written; Adam reads and writes.
    assert more.bytes_accessed - fewer.bytes_accessed > 8 * 4 * weights * 10


def test_memory_of_the_loss_does_not_grow_with_the_catalogue():
    ensemble = make_ensemble(tiny.tiny_config(), 10, 1, 'cpu')
    small, large = (
        compile_loss(ensemble, 64, BLOCK * blocks, jax.devices()[0]).memory_analysis()
        for blocks in (4, 64)
    )
    assert large.temp_size_in_bytes < 1.1 * small.temp_size_in_bytes


def test_the_roofline_is_the_slower_side():
    chip = CHIPS['TPU v5 lite']
    memory_bound = roofline(chip, chip.flops / 100, chip.bandwidth / 10, 50)
    assert memory_bound == {'roofline_ms': 100.0, 'binds': 'memory', 'sequences_per_second': 500}
    assert roofline(chip, chip.flops, chip.bandwidth / 10, 50)['binds'] == 'compute'
    assert roofline(None, 1.0, 1.0, 1) == {}


@pytest.fixture
def tiny_plan(monkeypatch):
    monkeypatch.setattr('emkd_jax.planning.plan.make_experiment', tiny.tiny_experiment)
    return plan


def test_a_chip_of_two_devices_is_shared():
    class Core:
        device_kind = 'TPU v4'

        def __init__(self, *coords):
            self.coords = coords

    cores = [Core(chip, 0, 0) for chip in (0, 0, 1, 1)]
    assert device_chip.__wrapped__(cores).memory == CHIPS['TPU v4'].memory / 2


def test_the_report_of_the_devices_at_hand(tiny_plan, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, Chip(1e12, 1e11, 2.0**34))
    config = small_config()
    report = tiny_plan(config, str(tmp_path / 'run'), '')
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == report == json.loads((tmp_path / 'run/plan.json').read_text())
    assert report['fits']
    assert report['devices'] == len(jax.devices())
    assert report['hbm_bytes'] > report['temporary_bytes'] > 0
    assert report['largest_batch'] > config.train.batch_size
    assert report['largest_batch'] % len(jax.devices()) == 0
    assert report['roofline_ms'] > 0
    made = tiny.tiny_experiment(config)
    per_epoch = -(-len(made.rows) // config.train.batch_size)
    assert report['steps'] == config.train.num_epochs * per_epoch
    assert report['device_hours'] == pytest.approx(
        report['steps'] * report['roofline_ms'] / 3.6e6 * jax.device_count()
    )
    assert report['data_bytes'] == 4 * len(made.rows.values) + 8 * len(made.rows)


def test_runs_that_train_together_are_counted_together(tiny_plan, capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, Chip(1e12, 1e11, 2.0**34))
    alone = tiny_plan(small_config(), '', '')
    three = tiny_plan(
        small_config(train__num_seeds=3, sweep__dropout=(0.1, 0.2), train__max_together=3), '', ''
    )
    assert three['runs'] == 3
    assert 2.9 < three['flops'] / alone['flops'] < 3.1
    assert three['temporary_bytes'] > 2 * alone['temporary_bytes']
    assert three['largest_batch'] < 0.7 * alone['largest_batch']
    same_speed = three['sequences_per_second'] / alone['sequences_per_second']
    assert 0.5 < same_speed < 2
    assert '3, each with this batch' in capsys.readouterr().out


def test_a_student_is_not_planned(tiny_plan):
    config = small_config(ensemble__num_networks=1, distill__teacher='somewhere')
    with pytest.raises(UserError, match='distill.teacher'):
        tiny_plan(config, '', '')


def test_what_does_not_fit_is_said(tiny_plan, capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, Chip(1e12, 1e11, 1000.0))
    report = tiny_plan(small_config(), '', '')
    assert report['fits'] is False
    assert report['largest_batch'] == 0
    assert 'does not fit' in capsys.readouterr().out


def test_the_largest_batch_is_compiled_and_fits():
    """Memory that grows faster than the batch, as that of the contrast does."""
    asked = []

    def cost_of(batch_size):
        asked.append(batch_size)
        temporary = 10 * batch_size + batch_size**2 // 500
        return Cost(0.0, 0.0, 100 + temporary, temporary, 0, 0.0)

    most = _largest_batch(cost_of, 8, 4, cost_of(8), 20_000.0)
    assert most in asked
    assert most % 4 == 0
    assert cost_of(most).memory <= 20_000 < cost_of(int(1.06 * most)).memory
    assert _largest_batch(cost_of, 8, 4, cost_of(8), 50.0) == 0


def test_the_largest_batch_where_a_part_does_not_grow():
    def cost_of(batch_size):
        temporary = 1000 + 10 * batch_size
        return Cost(0.0, 0.0, temporary, temporary, 0, 0.0)

    assert 1800 < _largest_batch(cost_of, 8, 4, cost_of(8), 20_000.0) <= 1900


def test_the_largest_batch_where_the_compiler_gives_up():
    def cost_of(batch_size):
        return Cost(0.0, 0.0, batch_size, batch_size, 0, 0.0) if batch_size <= 42 else None

    assert _largest_batch(cost_of, 64, 8, None, 42.0) == 40


def test_memory_of_a_cpu_is_the_machines():
    assert device_memory(jax.devices()) * len(jax.devices()) > 2**28


@needs_libtpu
def test_planning_for_a_tpu_leaves_the_process_as_it_was():
    environment, platforms = dict(os.environ), jax.config.jax_platforms
    with target_devices('v5e:2x2') as devices:
        assert len(devices) == 4
        assert device_memory(devices) == CHIPS['TPU v5 lite'].memory
    assert (dict(os.environ), jax.config.jax_platforms) == (environment, platforms)
    with pytest.raises(UserError), target_devices('v5e:two'):
        pass
    assert (dict(os.environ), jax.config.jax_platforms) == (environment, platforms)


@needs_libtpu
@pytest.mark.parametrize('topology', ['v9:2x2', 'v5e:two'])
def test_a_topology_that_does_not_exist_is_refused(topology):
    with pytest.raises(UserError, match=f'--topology={topology}'), target_devices(topology):
        pass


def test_without_the_compiler_the_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with (
        pytest.raises(UserError, match=re.escape(install_command('[plan]'))),
        target_devices('v5e:2x2'),
    ):
        pass
